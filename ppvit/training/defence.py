"""Parts of adversarial fine-tuning: the size of the attack, its monitor, and a head that starts robust."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ppvit.config import Adversarial, Finetune
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages
from ppvit.evasion.ball import Ball
from ppvit.evasion.isometry import plain_ball
from ppvit.models.tasks import Multiclass, Task, task_of
from ppvit.training.adversarial import Robust
from ppvit.training.attach import attach
from ppvit.training.branches import AutoLora, Twins
from ppvit.training.checkpoint import Checkpoint
from ppvit.training.loop import Training, make_accelerator
from ppvit.training.monitor import Monitor
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner


class Defence:
    """The attack, for one run of adversarial fine-tuning.

    Args:
        settings, adversarial: the sections.
        dataset: training images.
        record: what the model's record says of the cipher.

    Attributes:
        images: ``dataset``.

    Raises:
        PpvitError: one class only.
        UsageError: the cipher does not keep distances.
    """

    def __init__(
        self, settings: Finetune, adversarial: Adversarial, dataset: EncryptedImages, record: dict[str, Any]
    ) -> None:
        if dataset.num_classes < 2 and dataset.labelling.task == Multiclass.name:
            raise PpvitError(
                f"the shards have {dataset.num_classes} class, so there is nothing to attack; set "
                "finetune.adversarial=none or dataset.name to a set of two classes or more"
            )
        self.settings, self.adversarial = settings, adversarial
        self.ball: Ball = plain_ball(adversarial.norm, adversarial.epsilon, record)
        self.images, self._task = dataset, task_of(dataset.labelling.task)

    def objective(self, settings: Finetune, accelerator: Accelerator, task: Task, probe: bool = False) -> Robust:
        """The objective of one training run, with a state of its own; that of the head alone is not warmed up.

        Its attack and the loss are those of ``task``, weights included.
        """
        adversarial = self.adversarial
        if probe:  # whose few epochs a warm-up of the run would spend below full strength
            adversarial = adversarial.model_copy(update={"warmup_epochs": 0})
        steps = math.ceil(len(self.images) / (settings.batch_size * settings.accumulation))
        kind = Robust if probe else {"none": Robust, "twins": Twins, "lora": AutoLora}[adversarial.branch]
        if kind is not Robust and accelerator.num_processes > 1:
            raise UsageError(f"adversarial.branch {adversarial.branch} trains in one process; unset PPVIT_PROCESSES")
        return kind(settings, adversarial, self.ball, accelerator, steps, self.images.num_classes, task)

    def monitor(self, val: EncryptedImages, accelerator: Accelerator) -> Monitor:
        """What measures accuracy under attack after every epoch."""
        return Monitor(val, self.ball, self.settings.batch_size, accelerator, self._task)


def robust_head(defence: Defence, model: nn.Module, determines: dict[str, Any], task: Task) -> Checkpoint:
    """Train the head alone against the attack, in place, on the frozen backbone.

    Source: RoLI, Hua et al., "Initialization matters for adversarial transfer learning", CVPR 2024.

    Returns:
        The checkpoint of the finished probe, to be kept until the run is finished too: a resumed run loads it.
    """
    plainly: dict[str, Any] = {"batch_norm": "frozen", "drop_path": 0.0, "layer_decay": 1.0, "ema_decay": 0.0}
    plainly |= {"schedule": "cosine"} if defence.settings.schedule == "halving" else {}
    settings = defence.settings.model_copy(
        update={"method": "linear", "epochs": defence.adversarial.head_epochs, **plainly}
    )
    accelerator = make_accelerator(settings.precision)
    # a copy, so that devices, precision and frozen statistics of the probe leave no trace
    probed = attach(make_tuner(settings), copy.deepcopy(model), settings, defence.images)
    checkpoint = Checkpoint({**determines, "phase": "head"}, scratch_folder())
    objective = defence.objective(settings, accelerator, task, probe=True)
    optimizer = make_optimizer(settings, probed)
    training = Training(settings, accelerator, probed, optimizer, defence.images, checkpoint, objective=objective)
    training.run()
    trained = dict(accelerator.unwrap_model(training.model).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if trained[name].requires_grad:
                parameter.copy_(trained[name])
    return checkpoint


def robust_values(objective: Robust, training: Training) -> dict[str, Any]:
    """Figures of adversarial training alone, for the result file."""
    seconds = training.seconds
    return {
        "attack_steps": objective.attack.steps,
        "attack_time_percent": 100 * objective.attack_seconds / seconds if seconds else 0.0,
    }
