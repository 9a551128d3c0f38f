"""The pooled ciphertext-only attack at the size of the papers: time and memory for 100 images of 224 px.

    python benchmarks/pooled.py

No other implementation is known to compare with, so time is given beside that of encrypting the same images a hundred
times, and memory as the peak of a process of its own.
Aim: under 60 s on two cores and under 2 GB.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
from inputs import photographs
from timing import benchmark

from ppvit.audit.attacks.pooled import recover_key
from ppvit.audit.solvers.symmetry import equivalent_keys
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key
from ppvit.core.results import peak_memory_bytes

IMAGES, SIZE, BLOCK = 100, 224, 16
SMOKE_IMAGES, SMOKE_SIZE, SMOKE_BLOCK = 10, 32, 4


def attack(name: str, images: int = IMAGES, size: int = SIZE, block: int = BLOCK) -> None:
    cipher = make_cipher(name, Key(bytes(range(32))), size, block)
    plain = np.stack(list(photographs(images, size)))
    encrypted = cipher.encrypt(plain)
    keyed = {step: getattr(cipher, step) for step in ("scrambles", "shuffles", "inverts")}
    start = time.perf_counter()
    found = recover_key(encrypted, block, rng=np.random.default_rng(0), **keyed)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(100):
        cipher.encrypt(plain)
    encrypting = time.perf_counter() - start
    truth = cipher.affine_map()
    exact = any(
        np.array_equal(key.block_permutation, truth.block_permutation)
        and np.array_equal(key.value_permutation, truth.value_permutation)
        and np.array_equal(key.sign, truth.sign)
        for key in equivalent_keys(found, block, size, **keyed)
    )
    print(
        f"{name}: {seconds:.1f} s ({seconds / encrypting:.1f} times as long as encrypting them 100 times), "
        f"{peak_memory_bytes() / 1e9:.2f} GB, whole key {'found' if exact else 'not found'}"
    )


def main(smoke: bool) -> None:
    for name in ("block", "block_np"):
        if smoke:
            attack(name, SMOKE_IMAGES, SMOKE_SIZE, SMOKE_BLOCK)
        else:
            subprocess.run([sys.executable, __file__, name], check=True)  # memory of one process each


if __name__ == "__main__":
    if sys.argv[1:] in (["block"], ["block_np"]):
        attack(sys.argv[1])
    else:
        benchmark(main)
