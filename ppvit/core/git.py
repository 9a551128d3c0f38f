"""Folders that protect themselves: what is secret must not be one ``git add -A`` away from a commit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def keep_out_of_git(folder: Path) -> None:
    """Tell git to leave a folder out, wherever it lies, by a file in it; one that is there stays.

    Args:
        folder: exists, and is ppvit's own: it holds secrets or plain data.
    """
    with suppress(FileExistsError):
        descriptor = os.open(folder / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("*\n")
