"""Training a head on ciphertexts in tiles against two other ways, two iterations, at 128 bits of security.

    python benchmarks/he.py            # the two published sizes; about an hour
    python benchmarks/he.py --smoke    # a small one, to see that it runs; seconds, Volley Revolver not timed

Compared, each in a process of its own on one core and timed once, without keys and encryption: `ppvit.he.tiles`; what
one would write with TenSEAL's `CKKSVector`, the same arithmetic, one vector a sample or one a feature, whichever takes
fewer key switches; and the algorithm of Chiang (arXiv 2304.03807) in Volley Revolver layout. Key switches
(relinearisations and rotations) are counted; those of `CKKSVector` from its operations, ceil(log2 length) rotations for
a sum or a copy along a vector. The weights of each way are decrypted and compared with plain arithmetic first: no time
of a wrong result is printed. The larger size would keep Volley Revolver busy for an hour: there its key switches are
counted, and it is not timed.
Aim: tiles at least 5 times as fast as either.
Counted: 128 x 401 x 10 takes 348 key switches in tiles, 40,960 with `CKKSVector`, 5,764 in Volley Revolver;
1024 x 64 x 10 takes 336, 21,140 and 29,804. Those of Volley Revolver are the slowest: its two iterations are 17 levels
deep, for which only the largest ring will do.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tenseal
from timing import alternate, benchmark, one_core
from tqdm import tqdm

from ppvit.he.ckks.arithmetic import CiphertextArithmetic
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.parties.owner import encrypt_data
from ppvit.he.tiles import Tiles, twin
from ppvit.he.tiles import plan as tiles_plan
from ppvit.he.volley_revolver import layout, quadratic_gradient
from ppvit.he.volley_revolver import plan as published

ITERATIONS, RATE, TOLERANCE = 2, 4.0, 5e-3
# images, columns, classes, whether Volley Revolver is timed
SIZES = ((1024, 64, 10, False), (128, 401, 10, True))
SMALL = ((16, 8, 3, False),)
VECTOR_SCALE = 40  # bits; what TenSEAL's tutorials take


@dataclass
class Contestant:
    """One way to train.

    Attributes:
        train: returns ciphertexts.
        decrypt: those to weights, (C, d).
        expected: weights in plain arithmetic, (C, d).
        key_switches: of the run.
        result: ciphertexts of the run.
    """

    train: Callable[[], Any]
    decrypt: Callable[[Any], np.ndarray]
    expected: np.ndarray
    key_switches: Callable[[], int]
    result: Any = None

    def run(self) -> None:
        self.result = self.train()


def tiles(features: np.ndarray, labels: np.ndarray, classes: int, folder: Path) -> Contestant:
    plan = tiles_plan.make_plan(len(features), features.shape[1], classes, ITERATIONS, learning_rate=RATE)
    algorithm = Tiles(plan)
    owner = SecretSession(plan.parameters)
    owner.add_evaluation_keys(plan.rotations())
    encrypt_data(owner, algorithm, features, labels, folder)
    trainer = Session(plan.parameters, owner.relinearisation, owner.rotation)
    progress = tqdm(disable=True)

    def decrypt(weights: Any) -> np.ndarray:
        return algorithm.weights_of([owner.decrypt(block) for block in weights], features)

    return Contestant(
        lambda: algorithm.train(trainer, folder, progress)[0],
        decrypt,
        twin.train(plan, features, labels).weights,
        lambda: trainer.key_switches,
    )


def revolver(features: np.ndarray, labels: np.ndarray, classes: int, _: Path) -> Contestant:
    parameters = layout.choose_chain(ITERATIONS)
    grid = layout.make_layout(*features.shape, classes, parameters.slots)
    owner = SecretSession(parameters)
    owner.add_evaluation_keys(grid.rotations())
    trainer = Session(parameters, owner.relinearisation, owner.rotation)
    upload = layout.prepare(grid, features, labels).each(owner.encrypt)
    return Contestant(
        lambda: layout.train(CiphertextArithmetic(trainer), grid, upload, ITERATIONS),
        lambda weights: grid.unpack(owner.decrypt(weights)),
        quadratic_gradient.train(features, labels, classes, ITERATIONS).weights,
        lambda: trainer.key_switches,
    )


def vectors(features: np.ndarray, labels: np.ndarray, classes: int, _: Path) -> Contestant:
    """Nesterov's method from 0: the first step is all gradient, the second adds another; lr/n goes with the labels."""
    step = RATE / len(features)
    truth = step * (np.eye(classes)[labels] - 0.5)
    first = truth.T @ features
    logits = features @ first.T
    expected = first + (truth - step * (twin.C1 * logits + twin.C3 * logits**3)).T @ features
    cubic = [0.0, twin.C1 * step, 0.0, twin.C3 * step]
    by_sample, by_feature = vector_key_switches(*features.shape, classes)
    way = (vectors_by_sample if by_sample < by_feature else vectors_by_feature)(features, truth, cubic)
    return Contestant(*way, expected, lambda: min(by_sample, by_feature))


def vector_key_switches(samples: int, width: int, classes: int) -> tuple[int, int]:
    """Of the two ways below: sample by sample, feature by feature."""
    along, across = math.ceil(math.log2(width)), math.ceil(math.log2(samples))
    by_sample = samples * classes * ((along + 1) + (1 + along) + 2 + (along + 1))  # E x; z; cubic; E x
    by_feature = classes * (width * ((1 + across) + (across + 1) + (1 + across)) + 2)  # E x; x v; E x; cubic
    return by_sample, by_feature


def vectors_by_sample(features: np.ndarray, truth: np.ndarray, cubic: list[float]) -> tuple[Callable, Callable]:
    """One vector a sample, one a class of weights; labels and logits are vectors of one number."""
    context = vector_context(7)
    x = [tenseal.ckks_vector(context, row.tolist()) for row in features]
    y = [[tenseal.ckks_vector(context, [value]) for value in row] for row in truth.tolist()]

    def run() -> list[Any]:
        weights = [add_up(row * errors[c] for row, errors in zip(x, y, strict=True)) for c in range(truth.shape[1])]
        # all logits first: TenSEAL lowers an operand for good to the level of the other
        logits = [[row.dot(each) for each in weights] for row in x]
        errors = [
            [label - logit.polyval(cubic) for label, logit in zip(*pair, strict=True)]
            for pair in zip(y, logits, strict=True)
        ]
        return [each + add_up(x[i] * errors[i][c] for i in range(len(x))) for c, each in enumerate(weights)]

    return run, lambda weights: np.array([each.decrypt() for each in weights])


def vectors_by_feature(features: np.ndarray, truth: np.ndarray, cubic: list[float]) -> tuple[Callable, Callable]:
    """One vector a feature, one a class of labels and logits; weights are vectors of one number."""
    context = vector_context(6)
    x = [tenseal.ckks_vector(context, column.tolist()) for column in features.T]
    y = [tenseal.ckks_vector(context, column.tolist()) for column in truth.T]

    def run() -> list[list[Any]]:
        weights = [[label.dot(column) for column in x] for label in y]
        logits = [add_up(column * weight for column, weight in zip(x, row, strict=True)) for row in weights]
        errors = [label - logit.polyval(cubic) for label, logit in zip(y, logits, strict=True)]
        return [
            [weight + error.dot(column) for weight, column in zip(row, x, strict=True)]
            for row, error in zip(weights, errors, strict=True)
        ]

    return run, lambda weights: np.array([[each.decrypt()[0] for each in row] for row in weights])


def vector_context(levels: int) -> Any:
    """A ring of 16,384, the smallest that holds the levels at 128 bits; TenSEAL's default scale and outer primes."""
    chain = [60, *[VECTOR_SCALE] * levels, 60]
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 16384, coeff_mod_bit_sizes=chain)
    context.global_scale = 2.0**VECTOR_SCALE
    context.generate_galois_keys()
    return context


def add_up(terms: Any) -> Any:
    total = None
    for term in terms:
        total = term if total is None else total + term
    return total


def problem(samples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features like whitened ones, the constant last; the time of no way depends on the numbers."""
    random = np.random.default_rng(0)
    features = np.clip(random.normal(size=(samples, width - 1)) / math.sqrt(width / 8), -3, 3)
    return np.c_[features, np.ones(samples)], random.integers(0, classes, samples)


def time_once(name: str, samples: int, width: int, classes: int) -> tuple[float, int, float]:
    """Seconds, key switches and weight error of one way."""
    features, labels = problem(samples, width, classes)
    with tempfile.TemporaryDirectory(prefix="ppvit-benchmark-") as folder:
        contestant = WAYS[name](features, labels, classes, Path(folder))
        (taken,) = alternate({name: contestant.run}, rounds=1, warm_up=False)[name]
    error = np.abs(contestant.decrypt(contestant.result) - contestant.expected).max()
    assert error < TOLERANCE, f"{name}: weights are off by {error}"
    return taken, contestant.key_switches(), error


WAYS = {"tiles": tiles, "CKKSVector": vectors, "Volley Revolver": revolver}


def measure(samples: int, width: int, classes: int, time_revolver: bool) -> Iterator[list[str]]:
    """A row for every way, as soon as it is known.

    Each has a process of its own: SEAL's memory pools give nothing back, and two ways together fill 18 GiB.
    """
    size = f"{samples} x {width} x {classes}"
    first: tuple[float, int] | None = None  # seconds and key switches of tiles
    for name in WAYS if time_revolver else list(WAYS)[:-1]:
        with ProcessPoolExecutor(1, get_context("spawn")) as own:
            taken, switches, error = own.submit(time_once, name, samples, width, classes).result()
        first = first or (taken, switches)
        ratios = [f"{taken / first[0]:.1f}", f"{switches / first[1]:.1f}"]
        yield [size, name, f"{taken:.1f}", f"{switches:,}", *ratios, f"{error:.0e}"]
    if not time_revolver:
        switches = published.make_plan(samples, width, classes, ITERATIONS).key_switches()
        yield [size, "Volley Revolver", "not timed", f"{switches:,}", "", f"{switches / first[1]:.1f}", ""]


def main(smoke: bool) -> None:
    sizes = SMALL if smoke else SIZES
    one_core()
    os.environ["PPVIT_WORKERS"] = "1"
    print_row(["n x d x C", "way", "s", "key switches", "times tiles' s", "times tiles' switches", "weight error"])
    print_row(["---"] * 7)
    for size in sizes:
        for row in measure(*size):
            print_row(row)


def print_row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)  # the next one may take long


if __name__ == "__main__":
    benchmark(main)
