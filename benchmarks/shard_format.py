"""Which file format should an encrypted photograph have in a shard?

    python benchmarks/shard_format.py

Compared, on one core, at 224 px, on photographs and (where `PPVIT_ASSETS` names the folder) upscaled CIFAR-10 images,
plain and encrypted with `block`: bytes against raw pixels, writing and reading speed of stored PNG
(`ppvit.data.images.encode_png`), Pillow's PNG at its default and at level 0, lossless WebP, PPM, NPY and zstd. PNG and
WebP are read by `ppvit.data.decoding.decode`, as the loader does.
Aim: encrypted photographs do not compress, so choose by speed among the formats that everybody's loader reads.
PPM and NPY are faster, but timm looks for png and few image loaders read NPY.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from inputs import photographs, upscaled_cifar10
from PIL import Image
from timing import alternate, benchmark, one_core, print_table, spread

from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import DEMO_KEY
from ppvit.data import decoding, images

SIZE, COUNT, ROUNDS = 224, 16, 7


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


def main(smoke: bool) -> None:
    one_core()
    count, rounds = (2, 1) if smoke else (COUNT, ROUNDS)
    contestants = formats()
    cipher = make_cipher("block", DEMO_KEY, SIZE, 16)
    for source, pictures in (
        ("photographs", list(photographs(count, SIZE))),
        ("CIFAR-10, upscaled", upscaled_cifar10(count, SIZE)),
    ):
        if not pictures:
            print(f"\n{source}: left out, PPVIT_ASSETS is not set")
            continue
        plain = np.stack(pictures)
        for state, batch in (("encrypted with block", cipher.encrypt(plain)), ("plain", plain)):
            print(f"\n{source}, {state}; images/s on one core: median (min-max)")
            print_table(["format", "size of raw", "writing", "reading"], measure(batch, contestants, rounds))


if __name__ == "__main__":
    benchmark(main)
