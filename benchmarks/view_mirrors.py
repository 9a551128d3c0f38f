"""What stored views give away under a cipher of blocks and values: which blocks lie opposite each other.

    PPVIT_ASSETS=... python benchmarks/view_mirrors.py

View 0 of CIFAR-10 at 96 px, 16-px blocks, beside a view that is cut out, resampled and mirrored as `encrypt.views` does
it. Blocks are compared by their sorted values, which a permutation of values leaves as they are, summed over images,
and matched one to one (Hungarian method). Printed is the share of the 36 positions matched to their mirrors, by the
largest part of a picture that a view may show. *Unknown*: half of the views are mirrored and the attacker does not know
which. Last, processor time of a view beyond decoding.
"""

from __future__ import annotations

import time

import numpy as np
from inputs import photographs, upscaled_cifar10
from PIL import Image
from scipy.optimize import linear_sum_assignment
from timing import benchmark

from ppvit.audit.view import to_blocks
from ppvit.ciphers.keys import Key
from ppvit.data import views
from ppvit.data.images import to_square
from ppvit.data.views import Views

SIZE, BLOCK = 96, 16
SIDE = SIZE // BLOCK
MIRROR = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)[:, ::-1].reshape(-1)
LARGEST = (0.8, views.LARGEST_PART, 1.0)


def sorted_values(picture: np.ndarray) -> np.ndarray:
    return np.sort(to_blocks(picture[None], BLOCK)[0].astype(np.float32), axis=1)


def costs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(sorted_values(one)[:, None] - sorted_values(other)[None]).mean(axis=2))


def matched(cost: np.ndarray) -> float:
    """Percent of the blocks that are matched to their mirrors."""
    return 100 * float((linear_sum_assignment(cost)[1] == MIRROR).mean())


def leak(plain: np.ndarray, counts: tuple[int, ...]) -> None:
    known, unknown = np.zeros((2, SIDE * SIDE, SIDE * SIDE))
    rng, alone, summed = np.random.default_rng(0), [], []
    for number, picture in enumerate(plain, start=1):
        box = views._part((picture.shape[1], picture.shape[0]), views.SMALLEST_PART, *rng.random(4))
        cut = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box))
        whole = to_square(picture, SIZE)
        cost = costs(whole, cut[:, ::-1])
        alone.append(matched(cost))
        known += cost
        unknown += cost if number % 2 else costs(whole, cut)
        if number in counts:
            other = unknown + 1e9 * np.eye(len(unknown))  # views that are not mirrored match blocks to themselves
            summed.append(f"{number} images {matched(known):.0f}, unknown {matched(other):.0f}")
    print(f"  one image {np.mean(alone):.0f} (at most {max(alone):.0f}); {'; '.join(summed)}")


def main(smoke: bool) -> None:
    plain = np.stack(list(photographs(3, 32)) if smoke else upscaled_cifar10(2000, 32)[::20])
    largest = views.LARGEST_PART
    try:
        for share in LARGEST:
            views.LARGEST_PART = share
            print(f"parts of up to {share:.0%}: percent of the blocks matched to their mirrors")
            leak(plain, (2,) if smoke else (10, 100))
    finally:
        views.LARGEST_PART = largest
    for size in (32,) if smoke else (96, 224):
        for recipe in ("none", "flip_crop", "flip_crop_colour", "randaugment"):
            drawn = Views(2, recipe, Key(bytes(32)))
            drawn.draw(plain[0], 0, 1, size, "bicubic", "center")
            start = time.process_time()
            for index, picture in enumerate(plain):
                drawn.draw(picture, index, 1, size, "bicubic", "center")
            each = (time.process_time() - start) / len(plain)
            print(f"{size} px, {recipe}: {1000 * each:.2f} ms of processor time a view")


if __name__ == "__main__":
    benchmark(main)
