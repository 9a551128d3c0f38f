"""Which browser tests of pages use: a Chromium that the system has, driven by Playwright."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def _missing() -> str:
    packages = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
    if packages:
        return f"{' and '.join(packages)} not installed; pip install 'ppvit[test]'"
    return "" if CHROMIUM else "no Chromium on this system; install its package, such as chromium of Debian"


MISSING = _missing()
"""Why pages cannot be tested; empty where they can."""
