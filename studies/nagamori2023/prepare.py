"""The images of size `many`, where they are not there yet."""

from __future__ import annotations

from typing import Any

import pairs


def prepare(axes: dict[str, Any]) -> None:
    """Make them; a few seconds."""
    if axes["size"] == "many" and not pairs.OUT.exists():
        pairs.make(pairs.OUT)
