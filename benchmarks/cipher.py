"""Encrypting a batch against the loop over images that one would write first.

    python benchmarks/cipher.py

Compared, on one core, at 224 px with 16-px blocks and batches of 64: `Cipher.encrypt` and `decrypt` of every cipher;
for those that move and invert bytes, a loop over images that cuts blocks out, indexes them twice and puts them back;
and `numpy.copy` of the plain images.
Aim: `block` at least 3 times as fast as the loop, hoped for 10.
Ten times was not reached: cache blocking and gathering several images at once were tried and were no faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from inputs import photographs
from timing import alternate, benchmark, one_core, print_table, spread

from ppvit.ciphers import CIPHERS, Cipher, make_cipher
from ppvit.ciphers.keys import DEMO_KEY

SIZE, BLOCK, BATCH, ROUNDS = 224, 16, 64, 30
SMOKE_SIZE, SMOKE_BLOCK, SMOKE_BATCH = 32, 4, 2
SLOW_SECONDS = 10  # for making a cipher and encrypting one batch: such a one is timed once
WAYS = ("encrypt", "decrypt", "loop", "copy")


def encrypt_in_a_loop(cipher: Cipher, images: np.ndarray) -> np.ndarray:
    """To blocks, indexed by kb and kp, and back, one image at a time."""
    affine, block, side = cipher.affine_map(), cipher.block_size, cipher.image_size // cipher.block_size
    encrypted = np.empty_like(images)
    for number, image in enumerate(images):
        blocks = image.reshape(side, block, side, block, 3).transpose(0, 2, 4, 1, 3).reshape(side * side, -1)
        blocks = blocks[affine.block_permutation]
        if affine.per_position:
            blocks = np.take_along_axis(blocks, affine.value_permutation, axis=1)
        else:
            blocks = blocks[:, affine.value_permutation]
        if cipher.inverts:
            blocks = np.where(affine.sign < 0, 255 - blocks, blocks)
        encrypted[number] = blocks.reshape(side, side, 3, block, block).transpose(0, 3, 1, 4, 2).reshape(image.shape)
    return encrypted


def moves_bytes(cipher: Cipher) -> bool:
    """Whether the loop can do the same."""
    affine = cipher.affine_map()
    return affine is not None and affine.matrix is None and not affine.nibbles


def contestants(cipher: Cipher, images: np.ndarray) -> dict[str, Callable[[], object]]:
    ids = np.arange(len(images))
    encrypted = cipher.encrypt(images, ids)
    found: dict[str, Callable[[], object]] = {"encrypt": lambda: cipher.encrypt(images, ids), "copy": images.copy}
    if cipher.invertible:
        found["decrypt"] = lambda: cipher.decrypt(encrypted, ids)
    if moves_bytes(cipher):
        assert (encrypt_in_a_loop(cipher, images) == encrypted).all()
        found["loop"] = lambda: encrypt_in_a_loop(cipher, images)
    return found


def main(smoke: bool) -> None:
    one_core()
    size, block, batch, rounds = (SMOKE_SIZE, SMOKE_BLOCK, SMOKE_BATCH, 1) if smoke else (SIZE, BLOCK, BATCH, ROUNDS)
    images = np.stack(list(photographs(batch, size)))
    rows = []
    for name in CIPHERS:
        start = time.perf_counter()
        ways = contestants(make_cipher(name, DEMO_KEY, size, block), images)
        slow = time.perf_counter() - start > SLOW_SECONDS
        seconds = alternate(ways, 1 if slow else rounds)
        speeds = [spread(batch / seconds[which], 0) if which in seconds else "" for which in WAYS]
        ratio = spread(seconds["loop"] / seconds["encrypt"], 1) if "loop" in seconds else ""
        rows.append([name, *speeds, ratio, spread(seconds["encrypt"] / seconds["copy"], 1)])
    print("images/s on one core: median (min-max)")
    print_table(["cipher", "encrypt", "decrypt", "loop", "numpy.copy", "times the loop", "slower than copy"], rows)


if __name__ == "__main__":
    benchmark(main)
