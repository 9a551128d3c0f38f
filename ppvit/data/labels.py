"""Labels of images: one class each, or, where the data set is multi-label, any number of classes."""

from __future__ import annotations

# a class number; multi-label: class numbers in ascending order, possibly none
Label = int | tuple[int, ...]
