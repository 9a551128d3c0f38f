"""What ppvit asks of git: to leave out folders that are secret, and whether there is a commit to count from."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from ppvit.core.errors import PpvitError


def keep_out_of_git(folder: Path) -> None:
    """Tell git to leave a folder out, wherever it lies, by a file in it; one that is there stays.

    Args:
        folder: exists, and is ppvit's own: it holds secrets or plain data.
    """
    with suppress(FileExistsError):
        descriptor = os.open(folder / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("*\n")


def require_commit() -> None:
    """DVCLive asks git from which commit a training starts, and fails in a repository that has none.

    Raises:
        PpvitError: this is such a repository.
    """

    def knows(*asked: str) -> bool:
        return not subprocess.run(["git", "rev-parse", "--quiet", *asked], capture_output=True, check=False).returncode

    with suppress(OSError):  # no git, no repository
        if knows("--is-inside-work-tree") and not knows("--verify", "HEAD"):
            raise PpvitError(
                "this git repository has no commit yet, from which DVC counts experiments; make one: "
                'git add -A && git commit -m "start"'
            )
