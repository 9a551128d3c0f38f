"""How many training images an attack uses, and in how many views each."""

from __future__ import annotations

from dataclasses import dataclass

ALL_VIEWS = "all_views"  # ends the names of results of attacks that used every view of their images


@dataclass(frozen=True)
class Amount:
    """So many training images in so many views each."""

    images: int
    views: int

    @property
    def variant(self) -> str:
        """As names of results have it: ``10``, or ``10_all_views``."""
        return f"{self.images}_{ALL_VIEWS}" if self.views > 1 else str(self.images)

    @property
    def words(self) -> str:
        """What follows a number of images: nothing, or "in all 4 views"."""
        return f" in all {self.views} views" if self.views > 1 else ""
