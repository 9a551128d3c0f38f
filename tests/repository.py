"""A copy of this repository, in which tests run DVC."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from imports import ROOT


def copy_repository(root: Path) -> None:
    """Copy what git has of this repository, or would add, to a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
