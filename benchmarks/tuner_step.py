"""A training step of every fine-tuning method against one of stock peft LoRA on the same layers.

    python benchmarks/tuner_step.py

Compared: forward pass, cross-entropy, backward pass and AdamW on images in memory, random weights, rank 8, one thread;
alternating step by step, so that ratios hold on a busy machine, where times alone say little. The stock methods are
melo (LoRA on query and value) for aoft_lora, LoRA on qkv and the output projection for hta_lora, LoRA on the MLP's
second layer for what stands behind the MLP. Prompts go into whole blocks, so LoRA of equal targets is on all their
layers; melo, the cheapest LoRA, is beside it: 8 prompts are 4 % more tokens at 224 px, 12 % at 32 px. The methods
that peft brings are here for the choice of the user; their code is peft's.
Aim: at most 1.1 times the time of stock LoRA, for our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from inputs import CLASSES
from timing import alternate, benchmark, print_table, spread
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.models import MICRO, MICRO_ARCHITECTURE
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner

MODELS: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    # name, arguments of the timm model, batch size, rounds of one step each
    ("ViT-Ti/16, 224 px", {"img_size": 224}, 16, 9),
    ("micro-ViT, 32 px", MICRO, 16, 99),
)
SMOKE_MODELS = (("micro-ViT, 32 px", {**MICRO, "depth": 1}, 2, 1),)
FC2 = {"target_modules": ["mlp.fc2"]}
PAIRS: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    # our method and its parameters, the stock one with equal targets
    ("aoft_lora", {"scaled": True}, "melo", {}),
    ("aoft_lora", {"scaled": False}, "melo", {}),
    ("aoft_adapter", {"scaled": True}, "lora", FC2),
    ("aoft_adapter", {"scaled": False}, "lora", FC2),
    ("hta_lora", {}, "lora", {"target_modules": ["attn.qkv", "attn.proj"]}),
    ("hta_adapter", {}, "lora", FC2),
    ("adapter", {}, "lora", FC2),
    ("vpt_deep", {}, "lora", {}),
    ("vpt_deep", {}, "melo", {}),
    ("aoft_vpt", {}, "lora", {}),
    ("aoft_vpt", {}, "melo", {}),
    *((method, {}, "lora", {}) for method in ("rslora", "dora", "pissa", "oft", "boft", "hra", "vera", "fourierft")),
    ("ia3", {}, "lora", {"target_modules": ["attn.qkv", "mlp.fc2"]}),
)


def step(method: str, values: dict[str, Any], arguments: dict[str, Any], batch_size: int) -> Callable[[], None]:
    """Forward pass, loss, backward pass and AdamW."""
    torch.manual_seed(0)
    settings = Finetune(method=method, rank=8, **values)
    tuner = make_tuner(settings)
    model = tuner.attach(timm.create_model(MICRO_ARCHITECTURE, num_classes=CLASSES, **arguments)).train()
    optimizer = make_optimizer(settings, model, tuner.learning_rates())
    images = torch.rand(batch_size, 3, arguments["img_size"], arguments["img_size"])
    labels = torch.arange(batch_size) % CLASSES

    def run() -> None:
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def main(smoke: bool) -> None:
    torch.set_num_threads(1)
    for name, arguments, batch_size, rounds in SMOKE_MODELS if smoke else MODELS:
        rows = []
        for method, values, stock, stock_values in PAIRS:
            contestants = {
                "ours": step(method, values, arguments, batch_size),
                "stock": step(stock, stock_values, arguments, batch_size),
            }
            seconds = alternate(contestants, rounds)
            label = f"{method}{'' if values.get('scaled', True) else ' (unscaled)'}"
            milliseconds = [spread(1000 * seconds[each], 0) for each in ("ours", "stock")]
            against = " ".join([stock, *stock_values.get("target_modules", [])])
            rows.append([label, against, *milliseconds, spread(seconds["ours"] / seconds["stock"])])
        print(f"\n{name}, batch {batch_size}: milliseconds a step, median (min-max)\n")
        print_table(["method", "against", "its step", "LoRA's step", "ratio"], rows)


if __name__ == "__main__":
    benchmark(main)
