"""Which tars of a folder are WebDataset shards, and of which split, by their names and those of their folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppvit.core.errors import PpvitError
from ppvit.datasets.source import warn
from ppvit.datasets.splits import split_of
from ppvit.datasets.trees import Entry, entries
from ppvit.datasets.understood import note_on_links

_SHARD = re.compile(r".*\.(tar|tar\.gz|tgz)")


@dataclass(frozen=True)
class Shards:
    """Shards by split, a single split "" if the names tell none; and what was decided of them."""

    by_split: dict[str, list[Path]]
    notes: tuple[str, ...] = ()


def find_shards(path: Path) -> Shards:
    """The shards at ``path``, which is one of them or a folder.

    Raises:
        PpvitError: there are none, shards of several data sets, none to train on, or names that say two things.
    """
    found = [] if path.is_file() else list(entries(path))
    paths = [path] if path.is_file() else sorted(_tars(found))
    split_by: dict[str, list[Path]] = {}
    sets: dict[tuple[Path, frozenset[str]], set[str]] = {}
    for shard in paths:
        split, of = _split_of(shard, path) if path.is_dir() else ("", (path, frozenset()))
        split_by.setdefault(split, []).append(shard)
        sets.setdefault(of, set()).add(split)
    notes = note_on_links([entry.name for entry in found if entry.is_linked_folder])
    if not paths:
        raise PpvitError(f"{path} holds no shards; expected are files such as train-000000.tar and test-000000.tar")
    several = [of for of, splits in sets.items() if "train" in splits and len(splits - {""}) > 1]
    if len(several) > 1:
        first, second = (
            f"'{' '.join((str(folder.relative_to(path)), *sorted(rest)))}'" for folder, rest in several[:2]
        )
        raise PpvitError(
            f"{path} holds train and test shards of {first} and of {second}; set dataset.path to one of them"
        )
    if not split_by.keys() & {"val", "test"}:
        return Shards({"": paths}, tuple(notes))
    if "train" not in split_by:
        held = "test" if "test" in split_by else "val"
        raise PpvitError(f"{path} holds {held} shards but no train shards; add train-*.tar")
    if unused := split_by.pop("", []):
        warn(f"{path}: {len(unused)} shards belong to no split and were ignored, such as {unused[0].name}")
    if "test" not in split_by:
        split_by["test"] = split_by.pop("val")
        notes.append("val is used as the test split, since there is no other")
    return Shards({split: split_by[split] for split in ("train", "val", "test") if split in split_by}, tuple(notes))


def _tars(found: list[Entry]) -> Iterator[Path]:
    for entry in found:
        if entry.path is not None and not entry.is_folder and _SHARD.fullmatch(entry.parts[-1]):
            if entry.dangling:
                raise PpvitError(f"{entry.path} links to nothing; bring back what it points to, or remove it")
            yield entry.path


def _split_of(shard: Path, path: Path) -> tuple[str, tuple[Path, frozenset[str]]]:
    """The split of a shard, by its own name or that of the nearest folder; and which data set it is of.

    Raises:
        PpvitError: both say something else.
    """
    own, rest = split_of(shard.name.partition(".")[0])
    for folder in shard.relative_to(path).parents:
        split, others = split_of(folder.name)
        if split is None:
            continue
        if own is None:
            return split, (path / folder.parent, others)
        if split != own and not others:
            raise PpvitError(f"{shard}: its name says {own}, its folder {split}; rename one of them")
        if split == own:
            return own, (path / folder.parent, rest)
    return own or "", (shard.parent, rest)
