"""Telling the user what their data set was understood as: splits, classes, numbers of images, what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppvit.core.errors import printable
from ppvit.datasets.class_names import remarks

_NAMED = 20  # classes that are listed one by one
_LEFT_OUT = 5  # folders
_LETTERS = 60  # of a class name


def tell(
    where: str,
    classes: Sequence[str],
    counts: Mapping[str, Mapping[int, int]],
    places: Mapping[str, str],
    left_out: Mapping[str, int],
    notes: Sequence[str] = (),
    images: Mapping[str, int] | None = None,
) -> None:
    """Print it, a line for each split.

    Args:
        where: the data set.
        classes: names, in order of their numbers.
        counts: split -> class number -> images.
        places: split -> where it comes from.
        left_out: folder or file -> images in it that are in no split.
        notes: sentences without a full stop.
        images: split -> images, where an image may be of several classes.
    """
    sizes = images or {split: sum(of.values()) for split, of in counts.items()}
    called = "classes" if images is None else "labels"
    lines = [f"{where}: {_images(sum(sizes.values()))} of {len(classes):,} {called}"]
    lines += [f"  {split:<5} {sizes[split]:>9,} from {place}" for split, place in places.items()]
    most = sorted(left_out.items(), key=lambda each: -each[1])
    lines += [f"  not used: {_images(count)} in {folder}" for folder, count in most[:_LEFT_OUT]]
    if len(most) > _LEFT_OUT:
        rest = sum(count for _, count in most[_LEFT_OUT:])
        lines.append(f"  not used: {_images(rest)} in {len(most) - _LEFT_OUT} more folders")
    lines += [f"  {note}" for note in notes]
    lines += _by_class(classes, counts, called)
    lines += [f"  {remark}" for remark in remarks(classes)]
    print("\n".join(printable(line) for line in lines))


def note_on_links(folders: Sequence[str]) -> list[str]:
    """What to know of folders that are links, if there are any."""
    if not folders:
        return []
    first, more = ", ".join(folders[:_LEFT_OUT]), len(folders) - _LEFT_OUT
    told = f"{first} and {more} more" if more > 0 else first
    return [
        f"DVC sees no changes in folders that are links ({told}): after one, dvc repro --force --single-item download"
    ]


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _by_class(classes: Sequence[str], counts: Mapping[str, Mapping[int, int]], called: str) -> list[str]:
    """Images by class, in the order of the splits; of many classes the smallest and the largest."""

    def told(label: int) -> str:
        name = classes[label] if len(classes[label]) <= _LETTERS else f"{classes[label][: _LETTERS - 1]}…"
        return f"{name} ({' + '.join(f'{split.get(label, 0):,}' for split in counts.values())})"

    splits = " + ".join(counts)
    if len(classes) <= _NAMED:
        return [f"  {called} ({splits}): {', '.join(told(label) for label in range(len(classes)))}"]
    by_size = sorted(range(len(classes)), key=lambda label: sum(split.get(label, 0) for split in counts.values()))
    return [f"  {called} ({splits}): smallest {told(by_size[0])}, largest {told(by_size[-1])}"]
