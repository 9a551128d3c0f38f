"""A small ResNet that learnt to name rendered glyphs, as the embedded micro-ViT did: the start of all ResNet runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppvit.core.files import atomic_output

OUT = Path(__file__).parent.parent.resolve() / "data" / "loft" / "resnet10_micro_cifar.safetensors"
STEPS, BATCH, LEARNING_RATE = 1500, 64, 3e-3


def prepare(axes: dict[str, Any]) -> None:
    """Train it where a variant needs it and it is not there yet; two minutes on a core."""
    if axes["model"] == "resnet" and not OUT.exists():
        pretrain()


def pretrain() -> None:
    import timm
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional
    from tqdm import tqdm

    import ppvit.models  # noqa: F401  its models become timm models
    from ppvit.training import glyphs
    from ppvit.training.pretraining import learning_rate_factor

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = timm.create_model("resnet10_micro_cifar", num_classes=len(glyphs.CLASSES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, STEPS))
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    for _ in (bar := tqdm(range(STEPS), disable=None)):
        images, labels = glyphs.render(BATCH, generator)
        loss = functional.cross_entropy(model((images / 255 - mean) / std), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(OUT) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
