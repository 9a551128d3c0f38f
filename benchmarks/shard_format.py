"""Which file format should an encrypted photograph have in a shard?

    python benchmarks/shard_format.py

Compared, on one core, at 224 px, on photographs and (where `PPVIT_ASSETS` names the folder) upscaled CIFAR-10 images,
and PneumoniaMNIST's, plain and encrypted: bytes against raw pixels, writing and reading speed of stored and of
compressed PNG (`ppvit.data.images.encode_png`), Pillow's PNG at its default and at level 0, lossless WebP, PPM, NPY and
zstd. PNG and WebP are read by `ppvit.data.decoding.decode`, as the loader does. Then what images of 28 px take that are
enlarged by `nearest`, with values that repeat stored once (`ppvit.data.repeats`).
Aim: encrypted photographs do not compress, so choose by speed among the formats that everybody's loader reads.
PPM and NPY are faster, but timm looks for png and few image loaders read NPY.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import photographs, upscaled_cifar10
from PIL import Image
from timing import alternate, benchmark, one_core, print_table, spread

from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.ciphers.keys import DEMO_KEY
from ppvit.core.errors import UsageError
from ppvit.data import decoding, images
from ppvit.data.repeats import find_layout

SIZE, COUNT, ROUNDS = 224, 16, 7
IN_BYTES = [name for name in CIPHERS if name not in ("neuracrypt", "orthogonal")]  # ciphertext is a picture in bytes


@dataclass(frozen=True)
class Format:
    """How one image is written, and read back as uint8 (H, W, 3)."""

    write: Callable[[np.ndarray], bytes]
    read: Callable[[bytes], np.ndarray]


def _pillow(kind: str, **options: object) -> Callable[[np.ndarray], bytes]:
    def write(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        return file.getvalue()

    return write


def _write_npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image, allow_pickle=False)
    return file.getvalue()


def _decode(data: bytes) -> np.ndarray:
    return decoding.decode(data, "benchmark")


def formats() -> dict[str, Format]:
    """All contestants; zstd only where the package is installed."""
    found = {
        "stored png (ours)": Format(images.encode_png, _decode),
        "compressed png (ours)": Format(lambda image: images.encode_png(image, True), _decode),
        "png, Pillow's default": Format(_pillow("PNG"), _decode),
        "png, Pillow's level 0": Format(_pillow("PNG", compress_level=0), _decode),
        "webp, lossless": Format(_pillow("WEBP", lossless=True), _decode),
        "ppm": Format(_pillow("PPM"), _decode),
        "npy": Format(_write_npy, lambda data: np.load(io.BytesIO(data), allow_pickle=False)),
    }
    try:
        import zstandard
    except ImportError:
        print("zstd is left out: the package zstandard is not installed")
        return found
    # level 3, zstd's default; the shape is known from the manifest
    found["zstd of raw pixels"] = Format(
        lambda image: zstandard.compress(image.tobytes(), 3),
        lambda data: np.frombuffer(zstandard.decompress(data), np.uint8).reshape(SIZE, SIZE, 3),
    )
    return found


def measure(pictures: np.ndarray, contestants: dict[str, Format], rounds: int) -> list[list[str]]:
    written = {name: [kind.write(picture) for picture in pictures] for name, kind in contestants.items()}
    for name, kind in contestants.items():
        assert (kind.read(written[name][0]) == pictures[0]).all(), name
    writers = {name: lambda name=name: [contestants[name].write(each) for each in pictures] for name in contestants}
    readers = {name: lambda name=name: [contestants[name].read(data) for data in written[name]] for name in contestants}
    writing, reading = alternate(writers, rounds), alternate(readers, rounds)
    return [
        [
            name,
            f"{100 * sum(map(len, written[name])) / pictures.nbytes:.1f} %",
            spread(len(pictures) / writing[name], 0),
            spread(len(pictures) / reading[name], 0),
        ]
        for name in contestants
    ]


def pneumonia(count: int, factor: int = 1) -> np.ndarray:
    """PneumoniaMNIST from the folder that ``PPVIT_ASSETS`` names, enlarged as by nearest; empty where there is none."""
    path = Path(os.environ.get("PPVIT_ASSETS", "")) / "pneumoniamnist.npz"
    if not path.is_file():
        return np.empty((0, SIZE, SIZE, 3), np.uint8)
    small = np.load(path)["train_images"][:count]
    return small[..., None].repeat(3, 3).repeat(factor, 1).repeat(factor, 2)


def compressed(sources: dict[str, np.ndarray]) -> list[list[str]]:
    """Size of compressed PNG against raw pixels, by cipher and source."""
    rows = []
    for name in IN_BYTES:
        cipher = make_cipher(name, DEMO_KEY, SIZE, 16)
        batches = [cipher.encrypt(plain, np.arange(len(plain))) for plain in sources.values()]
        sizes = [sum(len(images.encode_png(each, True)) for each in batch) / batch.nbytes for batch in batches]
        rows.append([name, *(f"{100 * size:.0f} %" for size in sizes)])
    return rows


def once(plain: np.ndarray, rounds: int) -> list[list[str]]:
    """Values that repeat stored once: how many, and reading speed against stored PNG."""
    rows = []
    for name in IN_BYTES:
        cipher = make_cipher(name, DEMO_KEY, SIZE, 16)
        try:
            layout = find_layout(cipher, plain, np.arange(len(plain)))
        except UsageError:
            rows.append([name, "none repeats", ""])
            continue
        batch = cipher.encrypt(plain, np.arange(len(plain)))
        packed = [layout.packed(each, name) for each in batch]
        stored = [images.encode_png(each) for each in batch]
        readers = {
            "once": lambda packed=packed, layout=layout: [layout.unpacked(each, plain.shape[1:]) for each in packed],
            "stored": lambda stored=stored: [_decode(each) for each in stored],
        }
        seconds = alternate(readers, rounds)
        fewer = len(layout.places) / layout.distinct
        rows.append([name, f"{fewer:.0f} times less", spread(seconds["stored"] / seconds["once"], 1)])
    return rows


def main(smoke: bool) -> None:
    one_core()
    count, rounds = (2, 1) if smoke else (COUNT, ROUNDS)
    contestants = formats()
    small = [Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in pneumonia(count)]
    sources = {
        "photographs": list(photographs(count, SIZE)),
        "CIFAR-10, upscaled": upscaled_cifar10(count, SIZE),
        "PneumoniaMNIST, upscaled": [np.asarray(each) for each in small],
    }
    there = {source: np.stack(pictures) for source, pictures in sources.items() if pictures}
    for source in sources.keys() - there.keys():
        print(f"\n{source}: left out, PPVIT_ASSETS is not set")
    cipher = make_cipher("block", DEMO_KEY, SIZE, 16)
    for source, plain in there.items():
        for state, batch in (("encrypted with block", cipher.encrypt(plain)), ("plain", plain)):
            print(f"\n{source}, {state}; images/s on one core: median (min-max)")
            print_table(["format", "size of raw", "writing", "reading"], measure(batch, contestants, rounds))
    print("\ncompressed png (ours), size of raw")
    print_table(["cipher", *there], compressed(there))
    if len(enlarged := pneumonia(max(16, count), SIZE // 28)):
        print("\nPneumoniaMNIST, enlarged eightfold by nearest, values that repeat stored once")
        print_table(["cipher", "on disk", "reading against stored png, times as fast"], once(enlarged, rounds))


if __name__ == "__main__":
    benchmark(main)
