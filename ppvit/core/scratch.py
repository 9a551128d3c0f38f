"""Folders outside all outputs: downloads, and unfinished work, with which a killed run goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads are kept between runs: ``$PPVIT_CACHE``, else the platform's user cache folder."""
    if folder := os.environ.get("PPVIT_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_path("ppvit"))


def scratch_folder() -> Path:
    """A folder outside all outputs: ``$PPVIT_SCRATCH``, else one in the platform's user cache folder.

    It is made for this user alone, and our own is closed to others if it was not. One that ``$PPVIT_SCRATCH`` names
    and that is there already stays as it is: it may hold other things.
    """
    if given := os.environ.get("PPVIT_SCRATCH"):
        folder = Path(given)
    else:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("ppvit")) / "scratch"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    if not given and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder
