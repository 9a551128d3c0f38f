"""Small image folders for tests of data sets."""

import io
from pathlib import Path

from PIL import Image

from ppvit.datasets import open_source


def encoded(value=0, extension="png", mode="RGB", size=(4, 3)):
    buffer = io.BytesIO()
    colour = {"L": value, "1": value % 2, "I;16": value, "P": value, "RGBA": (value, 0, 0, 9)}.get(mode, (value, 1, 2))
    file_format = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(extension, extension.upper())
    Image.new(mode, size, colour).save(buffer, file_format)
    return buffer.getvalue()


def fill(folder, *files):
    """Write images (or given content) at paths; ``a/{3}.png`` stands for three files."""
    for file in files:
        name, content = file if isinstance(file, tuple) else (file, None)
        head, brace, tail = name.partition("{")
        count, _, tail = tail.partition("}")
        for number in range(int(count)) if brace else [0]:
            path = Path(folder) / (f"{head}{number}{tail}" if brace else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number) if content is None else content)
    return Path(folder)


def open_at(path, name="imagefolder", test_fraction=0.2, seed=0, **choices):
    return open_source(name, path, Path(path).parent / "cache", test_fraction, seed, **choices)


def origins(source, split):
    return [sample.origin for sample in getattr(source, split)()]


def everything(source):
    return {split: [(s.label, s.origin, s.image) for s in getattr(source, split)()] for split in ("train", "test")}
