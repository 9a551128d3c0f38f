"""What does `download` find with its perceptual hash, and what does it find by mistake?

    python benchmarks/near_duplicates.py            # PPVIT_ASSETS names the folder of CIFAR-10 and PneumoniaMNIST
    python benchmarks/near_duplicates.py --mnist t10k-images-idx3-ubyte.gz

First table: copies of pictures, changed as programs change them, that are found among the pictures, in percent. Second:
test pictures that look like a training picture; all in it but CIFAR-10's are different pictures. Those of CIFAR-10 were
looked at one by one. Aim: every copy that was only stored or resized anew, and no mistakes on photographs.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from inputs import photographs
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits
from timing import benchmark, print_table

from ppvit.datasets.duplicates import NEAR_BITS, look, nearest

COPIES = 300  # pictures that are changed, of each data set
Picture = Image.Image


def _jpeg(quality: int) -> Callable[[Picture], Picture]:
    def change(image: Picture) -> Picture:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def _scaled(factor: float) -> Callable[[Picture], Picture]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), Image.BICUBIC)


def _cut(image: Picture) -> Picture:
    edge = max(1, round(0.03 * image.width))
    return image.crop((edge, edge, image.width - edge, image.height - edge))


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "JPEG 90": _jpeg(90),
    "JPEG 75": _jpeg(75),
    "JPEG 50": _jpeg(50),
    "half the size": _scaled(0.5),
    "twice the size": _scaled(2),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "20 % more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "3 % cut off each edge": _cut,
}


def looks(pictures: Iterator[np.ndarray] | list[np.ndarray]) -> np.ndarray:
    """Hashes, uint64 (n, 4)."""
    return np.frombuffer(b"".join(look(each) or bytes(32) for each in pictures), np.uint64).reshape(-1, 4)


def sets(smoke: bool, mnist: str | None) -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    """Name, training and test pictures, uint8 (H, W) or (H, W, 3)."""
    digits = list(np.rint(load_digits().images * 255 / 16).astype(np.uint8))
    yield "scikit-learn's digits, 8 px", digits[:1437], digits[1437:]
    yield "photographs, 224 px", list(photographs(4 if smoke else 60, 224)), []
    if mnist:
        with gzip.open(mnist) as file:
            ten_thousand = list(np.frombuffer(file.read(), np.uint8)[16:].reshape(-1, 28, 28))
        yield "MNIST's test images, 28 px", ten_thousand[2000:], ten_thousand[:2000]
    folder = os.environ.get("PPVIT_ASSETS")
    if folder is None or smoke:
        return
    arrays = np.load(Path(folder) / "pneumoniamnist.npz")
    yield "PneumoniaMNIST, 28 px", list(arrays["train_images"]), list(arrays["test_images"])
    pictures: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with tarfile.open(Path(folder) / "cifar10_jpeg_q75.tar.xz") as archive:
        for member in archive:
            if member.name.endswith(".jpg"):
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                pictures["test" if "test/" in member.name else "train"].append(np.asarray(Image.open(io.BytesIO(data))))
    yield "CIFAR-10, 32 px", pictures["train"], pictures["test"]


def main(smoke: bool, mnist: str | None = None) -> None:
    found, mistakes = [], []
    for name, train, test in sets(smoke, mnist):
        chosen = [Image.fromarray(each).convert("RGB") for each in train[:: max(1, len(train) // COPIES)][:COPIES]]
        originals = looks([np.asarray(each) for each in chosen])
        row = [name]
        for change in CHANGES.values():
            changed = looks([np.asarray(change(each).convert("RGB")) for each in chosen])
            bits = [
                nearest(copy[None], original[None])[1][0] for copy, original in zip(changed, originals, strict=True)
            ]
            row.append(f"{100 * np.mean(np.array(bits) <= NEAR_BITS):.0f}")
        found.append(row)
        if test:
            bits = nearest(looks(test), looks(train))[1]
            mistakes.append([name, f"{len(train):,}", f"{len(test):,}", str(int((bits <= NEAR_BITS).sum()))])
    print_table(["changed copies found, %", *CHANGES], found)
    print()
    print_table([f"at most {NEAR_BITS} of 256 bits differ", "training", "test", "look like a training image"], mistakes)


if __name__ == "__main__":
    benchmark(main, ("--mnist", {"help": "MNIST's test images, idx format, gzip"}))
