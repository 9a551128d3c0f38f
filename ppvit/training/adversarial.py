"""Training against an attack: AT on adversarial images, TRADES on clean and adversarial ones.

Sources: LoFT, whose loss is ``u CE(z, y) + v KL(softmax z || softmax z')`` with z and z' the logits of an image and of
its adversarial version; TRADES, Zhang et al., arXiv 1901.08573; AT, Madry et al., arXiv 1706.06083, Eq. 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ppvit.config import Adversarial, Finetune
from ppvit.core.results import Stopwatch
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.evasion.pgd import PgdAttack
from ppvit.models.tasks import MULTICLASS, Task
from ppvit.training.halving import Halving
from ppvit.training.monitor import DROP_PERCENT, ROBUST
from ppvit.training.objective import Objective
from ppvit.training.scalars import REFRESHES, RunningAccuracy, automatic_weights


def attack_of(loss: str, settings: Adversarial, ball: Ball, task: Task = MULTICLASS) -> PgdAttack:
    """The attack of training: by default kl from noise for TRADES, cross-entropy from a uniform start for AT.

    With a second branch it is cross-entropy too, from noise for AutoLoRa.
    """
    inner = settings.inner_loss
    if inner == "auto":
        inner = "kl" if loss == "trades" and settings.branch == "none" else "ce"
    start = settings.start
    if start == "auto":
        start = "noise" if inner == "kl" or settings.branch == "lora" else "uniform"
    step_size = settings.step_size * GREY_LEVEL
    return PgdAttack(ball, settings.steps, step_size, start, inner, task, settings.mode == "train")


class Robust(Objective):
    """LoFT's loss with an attack on every batch.

    The attack sees the model in eval mode and float32 images; under autocast the model alone computes in bf16. Clean
    and adversarial images then pass the model in one batch, in training mode: batch normalisation that is not frozen
    takes its statistics from both.

    Args:
        settings: the section ``finetune``.
        adversarial: the section ``adversarial``.
        ball: where the attack may move an image.
        accelerator: processes and device.
        steps_per_epoch: optimiser steps of an epoch.
        num_classes: C.
        task: what logits mean.

    Attributes:
        attack: the one of training, whose steps change when the accuracy under the monitor's attack falls.
        attack_seconds: time in attacks of training since this process started.
    """

    def __init__(
        self,
        settings: Finetune,
        adversarial: Adversarial,
        ball: Ball,
        accelerator: Accelerator,
        steps_per_epoch: int,
        num_classes: int,
        task: Task = MULTICLASS,
    ) -> None:
        super().__init__(settings.label_smoothing, task)
        self._trades = settings.adversarial == "trades"
        if self._trades:
            self.measures = (*Objective.measures, "train_natural_loss", "train_robust_loss")
            self.measures += ("train_robust_accuracy_percent",)
        self._seed, self._adversarial = settings.seed, adversarial
        self._accelerator, self._steps_per_epoch = accelerator, steps_per_epoch
        self.attack = attack_of(settings.adversarial, adversarial, ball, task)
        self.attack_seconds = 0.0
        self._strength = 1.0
        self._generator = torch.Generator(accelerator.device)
        self._accuracy = RunningAccuracy(task.chance(num_classes), accelerator.device)
        self._best_percent = -math.inf
        self._halving = Halving(settings.epochs) if settings.schedule == "halving" else None
        self._epochs = 0

    @property
    def weights(self) -> tuple[float, float]:
        """u and v as they are now."""
        weights = (self._adversarial.natural_weight, self._adversarial.robust_weight)
        return automatic_weights(*weights, self._accuracy.value) if self._adversarial.scalars == "auto" else weights

    def begin_step(self, epoch: int, step: int) -> None:
        # a new stream for every step, so that a resumed run needs no state of it
        words = (self._seed, epoch, step, self._accelerator.process_index)
        self._generator.manual_seed(int(np.random.default_rng(words).integers(2**63)))
        warmup = self._adversarial.warmup_epochs * self._steps_per_epoch
        self._strength = min(1.0, (epoch * self._steps_per_epoch + step + 1) / warmup) if warmup else 1.0
        if step % math.ceil(self._steps_per_epoch / REFRESHES) == 0:
            self._accuracy.refresh(self._accelerator.reduce(self._accuracy.counts))

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its measures, see :meth:`Objective.loss`; under AT all are those of the adversarial images."""
        moved = self._perturb(model, images, labels)
        if not self._trades:
            return super().loss(model, moved, labels)
        # one pass over both: several processes expect a single one before the gradients are summed
        clean, adversarial = model(torch.cat([images, moved])).float().chunk(2)
        natural = self._task.loss(clean, labels, self._label_smoothing)
        robust = self._task.divergence(clean, adversarial)
        natural_weight, robust_weight = self.weights
        loss = natural_weight * natural + robust_weight * robust
        right, robustly_right = (self._task.right(logits, labels) for logits in (clean, adversarial))
        measures = [loss, right, natural, robust, robustly_right]
        return loss, torch.stack([measure.detach().double() for measure in measures])

    def count(self, measured: Tensor, images: int) -> None:
        if self._trades:
            self._accuracy.add(measured[1], images)

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        watch = Stopwatch()
        ball = replace(self.attack.ball, epsilon=self._strength * self.attack.ball.epsilon)
        attack = replace(self.attack, ball=ball, step_size=self._strength * self.attack.step_size)
        # without the wrapper of several processes
        moved = attack.perturb(self._accelerator.unwrap_model(model), images, labels, self._generator)
        self.attack_seconds += watch.seconds()  # the attack's last check waits for a GPU, so this is its whole time
        return moved

    def end_epoch(self, validated: Mapping[str, float]) -> dict[str, float]:
        """Strengthen the attack if the accuracy under the monitor's has fallen; the metrics are those of this epoch."""
        metrics = {"attack_steps": float(self.attack.steps)}
        self._epochs += 1
        if self._halving:
            self.restarts = self._halving.end_epoch(self._epochs, validated[ROBUST])
            self.rate = self._halving.rate
        if self._adversarial.scalars == "auto":
            metrics |= dict(zip(("natural_weight", "robust_weight"), self.weights, strict=True))
        if ROBUST in validated:
            if validated[ROBUST] < self._best_percent - DROP_PERCENT:
                self._strengthen()
            self._best_percent = max(self._best_percent, validated[ROBUST])
        return metrics

    def _strengthen(self) -> None:
        """More steps, of a length that crosses the ball two and a half times (Madry et al.), from inside of it."""
        steps = self._adversarial.fallback_steps
        if steps > self.attack.steps:
            start = "uniform" if self.attack.start == "n_fgsm" else self.attack.start
            step_size = 2.5 * self.attack.ball.epsilon / steps
            self.attack = replace(self.attack, steps=steps, step_size=step_size, start=start)

    def state(self) -> dict[str, Any]:
        attack = {"steps": self.attack.steps, "step_size": self.attack.step_size, "start": self.attack.start}
        counts = self._accelerator.reduce(self._accuracy.counts).tolist()
        seen = {"accuracy": self._accuracy.value, "counts": counts}
        halving = self._halving.state() if self._halving else []
        return {
            "attack": attack,
            "best_percent": self._best_percent,
            "epochs": self._epochs,
            "halving": halving,
            **seen,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.attack = replace(self.attack, **state["attack"])
        self._best_percent, self._epochs = state["best_percent"], state["epochs"]
        if self._halving:
            self._halving.load_state(state["halving"])
            self.rate = self._halving.rate
        self._accuracy.value = state["accuracy"]
        # the counts are those of all processes together: one takes them, the others start from zero
        if self._accelerator.is_main_process:
            self._accuracy.counts += self._accuracy.counts.new_tensor(state["counts"])
