"""tqdm without its thread, which only watches for bars that stand still: short of threads, it warns in four lines."""

from __future__ import annotations

from tqdm import tqdm

__all__ = ["tqdm"]

tqdm.monitor_interval = 0
