"""The page on backbones, from what `backbones.py` found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version

from table import markdown

WAYS = {
    "tables": "in stored tables: plain timm loads the adapted model",
    "order": "by an order behind the patch projection: only ppvit loads it, plain timm stops",
}
TOTALS = ["", "architectures", "with weights"]
CLASSES = ["class", "way", "plain timm", "sides of patches", "architectures", "with weights", "largest difference"]
REASONS = ["class", "why", "architectures", "with weights"]
EACH = ["architecture", "class", "patch", "way", "difference", "moved blocks", "run with"]
ABOUT = """# Backbones: which take a key exactly

{0} of timm's {1} architectures (in brackets: those that timm has pretrained weights of) take every cipher that has an
affine map, among them the default: the adapted model computes on encrypted images what the plain model computes on
plain ones. Set `model.name` to one of them, `cipher.block_size` to the side of its patches and `dataset.image_size` to
a size that it takes. An adapted model is for images of one size; ppvit refuses others. Plain timm does not where it
loads the folder: asked for another `img_size`, or for `dynamic_img_size`, it resamples permuted positions silently.

A block of ciphertext must reach a token alone, so the first layer decides: kernels as large as the step between them,
no padding, three colours. The order of the blocks is then undone in one of two ways. Where all that tells a network the
places of patches is stored parameters (a learned position embedding, the weights of an MLP-Mixer between patches),
these are permuted. Everywhere else, be it rotary or relative positions, windows or convolutions, the patch projection
puts the patches back in order, by a list that is saved with it. **Neither hides the key** from whoever has the adapted
model: see `ppvit audit`. Small patches make small keys besides: with patches of 4 pixels a block has 48 values.

`ppvit adapt` prints which way it took and whether plain timm loads the folder. Where it says that timm stops, timm does
so with an error, whatever number of classes it is asked for."""
EVERY = """`difference` is the largest one of logits between the plain model on plain images and the adapted one on
encrypted ones, in float64; `moved blocks` is how far logits move when blocks of the ciphertext change places. Random
weights, every parameter moved by noise of 0.02, `block_np`, few blocks and small images, as the last column says."""


@dataclass
class Row:
    """What was found of an architecture.

    Attributes:
        name, kind: the architecture and its class in timm.
        weights: whether timm has weights of it.
        way: ``tables``, ``order``, ``refused``, or ``not run``.
        patch: side of the patches in pixels.
        difference: largest difference of logits in float64.
        matters: how far logits move when blocks change places.
        timm: whether plain timm ``loads`` the folder, and computes the same, or ``stops``.
        reason: why it is refused, or was not run.
        how: sizes and depths that it was run with.
    """

    name: str
    kind: str
    weights: bool
    way: str
    patch: int = 0
    difference: float = 0.0
    matters: float = 0.0
    timm: str = ""
    reason: str = ""
    how: str = ""


def page(rows: list[Row]) -> str:
    """docs/backbones.md."""
    exact = [found for found in rows if found.way in WAYS]
    refused = [found for found in rows if found.way == "refused"]
    others = [found for found in rows if found.way == "not run"]
    parts = [
        ABOUT.format(counted(exact), counted(rows)),
        markdown([TOTALS, *([title, *totals(group)] for title, group in grouped_by_way(rows).items())], text_columns=1),
        "## Exact, by class of timm",
        markdown([CLASSES, *by_class(exact)], text_columns=4),
        "## Refused, by class of timm",
        markdown([REASONS, *by_reason(refused)], text_columns=2),
        "## Every architecture that is exact",
        EVERY,
        markdown([EACH, *map(line, exact)], text_columns=2),
        "## Every architecture that is refused",
        *(f"**{kind}**: {reason}. {', '.join(names)}." for (kind, reason), names in named(refused).items()),
    ]
    if others:
        parts += ["## Not run", *(f"{each.name}: {each.reason}." for each in others)]
    versions = f"timm {version('timm')} and torch {version('torch')}"
    when = f"Made by `python studies/backbones.py` on {date.today()} with {versions}."
    return "\n\n".join([*parts, when]) + "\n"


def line(found: Row) -> list[str]:
    measured = [figure(found.difference), figure(found.matters)]
    return [found.name, found.kind, str(found.patch), found.way, *measured, found.how]


def counted(rows: list[Row]) -> str:
    return f"{len(rows):,} ({sum(each.weights for each in rows):,})"


def totals(rows: list[Row]) -> list[str]:
    return [f"{len(rows):,}", f"{sum(each.weights for each in rows):,}"]


def grouped_by_way(rows: list[Row]) -> dict[str, list[Row]]:
    groups = {title: [each for each in rows if each.way == way] for way, title in WAYS.items()}
    groups = {"**exact**": [each for each in rows if each.way in WAYS]} | groups
    rest = {"refused": "refused", "not run": "not run"}
    return groups | {title: found for way, title in rest.items() if (found := [e for e in rows if e.way == way])}


def by_class(rows: list[Row]) -> Iterator[list[str]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for each in rows:
        groups.setdefault((each.kind, each.way), []).append(each)
    for (kind, way), found in sorted(groups.items()):
        sides = ", ".join(str(side) for side in sorted({each.patch for each in found}))
        loads = ", ".join(sorted({each.timm for each in found}))
        worst = max(each.difference for each in found)
        yield [kind, way, loads, sides, *totals(found), figure(worst)]


def by_reason(rows: list[Row]) -> Iterator[list[str]]:
    for (kind, reason), names in named(rows).items():
        known = [each for each in rows if each.name in names]
        yield [kind, reason, *totals(known)]


def named(rows: list[Row]) -> dict[tuple[str, str], list[str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for each in sorted(rows, key=lambda each: (each.kind, each.reason)):
        groups.setdefault((each.kind, each.reason), []).append(each.name)
    return groups


def figure(value: float) -> str:
    return f"{value:.0e}" if value else "0"
