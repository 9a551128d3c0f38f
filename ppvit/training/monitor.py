"""Accuracy under attack on the validation images: it chooses the epoch and tells when an attack is too weak.

Attacks of one or two steps can be learned by heart ("catastrophic overfitting", Wong et al., arXiv 2001.03994):
training then looks well while a stronger attack finds everything. Robust accuracy also falls late in long runs (Rice et
al., arXiv 2002.11569). Never measured on test images, which would make the choice part of the result.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.evasion.ball import Ball
from ppvit.evasion.pgd import PgdAttack, frozen
from ppvit.models import model_input
from ppvit.models.tasks import MULTICLASS, Task

STEPS = 20
DROP_PERCENT = 5.0  # below the best so far: the attack of training has become too weak
MOST_IMAGES = 512  # attacked after an epoch: PGD-20 on more would cost as much as training against few steps
ROBUST, ROBUST_LOSS = "val_robust_accuracy_percent", "val_robust_loss"


class Monitor:
    """PGD-20 with steps of a quarter of the radius, cross-entropy and a uniform start, always the same.

    Args:
        dataset: the validation images, encrypted, at least one; the first ``MOST_IMAGES`` of them, whose order is
            random, are attacked.
        ball: of the attack.
        batch_size: images a forward pass, over all processes.
        accelerator: processes and device.
        task: what logits mean.
    """

    def __init__(
        self, dataset: EncryptedImages, ball: Ball, batch_size: int, accelerator: Accelerator, task: Task = MULTICLASS
    ) -> None:
        self._attack = PgdAttack(ball, STEPS, ball.epsilon / 4, task=task)
        self._accelerator, self._dataset = accelerator, dataset
        self._images = min(len(dataset), MOST_IMAGES)
        own = np.arange(self._images)[accelerator.process_index :: accelerator.num_processes]
        size = max(1, batch_size // accelerator.num_processes)
        self._batches = [own[start : start + size] for start in range(0, len(own), size)]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Accuracy under attack in percent, and the loss under it in nats; called in every process.

        Args:
            model: not the wrapper of several processes.
        """
        device = self._accelerator.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        generator = torch.Generator(device).manual_seed(self._accelerator.process_index)
        for images, labels in load_batches(self._dataset, self._batches):
            inputs, labels = model_input(images.to(device, non_blocking=True)), labels.to(device)
            moved = self._attack.perturb(model, inputs, labels, generator)
            with frozen(model), torch.no_grad():
                logits = model(moved).float()
            task = self._attack.task
            sums += torch.stack([task.right(logits, labels).double(), task.loss(logits, labels).double()])
        right, loss = (self._accelerator.reduce(sums) / self._images).tolist()
        return {ROBUST: 100 * right, ROBUST_LOSS: loss}
