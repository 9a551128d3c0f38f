"""Folders that protect themselves: what is secret must not be one ``git add -A`` away from a commit."""

from __future__ import annotations

from pathlib import Path


def keep_out_of_git(folder: Path) -> None:
    """Tell git to leave a folder out, wherever it lies, by a file in it; one that is there stays.

    Args:
        folder: exists, and is ppvit's own: it holds secrets or plain data.
    """
    path = folder / ".gitignore"
    if not path.exists():
        path.write_text("*\n", encoding="ascii")
