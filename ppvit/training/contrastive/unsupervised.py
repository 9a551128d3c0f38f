"""Pre-training of an adapted model on encrypted images without labels; neither key nor plain image is needed.

With ``cipher.name=none`` the images are plain. The result has the form of the adapted model: `finetune` takes it with
``--adapted``, and where nothing was put in front of the network, ``model.checkpoint`` takes it for other images.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ppvit import __version__
from ppvit.config import Adversarial, Finetune, Pretrain
from ppvit.core.errors import PpvitError, UsageError, say
from ppvit.core.provenance import Made, require_made_alike
from ppvit.core.reading import sha256_of
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages, readers_kept
from ppvit.evasion.ball import GREY_LEVEL
from ppvit.evasion.isometry import plain_ball
from ppvit.models import Backbone, load_model, model_input, read_record, save_model
from ppvit.models.folders import read_configuration
from ppvit.models.products import by_onednn
from ppvit.training.checkpoint import Checkpoint, seed_everything
from ppvit.training.contrastive.curves import Curves, features_of_all
from ppvit.training.contrastive.lars import make_optimizer
from ppvit.training.contrastive.networks import Encoder, lightly, make_encoder
from ppvit.training.contrastive.objectives import Byol, Contrastive, SimClr
from ppvit.training.contrastive.pairs import Pairs
from ppvit.training.contrastive.robust import Acl, AdvCl, Climb, DynAcl, pseudo_labels
from ppvit.training.endings import Diverged
from ppvit.training.hardware import Arithmetic, take_back
from ppvit.training.loop import Log, Training, make_accelerator

CLIP = 1.0  # of the gradient's norm, with adamw; published runs with sgd and lars clip nothing


@dataclass
class Pretrained:
    """A pre-trained model and what its training measured.

    Attributes:
        model: on the CPU, with the head that it had.
        values: figures for the result file.
        history: a dictionary of metrics an epoch.
    """

    model: nn.Module
    values: dict[str, Any]
    history: list[dict[str, float]]
    _adapted: Path
    _record: dict[str, Any]
    _checkpoint: Checkpoint

    def save(self, folder: Path) -> None:
        """Write the model, whole or not at all, and forget the checkpoint."""
        said = read_configuration(self._adapted, "adapt")
        arguments = said.arguments() | {"num_classes": said.num_classes}
        half = (0.5, 0.5, 0.5)
        save_model(folder, Backbone(self.model, said.architecture, arguments, half, half), self._record)
        self._checkpoint.remove()


def pretrain(
    settings: Pretrain, adversarial: Adversarial, encrypted: Path, adapted: Path, log: Log | None = None
) -> Pretrained:
    """Pre-train the adapted model; a run that was killed goes on from its last checkpoint.

    Args:
        settings: the section ``pretrain``, whose method is not ``supervised``.
        adversarial: the section, for methods that train against an attack.
        encrypted: folder of shards; the splits train and val are read.
        adapted: folder of the model to start from, of pretrained weights or of random ones.
        log: called after every epoch with its number and metrics; after a resume with all earlier epochs first.

    Raises:
        PpvitError: images or model missing, damaged or not made for each other; no views of encrypted images; the loss
            or a feature is not a number; lightly is not installed.
        UsageError: a cipher under which an attack has no radius.
    """
    lightly("loss")
    splits = {split: EncryptedImages(encrypted, split) for split in ("train", "val")}
    record = read_record(adapted, "adapt")
    made = Made(adapted, record, "adapt")
    require_made_alike(*(Made(each.folder, each.manifest, "encrypt") for each in splits.values()), made)
    pairs = Pairs(splits["train"], settings.method, settings.batch_size, settings.epochs, settings.seed)
    with readers_kept(pairs, *splits.values()):
        return _pretrain(settings, adversarial, splits, pairs, adapted, record, log)


def _pretrain(
    settings: Pretrain,
    adversarial: Adversarial,
    splits: dict[str, EncryptedImages],
    pairs: Pairs,
    adapted: Path,
    record: dict[str, Any],
    log: Log | None,
) -> Pretrained:
    accelerator = make_accelerator("auto")
    seed_everything(settings.seed)
    model = by_onednn(load_model(adapted, "adapt"))
    encoder = make_encoder(model, settings, model_input(splits["train"][0][0][None]))
    encoder.to(accelerator.device)
    objective = _objective(
        encoder, settings, adversarial, len(pairs) // settings.batch_size, accelerator, splits, record
    )
    optimizer = make_optimizer(encoder, settings.optimizer, settings.learning_rate, settings.weight_decay)
    determines = {
        "pretrain": settings.model_dump(),
        "adversarial": adversarial.model_dump() if settings.attacked else None,
        "model": sha256_of(adapted / "model.safetensors"),
        "images": {split: images.identity() for split, images in splits.items()},
        "versions": [__version__, torch.__version__, version("lightly"), version("torchvision"), version("pillow")],
        "device": accelerator.device.type,
        "arithmetic": (arithmetic := Arithmetic.of("auto").record()),
    }
    checkpoint = Checkpoint(determines, scratch_folder())
    if not len(splits["val"]):
        say(f"warning: there are no validation images in {splits['val'].folder}, so features are not measured")
    curves = Curves(objective.kept, splits["train"], splits["val"], settings.probe_epochs, settings.epochs)
    training = Training(
        _as_finetuning(settings),
        accelerator,
        encoder,
        optimizer,
        pairs,  # type: ignore[arg-type]  # the part of EncryptedImages that training reads
        checkpoint,
        log,
        objective,
        curves,
    )
    try:
        training.run()
    except Diverged:
        checkpoint.remove()
        raise PpvitError(
            "pretrain: the loss or a feature is not a number; lower pretrain.learning_rate "
            f"({settings.learning_rate}) and run again (nothing was written)"
        ) from None
    last = training.history[-1]
    values = {
        "method": settings.method,
        **{name: value for name, value in last.items() if name.startswith(("train_", "val_"))},
        "train_images": len(splits["train"]),
        "val_images": len(splits["val"]),
        "views": splits["train"].views,
        "epochs": settings.epochs,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "images_per_second": training.images_per_second,
        **arithmetic,
    }
    kept = take_back(objective.finished())
    return Pretrained(kept, values, training.history, adapted, {**record, "pretrained": settings.method}, checkpoint)


def _objective(
    encoder: Encoder,
    settings: Pretrain,
    adversarial: Adversarial,
    steps: int,
    accelerator: Accelerator,
    splits: dict[str, EncryptedImages],
    record: dict[str, Any],
) -> Contrastive:
    if not settings.attacked:
        return {"byol": Byol, "simclr": SimClr}[settings.method](encoder, settings, steps)
    ball = plain_ball(adversarial.norm, adversarial.epsilon, record)
    climb = Climb(ball, adversarial.steps, adversarial.step_size * GREY_LEVEL)
    if settings.method != "advcl":
        kind = DynAcl if settings.method == "dynacl" else Acl
        return kind(encoder, settings, steps, climb, accelerator.device)
    if record["cipher"]["name"] != "none":
        raise UsageError(
            f"pretrain.method advcl: the high frequencies of an image are not those of its ciphertext under "
            f"{record['cipher']['name']}; set pretrain.method=acl, or cipher.name=none"
        )
    features = features_of_all(encoder.backbone, splits["train"], len(splits["train"]))
    return AdvCl(encoder, settings, steps, climb, accelerator.device, pseudo_labels(features, settings.seed))


def _as_finetuning(settings: Pretrain) -> Finetune:
    """The part of ``pretrain`` that the loop of training reads, by the names that it has there."""
    return Finetune(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_fraction=settings.warmup_fraction,
        gradient_clip=CLIP if settings.optimizer == "adamw" else 0.0,
        seed=settings.seed,
    )
