"""Which files of a Hugging Face data set are of which split.

Folders as people have them::

    data/train-00000-of-00002.parquet  data/test-00000-of-00001.parquet  README.md      from the hub, one configuration
    <configuration>/train-00000-of-00001.parquet                                        several
    datasets--owner--name/snapshots/<revision>/...                                      the hub's cache; files are links
    dataset_dict.json  train/state.json  train/data-00000-of-00001.arrow                save_to_disk
    name-train.arrow  name-test.arrow                                                   the cache of load_dataset

The configurations that README.md names say which files are whose; their patterns are compared with the names of the
files that are there, so nothing outside the folder and nothing on the network is ever read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.nearest import closest
from ppvit.core.reading import read_bounded, read_json
from ppvit.datasets.splits import split_of

ENDINGS = (".parquet", ".arrow")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]{8,})?$")  # with a hash, by older versions of datasets
_NUMBER = re.compile(r"([-_. ]*\d+)+$")
_CARD_BYTES = 2**24  # of README.md
_MOST_FILES = 2**17


@dataclass(frozen=True)
class Parts:
    """The files of one configuration.

    Attributes:
        root: the folder that names in messages are relative to.
        splits: files in order, by ``train``, ``val`` and ``test``; or all under ``""``, where nothing divides them.
        card: what README.md says of the configuration under ``dataset_info``.
        notes: what was decided, for the user.
    """

    root: Path
    splits: dict[str, list[Path]]
    card: dict[str, Any]
    notes: tuple[str, ...] = ()


def parts(path: Path, subset: str) -> Parts:
    """Find the files.

    Args:
        path: a folder of one of the layouts above, or one file.
        subset: the configuration; empty takes the only or the default one.

    Raises:
        UsageError: there are several configurations and none is asked for, or not the one that is.
        PpvitError: there are no files, a shard is missing, or the layout cannot be understood.
    """
    if path.is_file():
        return Parts(path.parent, {"": [path]}, {})
    root = _snapshot(path)
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return _saved_to_disk(root)
    files = _files(root)
    card = _card(root)
    configurations = _by_card(card, files) or _by_folder(files)
    chosen, notes = _chosen(configurations, subset, card, root)
    splits: dict[str, list[str]] = {}
    for name, split in configurations[chosen].items():
        splits.setdefault(split, []).append(name)
    by_meaning, unused = _by_meaning(splits, root)
    found = {split: [root / name for name in names] for split, names in by_meaning.items()}
    return Parts(root, found, _info(card, chosen), notes + unused)


def _snapshot(path: Path) -> Path:
    """The folder itself; or the revision that the hub's cache holds below it."""
    snapshots = path / "snapshots"
    if not snapshots.is_dir():
        return path
    revisions = sorted(child for child in snapshots.iterdir() if child.is_dir())
    if len(revisions) != 1:
        raise UsageError(f"{path} holds {len(revisions)} revisions; set dataset.path to one folder of {snapshots}")
    return revisions[0]


def _files(root: Path) -> list[str]:
    """All parquet files, else all arrow files, by their paths with forward slashes, sorted."""
    found: dict[str, list[str]] = {ending: [] for ending in ENDINGS}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            ending = Path(name).suffix.lower()
            if ending in found and not name.startswith((".", "cache-", "tmp")):  # of datasets' map, half-written
                found[ending].append((Path(folder) / name).relative_to(root).as_posix())
        if sum(map(len, found.values())) > _MOST_FILES:
            raise PpvitError(f"{root} holds more than {_MOST_FILES:,} files; set dataset.path to one data set")
    files = next((sorted(found[ending]) for ending in ENDINGS if found[ending]), [])
    if not files:
        raise PpvitError(
            f"{root} holds no .parquet and no .arrow files; for images in class folders set dataset.name=imagefolder, "
            "for tars webdataset"
        )
    return files


def _card(root: Path) -> dict[str, Any]:
    """What stands at the top of README.md between two lines of dashes."""
    try:
        text = read_bounded(root / "README.md", _CARD_BYTES).decode("utf-8")
    except OSError:
        return {}
    except UnicodeDecodeError as error:
        raise PpvitError(f"{root / 'README.md'} is not in UTF-8 ({error}); save it as such, or remove it") from None
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.S | re.M)
    try:
        card = yaml.safe_load(found[1]) if found else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PpvitError(f"{root / 'README.md'} does not begin with valid YAML ({reason}); mend or remove it") from None
    return card if isinstance(card, dict) else {}


def _by_card(card: dict[str, Any], files: list[str]) -> dict[str, dict[str, str]]:
    """Configuration -> file -> split, as README.md has it; empty where it says nothing of files."""
    configurations = {}
    for each in _dicts(card.get("configs")):
        patterns = list(_patterns(each.get("data_files")))
        if patterns:
            of_file = {}
            for split, pattern in patterns:
                of_file.update({name: split or _split_of(name) for name in files if fnmatchcase(name, pattern)})
            configurations[str(each.get("config_name", "default"))] = of_file
    return {name: of_file for name, of_file in configurations.items() if of_file}


def _patterns(data_files: Any) -> Iterable[tuple[str, str]]:
    """(split or "", pattern) of the forms that ``data_files`` takes."""
    if isinstance(data_files, str):
        yield "", data_files
    elif isinstance(data_files, dict):
        for split, patterns in data_files.items():
            yield from ((str(split), pattern) for _, pattern in _patterns(patterns))
    elif isinstance(data_files, list):
        for each in data_files:
            if isinstance(each, dict):
                yield from ((str(each.get("split", "")), pattern) for _, pattern in _patterns(each.get("path")))
            elif isinstance(each, str):
                yield "", each


def _by_folder(files: list[str]) -> dict[str, dict[str, str]]:
    """The same by what the folders are called: those that mean a split, and ``data``, are no configuration."""
    configurations: dict[str, dict[str, str]] = {}
    for name in files:
        folders = [part for part in name.split("/")[:-1] if part != "data" and not split_of(part)[0]]
        configurations.setdefault("/".join(folders), {})[name] = _split_of(name)
    return configurations


def _split_of(name: str) -> str:
    """What a file calls its split: its own name without the shard's number, or the folder's where that is a number."""
    *folders, file = name.split("/")
    stem = _SHARD.sub("", file.rpartition(".")[0])
    name = next((part for part in (stem, *reversed(folders)) if split_of(part)[0]), stem)
    return _NUMBER.sub("", name) or name


def _chosen(
    configurations: dict[str, Any], subset: str, card: dict[str, Any], root: Path
) -> tuple[str, tuple[str, ...]]:
    """The configuration, and what is to be said."""
    names = ", ".join(name or "(the folder itself)" for name in configurations)
    if subset:
        if subset not in configurations:
            near = closest(subset, configurations)
            raise UsageError(f"dataset.subset: {root} has no configuration '{subset}' but {names}{near}")
        return subset, ()
    if len(configurations) == 1:
        return next(iter(configurations)), ()
    default = (str(each.get("config_name")) for each in _dicts(card.get("configs")) if each.get("default") is True)
    for name in (*default, "default"):
        if name in configurations:
            return name, (f"the configuration {name} of {names}; dataset.subset takes another",)
    raise UsageError(f"{root} has several configurations: {names}; set dataset.subset to one")


def _by_meaning(splits: dict[str, list[str]], root: Path) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Files by train, val and test, and what is to be said; a split that is called just that goes before others."""
    found: dict[str, list[str]] = {}
    used = []
    for meaning in ("train", "val", "test"):
        names = [name for name in splits if split_of(name)[0] == meaning]
        chosen = [name for name in names if not split_of(name)[1]] or names
        if len(chosen) > 1:
            raise UsageError(
                f"{root}: {' and '.join(chosen)} could both be the {meaning} split; "
                "set dataset.path to a folder that has one of them"
            )
        if chosen:
            found[meaning] = splits[chosen[0]]
            used += chosen
    if not found:
        found, used = {"": [name for files in splits.values() for name in files]}, list(splits)
    for files in found.values():
        _require_whole(files, root)
    unused = [name for name in splits if name not in used]
    return found, ((f"splits that are not used: {', '.join(unused)}",) if unused else ())


def _require_whole(files: list[str], root: Path) -> None:
    """Refuse shards of which one is missing, as an interrupted download leaves them."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for name in files:
        stem = name.rpartition(".")[0]
        if shard := _SHARD.search(stem):
            numbers.setdefault((_SHARD.sub("", stem), int(shard[2])), set()).add(int(shard[1]))
    for (stem, count), there in numbers.items():
        if len(there) < count:
            raise PpvitError(f"{root}: {stem} has {len(there)} of {count} files; download the rest")


def _saved_to_disk(root: Path) -> Parts:
    """The layout of ``save_to_disk``: one data set, or one for each split."""
    if not (root / "dataset_dict.json").is_file():
        return Parts(root, {"": _arrow_files(root)}, {})
    said = read_json(root / "dataset_dict.json", "download")
    names = said.get("splits") if isinstance(said, dict) else None
    if not isinstance(names, list) or not all(_is_plain(name) for name in names):
        raise PpvitError(f"{root / 'dataset_dict.json'} names no splits; save the data set again")
    found, unused = _by_meaning({name: [name] for name in names}, root)
    return Parts(
        root, {s: [file for name in of for file in _arrow_files(root / name)] for s, of in found.items()}, {}, unused
    )


def _arrow_files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json", "download")
    files = state.get("_data_files") if isinstance(state, dict) else None
    names: list[Any] = [each.get("filename") for each in _dicts(files)]
    if not names or not all(_is_plain(name) for name in names):
        raise PpvitError(f"{folder / 'state.json'} names no files of this folder; save the data set again")
    return [folder / name for name in names]


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]{1,255}", name) is not None and name not in (".", "..")


def _info(card: dict[str, Any], configuration: str) -> dict[str, Any]:
    """What README.md says of the features of a configuration."""
    infos = _dicts(card.get("dataset_info"))
    named = (info for info in infos if str(info.get("config_name", "default")) == (configuration or "default"))
    return next(named, infos[0] if len(infos) == 1 else {})


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or the single one."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]
