"""The order of an epoch: every image once, or as many of each class; nothing but seed and epoch decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppvit.data.batches import epoch_batches
from ppvit.data.labels import LabelSets
from ppvit.data.sampling import epoch_order

STRATA = np.array([0] * 20 + [1] * 3 + [4] * 7)  # no class 2 and 3


@given(st.integers(1, 60), st.integers(0, 99), st.integers(0, 5))
def test_shuffled_takes_every_image_once(count, seed, epoch):
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(count, seed, epoch))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99), st.integers(1, 6))
def test_balanced_takes_as_many_of_every_class(labels, seed, epochs):
    strata = np.array(labels)
    for epoch in range(epochs):
        order = epoch_order(len(strata), seed, epoch, strata)
        assert len(order) == len(strata)
        counts = np.bincount(strata[order], minlength=5)[np.unique(strata)]
        assert counts.max() - counts.min() <= 1
    # over all epochs no image comes once more often than another of its class
    taken = np.concatenate([epoch_order(len(strata), seed, epoch, strata) for epoch in range(epochs)])
    for stratum in np.unique(strata):
        times = np.bincount(taken, minlength=len(strata))[strata == stratum]
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}])
def test_seeds_and_epochs_differ(change):
    asked = {"count": len(STRATA), "seed": 3, "epoch": 1, "strata": STRATA}
    assert not np.array_equal(epoch_order(**asked), epoch_order(**asked | change))
    np.testing.assert_array_equal(epoch_order(**asked), epoch_order(**asked))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_balanced_batches_are_the_same_over_processes(world):
    whole = epoch_batches(len(STRATA), 8, 0, 1, strata=STRATA)
    parts = [epoch_batches(len(STRATA), 8, 0, 1, rank, world, strata=STRATA) for rank in range(world)]
    for number, batch in enumerate(whole):
        together = np.empty_like(batch)
        for rank in range(world):
            together[rank::world] = parts[rank][number]
        np.testing.assert_array_equal(together, batch)


def test_the_strata_of_label_sets_are_their_rarest_labels():
    carried = np.zeros((30, 3), bool)
    carried[:20, 0] = carried[:2, 1] = True  # two images of label 1, which carry label 0 too; ten carry nothing
    strata = LabelSets(3).strata(carried)
    order = epoch_order(30, 0, 0, strata)
    assert np.bincount(strata[order], minlength=4).tolist() == [10, 10, 0, 10]
