"""An adversarial training step against the loop that one would write, and the memory of its attack.

    python benchmarks/adversarial.py

Compared: PGD with cross-entropy, then forward pass, cross-entropy, backward pass and AdamW on images in memory, random
weights, rank 8, one thread; alternating step by step. The loop that one would write calls ``loss.backward()`` in the
attack, with the model in training mode and its trainable parameters requiring gradients, which are zeroed afterwards.
*compiled*: times as fast as the loop with PPVIT_COMPILE=1, where there is a C++ compiler.
Activation memory: bytes that autograd keeps for the backward pass of one attack step, parameters not counted.
Aim: full fine-tuning at least 1.2 times the loop's images/s, LoRA no slower (about 1.05 is what the arithmetic allows);
activation memory of the attack at most 0.75 of the loop's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import timm
import torch
from inputs import CLASSES
from timing import alternate, benchmark, print_table, spread
from torch import Tensor, nn
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.evasion.ball import Ball
from ppvit.evasion.pgd import PgdAttack, frozen
from ppvit.models import MICRO, MICRO_ARCHITECTURE
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner

MODELS: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    # name, arguments of the timm model, batch size, rounds of one step each
    ("micro-ViT, 32 px", MICRO, 16, 15),
    ("ViT-Ti/16, 224 px", {"img_size": 224}, 4, 3),
)
METHODS = ("full", "lora")
STEPS = (1, 2, 10)
SMOKE_MODELS, SMOKE_STEPS = (("micro-ViT, 32 px", MICRO, 2, 1),), (2,)
BALL = Ball.of_grey_levels("linf", 8)

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours(steps: int) -> Perturb:
    return PgdAttack(BALL, steps, step_size(steps), "uniform", "ce").perturb


def compiled(steps: int) -> Perturb:
    """Ours with the model under attack compiled, as by ``PPVIT_COMPILE=1``."""
    attack, made = PgdAttack(BALL, steps, step_size(steps), "uniform", "ce"), []

    def perturb(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if not made:
            made.append(torch.compile(model))
        return attack.perturb(made[0], images, labels)

    return perturb


def obvious(steps: int) -> Perturb:
    def perturb(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        moved = (images + (2 * torch.rand_like(images) - 1) * BALL.epsilon).clamp(-1, 1)
        for _ in range(steps):
            moved.requires_grad_()
            functional.cross_entropy(model(moved), labels, reduction="sum").backward()
            moved = moved.detach() + step_size(steps) * moved.grad.sign()
            moved = torch.min(torch.max(moved, images - BALL.epsilon), images + BALL.epsilon).clamp(-1, 1)
        model.zero_grad()
        return moved

    return perturb


def step_size(steps: int) -> float:
    return min(BALL.epsilon, 2.5 * BALL.epsilon / steps)


def model_and_data(method: str, arguments: dict[str, Any], batch: int) -> tuple[nn.Module, Finetune, Tensor, Tensor]:
    torch.manual_seed(0)
    settings = Finetune(method=method, rank=8)
    model = make_tuner(settings).attach(timm.create_model(MICRO_ARCHITECTURE, num_classes=CLASSES, **arguments))
    size = arguments["img_size"]
    return model.train(), settings, 2 * torch.rand(batch, 3, size, size) - 1, torch.arange(batch) % CLASSES


def step(perturb: Perturb, method: str, arguments: dict[str, Any], batch: int) -> Callable[[], None]:
    """The attack, forward pass, loss, backward pass and AdamW."""
    model, settings, images, labels = model_and_data(method, arguments, batch)
    optimizer = make_optimizer(settings, model)

    def run() -> None:
        moved = perturb(model, images, labels)
        functional.cross_entropy(model(moved), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def kept_bytes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Memory that autograd keeps between the forward and backward pass of one attack step, parameters not counted."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # storages, held so that none is freed and its address used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor.detach()
        return tensor

    inputs = images.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = functional.cross_entropy(model(inputs), labels, reduction="sum")
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def memory(method: str, arguments: dict[str, Any], batch: int) -> tuple[float, float]:
    """MiB kept by an attack step of ours and of the obvious loop."""
    model, _, images, labels = model_and_data(method, arguments, batch)
    theirs = kept_bytes(model, images, labels)
    with frozen(model):
        own = kept_bytes(model, images, labels)
    return own / 2**20, theirs / 2**20


def main(smoke: bool) -> None:
    torch.set_num_threads(1)
    for name, arguments, batch, rounds in SMOKE_MODELS if smoke else MODELS:
        rows = []
        for method in METHODS:
            own, theirs = memory(method, arguments, batch)
            for steps in SMOKE_STEPS if smoke else STEPS:
                contestants = {
                    "ours": step(ours(steps), method, arguments, batch),
                    "loop": step(obvious(steps), method, arguments, batch),
                }
                if shutil.which("g++") and steps == max(STEPS):  # what inductor needs; the untimed round waits for it
                    contestants["compiled"] = step(compiled(steps), method, arguments, batch)
                seconds = alternate(contestants, rounds)
                milliseconds = [spread(1000 * seconds[each], 0) for each in ("ours", "loop")]
                faster = [
                    spread(seconds["loop"] / seconds[each]) if each in seconds else "" for each in ("ours", "compiled")
                ]
                kept = [f"{own:.1f}", f"{theirs:.1f}", f"{own / theirs:.2f}"]
                rows.append([method, str(steps), *milliseconds, *faster, *kept])
        print(f"\n{name}, batch {batch}: milliseconds a step, median (min-max); memory of an attack step in MiB\n")
        header = ["method", "steps", "ours", "loop", "times as fast", "compiled", "memory", "loop's memory", "ratio"]
        print_table(header, rows)


if __name__ == "__main__":
    benchmark(main)
