"""The user's own data: is there any at dataset.path, and which file there is the one asked for?"""

from __future__ import annotations

from pathlib import Path

from ppvit.config import NO_DATA
from ppvit.core.errors import UsageError
from ppvit.datasets.trees import is_archive, is_passed_over


def own_data(path: Path) -> Path | None:
    """``path``, or None where it is the default, which says that the user has no data of their own.

    Raises:
        UsageError: a path that the user set does not exist or is an empty folder.
    """
    if path == Path(NO_DATA):
        return None
    if not path.exists():
        raise UsageError(f"dataset.path: {path} does not exist; set it to your folder or archive, or back to {NO_DATA}")
    if path.is_dir() and not _contents(path):
        raise UsageError(f"dataset.path: {path} is an empty folder; put the data there, or set it back to {NO_DATA}")
    return path


def find(path: Path, *names: str) -> Path | None:
    """The file or folder of one of these names: ``path`` itself, or lying directly in the folder ``path``."""
    if path.name in names:
        return path
    return next((path / name for name in names if (path / name).exists()), None) if path.is_dir() else None


def only_archive(path: Path) -> Path:
    """The archive inside, where ``path`` is a folder that holds just one archive; else ``path`` itself."""
    if path.is_dir():
        contents = _contents(path)
        if len(contents) == 1 and is_archive(contents[0]):
            return contents[0]
    return path


def _contents(folder: Path) -> list[Path]:
    return [
        child for child in sorted(folder.iterdir()) if child.name != "README.md" and not is_passed_over((child.name,))
    ]
