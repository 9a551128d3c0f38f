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
    """A folder outside all outputs: ``$PPVIT_SCRATCH``, else one in the platform's user cache folder."""
    if folder := os.environ.get("PPVIT_SCRATCH"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ppvit")) / "scratch"
