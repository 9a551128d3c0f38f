"""Training of the micro ViT that comes with ppvit, on pictures of letters and digits, so that no download is needed."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ppvit.config import Pretrain
from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output
from ppvit.core.progress import tqdm
from ppvit.models import MICRO, MICRO_ARCHITECTURE
from ppvit.training import glyphs

LABEL_SMOOTHING = 0.1
GRADIENT_CLIP = 1.0
RECENT = 100  # steps that the reported training loss and accuracy are averaged over


def create_micro(**overrides: Any) -> VisionTransformer:
    """The embedded architecture with new weights and a head for the classes of glyphs."""
    arguments = {**MICRO, "num_classes": len(glyphs.CLASSES), **overrides}
    return cast(VisionTransformer, timm.create_model(MICRO_ARCHITECTURE, **arguments))


def train(settings: Pretrain) -> tuple[VisionTransformer, dict[str, Any]]:
    """Train a new micro ViT on glyphs, on the CPU; the same settings give the same weights on the same machine.

    Returns:
        The model in eval mode, float32, without the hiding of patches, and what was measured: ``images``,
        ``parameters``, ``train_cross_entropy`` and ``train_accuracy_percent``, the last two over the last steps.

    Raises:
        PpvitError: the loss is no finite number.
    """
    with torch.random.fork_rng(devices=[]):  # new weights and hidden patches come from torch's global generator
        torch.manual_seed(settings.seed)
        model = create_micro(patch_drop_rate=settings.patch_drop).train()
        recent = _fit(model, settings)
        trained = create_micro()
    trained.load_state_dict(model.state_dict())
    losses, accuracies = zip(*recent, strict=True)
    return trained.eval(), {
        "images": settings.steps * settings.batch_size,
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "train_cross_entropy": round(sum(losses) / len(losses), 4),
        "train_accuracy_percent": round(100 * sum(accuracies) / len(accuracies), 2),
    }


def _fit(model: VisionTransformer, settings: Pretrain) -> deque[tuple[float, float]]:
    """Train in place; loss and accuracy of the last steps."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = _optimizers(model, settings)
    schedules = [LambdaLR(optimizer, partial(learning_rate_factor, steps=settings.steps)) for optimizer in optimizers]
    recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
    with tqdm(total=settings.steps * settings.batch_size, unit=" images", desc="pretrain", disable=None) as bar:
        for step in range(settings.steps):
            images, labels = glyphs.render(settings.batch_size, generator)
            logits = model(normalize(images))
            loss = F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
            if not loss.isfinite():
                raise PpvitError(
                    f"pretrain: the loss is {loss.item()} at step {step}; lower pretrain.learning_rate "
                    f"({settings.learning_rate}) and run again (nothing was written)"
                )
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            recent.append((loss.item(), (logits.argmax(1) == labels).float().mean().item()))
            bar.set_postfix(loss=f"{recent[-1][0]:.3f}", refresh=False)
            bar.update(settings.batch_size)
    return recent


def normalize(images: Tensor) -> Tensor:
    """uint8 [..., 3, height, width] to float32 in -1..1: mean and standard deviation 0.5 a channel."""
    return images.float() / 127.5 - 1


def _optimizers(model: VisionTransformer, settings: Pretrain) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices of the blocks, AdamW for the rest.

    Muon is what makes a quarter of an hour enough: AdamW alone spends most of it on a plateau.
    """
    matrices = [weight for name, weight in model.named_parameters() if name.startswith("blocks.") and weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(
            matrices, settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up over the first twentieth, then a cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save(model: VisionTransformer, out: Path) -> None:
    """Write the weights as float16 safetensors under timm's own names."""
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_output(out) as temporary:
        # not save_file, which makes a file that only its owner may read
        temporary.write_bytes(to_safetensors(tensors, metadata={"format": "pt"}))
