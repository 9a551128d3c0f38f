"""Where unfinished work is kept, so that a killed run goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path


def scratch_folder() -> Path:
    """A folder outside all outputs: ``$PPVIT_SCRATCH``, else one in the platform's user cache folder."""
    if folder := os.environ.get("PPVIT_SCRATCH"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ppvit")) / "scratch"
