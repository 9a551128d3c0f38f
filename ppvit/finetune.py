"""Fine-tuning on encrypted shards: model and method, plain or against an attack, and what is written at the end.

Neither key nor plain image is needed or looked for.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset, Subset

from ppvit import __version__
from ppvit.adversarial import Ball, plain_ball
from ppvit.adversarial.monitor import Monitor, hold_out
from ppvit.adversarial.objective import Robust
from ppvit.batch_norm import batch_norm_names, set_batch_norm
from ppvit.batches import EncryptedImages, epoch_batches, load_batches, require_same_key
from ppvit.checkpoint import Checkpoint, scratch_folder, seed_everything
from ppvit.config import Adversarial, Finetune
from ppvit.errors import PpvitError, UsageError
from ppvit.files import sha256_of
from ppvit.models import load_model, model_input, read_record
from ppvit.objective import Objective
from ppvit.results import Stopwatch, write_result
from ppvit.schedule import make_optimizer
from ppvit.training import Log, Training, make_accelerator
from ppvit.tuners import Tuner, adapter_bytes, finetuned_id, make_tuner, save_finetuned, trainable_parameters

MakeObjective = Callable[[Finetune, Accelerator], Objective]


def run(
    settings: Finetune,
    encrypted: Path,
    adapted: Path,
    out: Path,
    result: Path,
    log: Log | None = None,
    adversarial: Adversarial | None = None,
) -> None:
    """Fine-tune the adapted model on the encrypted training shards.

    Args:
        settings: the ``finetune`` section.
        encrypted: shards and manifest.
        adapted: the model `adapt` wrote.
        out: folder of the adapter, or of the whole model where the method has no adapter.
        result: JSON of parameter counts, speed, memory and the last training loss.
        log: called after every epoch with its number and metrics; after a resume with all earlier epochs first.
        adversarial: the ``adversarial`` section, its defaults if None; unused where ``finetune.adversarial`` is none.

    A run that was killed goes on from its last checkpoint, and on a CPU ends with the result of an uninterrupted one.

    Raises:
        PpvitError: shards or model missing, damaged or not made for each other; the loss is not a number.
        UsageError: unknown method, precision that the device lacks, a cipher under which an attack has no radius.
    """
    watch = Stopwatch()
    dataset = EncryptedImages(encrypted, "train")
    record = read_record(adapted, "adapt")
    require_same_key(dataset.manifest, record)
    tuner = make_tuner(settings)
    defence = None
    if settings.adversarial != "none":
        defence = Defence(settings, adversarial or Adversarial(), dataset, record["cipher"])
    images = defence.images if defence else dataset
    accelerator = make_accelerator(settings.precision)
    seed_everything(settings.seed)
    model = load_model(adapted, "adapt", dataset.num_classes)
    determines = {
        "settings": settings.model_dump(),
        "adversarial": defence.adversarial.model_dump() if defence else None,
        "model": sha256_of(adapted / "model.safetensors"),
        "shards": dataset.manifest["shards"],
        "versions": [__version__, torch.__version__],
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }
    probe = None
    if defence and defence.adversarial.head_init == "robust":
        probe = robust_head(defence, model, determines)
        accelerator = make_accelerator(settings.precision)
        seed_everything(settings.seed)  # the method's new weights must not depend on whether the probe was resumed
    objective = defence.objective(settings, accelerator) if defence else None
    model = attach(tuner, model, settings, images)
    parameters = trainable_parameters(model)
    optimizer = make_optimizer(settings, model, tuner.learning_rates(), tuner.undecayed)
    checkpoint = Checkpoint(determines, scratch_folder())
    training = Training(settings, accelerator, model, optimizer, images, checkpoint, log, objective)
    training.run()
    if not accelerator.is_main_process:
        return
    finetuned = {"method": settings.method, "num_classes": dataset.num_classes, "finetune": settings.model_dump()}
    finetuned |= {name: record[name] for name in ("key_id", "cipher", "image_size")}
    if defence:
        finetuned["adversarial"] = defence.adversarial.model_dump()
    save_finetuned(tuner, accelerator.unwrap_model(training.model).cpu(), out, adapted, finetuned)
    values = {
        "method": settings.method,
        "train_loss": training.history[-1]["train_loss"],
        "train_accuracy_percent": training.history[-1]["train_accuracy_percent"],
        "trainable_parameters": parameters,
        "trainable_parameters_mi": parameters / 2**20,
        "adapter_bytes": adapter_bytes(out),
        "images_per_second": training.images_per_second,
        "epochs": settings.epochs,
        "finetuned_id": finetuned_id(out),
    }
    if isinstance(objective, Robust):
        values |= robust_values(objective, training)
    write_result(result, values, watch)
    for finished in filter(None, (checkpoint, probe)):
        finished.remove()


def attach(tuner: Tuner, model: nn.Module, settings: Finetune, images: Dataset) -> nn.Module:
    """The model extended by the method, with its start values, ready to train on ``images``.

    Raises:
        UsageError: there is no batch normalisation for ``finetune.batch_norm``.
    """
    if settings.batch_norm != "frozen" and not batch_norm_names(model):
        raise UsageError(
            f"finetune.batch_norm {settings.batch_norm}: {type(model).__name__} has no batch normalisation; set "
            "finetune.batch_norm=frozen"
        )
    model = set_batch_norm(tuner.attach(model), settings.batch_norm)
    epoch = epoch_batches(len(images), settings.batch_size, settings.seed, epoch=0)
    tuner.initialise(model, (model_input(batch) for batch, _ in load_batches(images, epoch)))
    return model


class Defence:
    """What adversarial fine-tuning needs beside the model.

    Args:
        settings, adversarial: the sections.
        dataset: training images.
        cipher: its public settings.

    Attributes:
        images: what is trained on; the rest is held out.

    Raises:
        PpvitError: one class only.
        UsageError: the cipher does not keep distances.
    """

    def __init__(
        self, settings: Finetune, adversarial: Adversarial, dataset: EncryptedImages, cipher: dict[str, Any]
    ) -> None:
        if dataset.num_classes < 2:
            raise PpvitError(
                f"the shards have {dataset.num_classes} class, so there is nothing to attack; set "
                "finetune.adversarial=none or dataset.name to a set of two classes or more"
            )
        self.settings, self.adversarial = settings, adversarial
        self.ball: Ball = plain_ball(adversarial.norm, adversarial.epsilon, cipher)
        self._classes = dataset.num_classes
        trained, held_out = hold_out(len(dataset), adversarial.monitor_images, settings.seed)
        self.images = Subset(dataset, trained.tolist()) if len(held_out) else dataset
        self._held_out = Subset(dataset, held_out.tolist()) if len(held_out) else None
        if adversarial.monitor_images and not len(held_out):
            print(
                f"warning: {len(dataset)} training images are too few to hold a tenth out, so the last epoch is kept",
                file=sys.stderr,
            )

    def objective(self, settings: Finetune, accelerator: Accelerator, probe: bool = False) -> Robust:
        """The objective of one training run, with a state of its own; that of the head alone is neither monitored nor
        warmed up."""
        monitor, adversarial = None, self.adversarial
        if not probe and self._held_out is not None:
            monitor = Monitor(self._held_out, self.ball, settings.batch_size, accelerator)
        if probe:  # whose few epochs a warm-up of the run would spend below full strength
            adversarial = adversarial.model_copy(update={"warmup_epochs": 0})
        steps = math.ceil(len(self.images) / (settings.batch_size * settings.accumulation))
        return Robust(settings, adversarial, self.ball, accelerator, steps, self._classes, monitor)


def robust_head(defence: Defence, model: nn.Module, determines: dict[str, Any]) -> Checkpoint:
    """Train the head alone against the attack, in place, on the frozen backbone.

    Source: RoLI, Hua et al., "Initialization matters for adversarial transfer learning", CVPR 2024.

    Returns:
        The checkpoint of the finished probe, to be kept until the run is finished too: a resumed run loads it.
    """
    settings = defence.settings.model_copy(
        update={"method": "linear", "epochs": defence.adversarial.head_epochs, "batch_norm": "frozen"}
    )
    accelerator = make_accelerator(settings.precision)
    # a copy, so that devices, precision and frozen statistics of the probe leave no trace
    probed = attach(make_tuner(settings), copy.deepcopy(model), settings, defence.images)
    checkpoint = Checkpoint({**determines, "phase": "head"}, scratch_folder())
    objective = defence.objective(settings, accelerator, probe=True)
    optimizer = make_optimizer(settings, probed)
    training = Training(settings, accelerator, probed, optimizer, defence.images, checkpoint, objective=objective)
    training.run()
    probed = dict(accelerator.unwrap_model(training.model).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if probed[name].requires_grad:
                parameter.copy_(probed[name])
    return checkpoint


def robust_values(objective: Robust, training: Training) -> dict[str, Any]:
    """Figures of adversarial training for the result file; those of the selected epoch where one was selected."""
    chosen = training.history[(objective.selected_epoch or len(training.history)) - 1]
    seconds = training.seconds
    values = {name: value for name, value in chosen.items() if name.startswith(("train_", "heldout"))}
    return values | {
        "attack_steps": objective.attack.steps,
        "attack_time_percent": 100 * objective.attack_seconds / seconds if seconds else 0.0,
        "selected_epoch": objective.selected_epoch or len(training.history),
    }
