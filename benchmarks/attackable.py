"""A pass forward and back to the pixels through a ResNet as attacks take it, against the model as it was loaded.

    python benchmarks/attackable.py

One thread, processor time, float32, random weights, gradients to pixels alone; alternating pass by pass. Aim: at least
1.1 times as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import timm
import torch
from inputs import CLASSES
from timing import alternate, benchmark, one_core, print_table, spread
from torch import nn

import ppvit.models  # noqa: F401 - timm learns the ResNets for small images
from ppvit.models.attackable import attackable

NETWORKS = (("resnet10_micro_cifar", 32, 64), ("resnet18_cifar", 32, 64), ("resnet18", 224, 8), ("resnet50", 224, 4))
SMOKE = (("resnet10_micro_cifar", 32, 2),)


def there_and_back(model: nn.Module, side: int, batch: int) -> Callable[[], None]:
    pixels = torch.rand(batch, 3, side, side, requires_grad=True)

    def run() -> None:
        torch.autograd.grad(model(pixels).logsumexp(-1).sum(), pixels)

    return run


def main(smoke: bool) -> None:
    one_core()
    torch.set_num_threads(1)
    rows = []
    for name, side, batch in SMOKE if smoke else NETWORKS:
        torch.manual_seed(0)
        loaded = timm.create_model(name, num_classes=CLASSES).eval().requires_grad_(False)
        models = {"ours": attackable(deepcopy(loaded), torch.device("cpu")), "as loaded": loaded}
        contestants = {which: there_and_back(model, side, batch) for which, model in models.items()}
        seconds = alternate(contestants, 1 if smoke else 9, clock=time.process_time)
        milliseconds = [spread(1000 * each / batch) for each in seconds.values()]
        rows.append([name, str(side), str(batch), *milliseconds, spread(seconds["as loaded"] / seconds["ours"])])
    print("\nmilliseconds an image, median (min-max)\n")
    print_table(["network", "side", "batch", *models, "times as fast"], rows)


if __name__ == "__main__":
    benchmark(main)
