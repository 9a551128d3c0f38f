"""Encrypting a batch against the loop over images that one would write first.

    python benchmarks/cipher.py

Compared, on one core, at 224 px with 16-px blocks and batches of 64: `Cipher.encrypt` and `decrypt`; a loop over
images that cuts blocks out, indexes them twice and puts them back; and `numpy.copy` of the same bytes.
Aim: at least 3 times the loop, hoped for 10.
Measured (2 cores, 2026-11-20): `block` 9,905 images/s, 3.7 (3.5-4.0) times the loop, 12 times the time of a copy.
Ten times was not reached: cache blocking and gathering several images at once were tried and were no faster.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from inputs import photographs
from timing import alternate, one_core, print_table, spread

from ppvit.ciphers import CIPHERS, Cipher, make_cipher
from ppvit.ciphers.keys import DEMO_KEY

SIZE, BLOCK, BATCH, ROUNDS = 224, 16, 64, 30


def encrypt_in_a_loop(cipher: Cipher, images: np.ndarray) -> np.ndarray:
    """To blocks, indexed by kb and kp, and back, one image at a time."""
    affine, side = cipher.affine_map(), SIZE // BLOCK
    encrypted = np.empty_like(images)
    for number, image in enumerate(images):
        blocks = image.reshape(side, BLOCK, side, BLOCK, 3).transpose(0, 2, 4, 1, 3).reshape(side * side, -1)
        blocks = blocks[affine.block_permutation][:, affine.value_permutation]
        if cipher.inverts:
            blocks = np.where(affine.sign < 0, 255 - blocks, blocks)
        encrypted[number] = blocks.reshape(side, side, 3, BLOCK, BLOCK).transpose(0, 3, 1, 4, 2).reshape(image.shape)
    return encrypted


def contestants(cipher: Cipher, images: np.ndarray) -> dict[str, Callable[[], object]]:
    encrypted = cipher.encrypt(images)
    assert (encrypt_in_a_loop(cipher, images) == encrypted).all()
    return {
        "encrypt": lambda: cipher.encrypt(images),
        "loop": lambda: encrypt_in_a_loop(cipher, images),
        "decrypt": lambda: cipher.decrypt(encrypted),
        "copy": images.copy,
    }


def main() -> None:
    one_core()
    images = np.stack(list(photographs(BATCH, SIZE)))
    rows = []
    for name in CIPHERS:
        seconds = alternate(contestants(make_cipher(name, DEMO_KEY, SIZE, BLOCK), images), ROUNDS)
        speeds = [spread(BATCH / seconds[which], 0) for which in ("encrypt", "decrypt", "loop", "copy")]
        ratio = spread(seconds["loop"] / seconds["encrypt"], 1)
        rows.append([name, *speeds, ratio, spread(seconds["encrypt"] / seconds["copy"], 1)])
    print("images/s on one core: median (min-max)")
    print_table(["cipher", "encrypt", "decrypt", "loop", "numpy.copy", "times the loop", "slower than copy"], rows)


if __name__ == "__main__":
    main()
