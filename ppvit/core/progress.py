"""Progress of a step that takes long: a bar with the time left on a terminal, else a line every half minute.

tqdm without its thread, which only watches for bars that stand still: short of threads, it warns in four lines.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm as _tqdm

from ppvit.core.errors import say

__all__ = ["duration", "tqdm"]

BAR_SECONDS = 2  # a step that is shorter shows nothing
LINE_SECONDS = 30


class tqdm(_tqdm):  # type: ignore[misc]
    """tqdm, silent for two seconds; where stderr is no terminal it writes whole lines, at most one every half minute.

    Arguments: as of tqdm; ``disable=None``, which there means "on a terminal only", here means "no".
    """

    monitor_interval = 0

    def __init__(self, *given: Any, **options: Any) -> None:
        self._lines = not sys.stderr.isatty()
        options["disable"] = bool(options.get("disable"))
        options.setdefault("file", sys.stderr)
        options.setdefault("delay", BAR_SECONDS)
        if self._lines:
            options |= {"mininterval": LINE_SECONDS, "miniters": 0}  # 0: the clock is asked at every step
        self._told = time.monotonic()
        super().__init__(*given, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or say the line, when it is time to."""
        now = time.monotonic()
        if not self._lines:
            if self._time() >= self.start_t + self.delay:
                super().display(msg, pos)
        elif now - self._told >= LINE_SECONDS:
            self._told = now
            say(self.line())

    def line(self) -> str:
        """What a bar shows, as a sentence: how much is done, and how long the rest takes at the mean speed so far."""
        here = self.format_dict
        done, total, before = here["n"], here["total"], here["initial"]
        if not total:
            return f"{self.desc.rstrip(': ')}: {done:,.0f} {self.unit.strip()} so far"
        text = f"{self.desc.rstrip(': ')}: {min(100, 100 * done / total):.0f} %"
        if done <= before or done >= total:
            return text
        left = max(0, total - done) * here["elapsed"] / (done - before)
        return f"{text}, about {duration(left)} left"

    def close(self) -> None:
        """End; lines need no end."""
        if self._lines and not self.disable:
            self.delay = float("inf")  # tqdm draws no last bar where it has drawn none
        super().close()


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{round(minutes)} min"
    return f"{round(minutes / 60)} h" if minutes < 60 * 48 else f"{round(minutes / 60 / 24)} days"
