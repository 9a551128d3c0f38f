"""Trainable parameters at the paper's model, ViT-B/16 with ten classes, counted on shapes alone.

python studies/lin2025/counts.py
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch

from ppvit.config import Finetune
from ppvit.core.files import write_json
from ppvit.tuners import make_tuner, trainable_parameters

RANKS = (2, 4, 8, 16)
ARCHITECTURE, CLASSES = "vit_base_patch16_224", 10


def count(method: str, rank: int = 4, classes: int = CLASSES) -> int:
    """Parameters that a method trains."""
    with torch.device("meta"):
        model = timm.create_model(ARCHITECTURE, num_classes=classes)
    return trainable_parameters(make_tuner(Finetune(method=method, rank=rank)).attach(model))


def counts() -> dict[str, int]:
    """By method and rank; `full_1000` is the whole model with the head of 1,000 classes that it was published with."""
    found = {"full": count("full"), "full_1000": count("full", classes=1000)}
    return found | {f"{method}_r{rank}": count(method, rank) for method in ("melo", "lora_patch") for rank in RANKS}


if __name__ == "__main__":
    write_json(Path(__file__).parent / "counts.json", counts())
