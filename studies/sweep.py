"""Learning rates of a study: each method on plain images that the study itself does not use, at one seed.

../stages/python sweep.py lin2025 tiny 0.001,0.003,0.01 [method ...]        (prints a Markdown table)

Training and test images are drawn with another dataset.seed than those of the study, and the seed is another one too.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from settings import ROOT, STUDIES, Run, planned
from train import measure

from ppvit.verbs import adapt, encrypt
from ppvit import places as paths
from ppvit.core.errors import one_line_errors

SEED = 100  # of training, and of which images are used


def sweep(paper: str, size: str, rates: list[str], methods: list[str]) -> None:
    """Print a row a method: the test accuracy at every learning rate."""
    print(f"| method | {' | '.join(rates)} |\n|{'---|' * (len(rates) + 1)}", flush=True)
    other = f"dataset.seed={SEED}"
    with tempfile.TemporaryDirectory(prefix="ppvit-sweep-") as name, contextlib.chdir(ROOT):
        data = Path(name)
        for method in methods:
            accuracies = []
            for rate in rates:
                config = Run(paper, size, "plain", method, SEED).config((other, f"finetune.learning_rate={rate}"))
                if not (data / "model").exists():
                    encrypt.run(config, STUDIES / "data" / size / "raw", data / "encrypted")
                    adapt.run(config, paths.PRETRAINED, data / "model", data / "adapt.json")
                accuracies.append(measure(config, data)["accuracy_percent"])
            print(f"| {method} | {' | '.join(f'{accuracy:.1f}' for accuracy in accuracies)} |", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) < 4:
            sys.exit("usage: sweep.py <study> <size> <rate,rate,...> [method ...]")
        paper, size, rates = sys.argv[1:4]
        sweep(
            paper, size, rates.split(","), sys.argv[4:] or list(dict.fromkeys(r.method for r in planned(paper, size)))
        )
