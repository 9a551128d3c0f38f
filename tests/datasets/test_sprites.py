"""The drawn stand-in for dSprites: areas and places by geometry, classes as VTAB cuts them, named as a stand-in."""

import io
import math
from collections import Counter

import numpy as np
import pytest
from image_files import fill, open_at
from PIL import Image

from ppvit.config import NO_DATA
from ppvit.core.errors import UsageError
from ppvit.datasets import open_source, sprites

# of a half side of 1: 2 x 2; pi 4/3 2/3; the heart curve has 3.6619729 at size 7/8
AREAS = (4.0, math.pi * 8 / 9, 3.6619729 * (7 / 8) ** 2)


def factors(**changed):
    return {"shape": 0, "scale": 5, "orientation": 0, "x": 10, "y": 20} | changed


def opened(**choices):
    return open_source("dsprites_standin", NO_DATA, "cache", 0.2, 0, **choices)


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize("scale", [0, 5])
@pytest.mark.parametrize("orientation", [0, 7])
def test_areas_are_those_of_geometry(shape, scale, orientation):
    image = sprites.drawn(factors(shape=shape, scale=scale, orientation=orientation))
    assert set(np.unique(image)) == {0, 255}
    assert (image > 0).sum() == pytest.approx(AREAS[shape] * (5 + scale) ** 2, rel=0.08)


@pytest.mark.parametrize("shape", [0, 1])
def test_shapes_lie_where_the_factors_say(shape):
    image = sprites.drawn(factors(shape=shape, x=3, y=29))
    rows, columns = np.nonzero(image)
    assert columns.mean() + 0.5 == pytest.approx(16 + 3, abs=0.1)
    assert rows.mean() + 0.5 == pytest.approx(16 + 29, abs=0.1)


@pytest.mark.parametrize("shape", range(3))
def test_orientations_are_fortieths_of_a_turn(shape):
    """Ten are a right angle, about the centre of the image here."""
    centred = [sprites.drawn(factors(shape=shape, x=16, y=16, orientation=turn)) for turn in (0, 10)]
    different = (np.rot90(centred[0], -1) != centred[1]).mean()  # a pixel at the edge may fall to either side
    assert different < 0.005
    ahead = sprites.drawn(factors(shape=shape, x=16, y=16, orientation=1))
    assert (ahead != centred[0]).any()


def test_every_shape_is_whole():
    for shape in range(3):
        for place in (0, 31):
            image = sprites.drawn(factors(shape=shape, x=place, y=place, orientation=5))
            assert not np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).any()


def test_splits_share_no_combination_and_have_every_class():
    chosen = [tuple(each.values()) for each in sprites.combinations(3_000)]
    assert len(set(chosen)) == 3_000
    for subset, (factor, values) in sprites.TASKS.items():
        source = opened(subset=subset)
        for split, count in sprites.COUNTS.items():
            start = {"train": 0, "val": 800, "test": 1_000}[split]
            labels = [sprites.label(subset, each) for each in sprites.combinations(3_000)[start : start + count]]
            assert set(labels) == set(range(16))
            first = next(iter(getattr(source, split)()))
            assert first.label == labels[0]
            np.testing.assert_array_equal(
                np.asarray(Image.open(io.BytesIO(first.image))), sprites.drawn(sprites.combinations(start + 1)[-1])
            )
        assert values == sprites.FACTORS[factor]


def test_classes_are_cut_as_vtab_does():
    assert [sprites.label("location", {"x": x}) for x in range(32)] == [x // 2 for x in range(32)]
    turns = [sprites.label("orientation", {"orientation": turn}) for turn in range(40)]
    assert turns == [math.floor(turn / 2.5) for turn in range(40)]
    assert set(Counter(turns).values()) == {2, 3}


def test_it_says_that_it_is_a_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert opened().description == "drawn stand-in for dSprites, location"
    with pytest.raises(UsageError, match=r"dsprites_standin has location, orientation, but no 'x'"):
        opened(subset="x")
    with pytest.raises(UsageError, match="takes no dataset.path; dSprites itself are dataset.name=vtab_dsprites_loc"):
        open_at(fill(tmp_path, "a.png"), "dsprites_standin")
