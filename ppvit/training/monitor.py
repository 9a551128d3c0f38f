"""Accuracy under attack on held-out training images: it chooses the epoch and tells when an attack is too weak.

Attacks of one or two steps can be learned by heart ("catastrophic overfitting", Wong et al., arXiv 2001.03994):
training then looks well while a stronger attack finds everything. Robust accuracy also falls late in long runs (Rice et
al., arXiv 2002.11569). Never measured on test images, which would make the choice part of the result.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Subset

from ppvit.data.batches import Images, load_batches
from ppvit.evasion.ball import Ball
from ppvit.evasion.pgd import PgdAttack, frozen
from ppvit.models import model_input
from ppvit.models.tasks import MULTICLASS, Task

STEPS = 20
DROP_PERCENT = 5.0  # below the best so far: the attack of training has become too weak
IMAGES_PER_HELD_OUT = 10  # at least; PGD-20 on more would cost as much as training against few steps


def hold_out(samples: int, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on, sorted, and indices held out: ``wanted`` of them, a tenth of all at most."""
    count = min(wanted, samples // IMAGES_PER_HELD_OUT)
    # a stream of its own: the order of the epochs takes (seed, epoch)
    order = np.random.default_rng((seed, 2**32, samples)).permutation(samples)
    return np.sort(order[count:]), np.sort(order[:count])


class Monitor:
    """PGD-20 with steps of a quarter of the radius, cross-entropy and a uniform start, always the same.

    Args:
        dataset: the held-out images, encrypted.
        ball: of the attack.
        batch_size: images a forward pass, over all processes.
        accelerator: processes and device.
        task: what logits mean.
    """

    def __init__(
        self, dataset: Images, ball: Ball, batch_size: int, accelerator: Accelerator, task: Task = MULTICLASS
    ) -> None:
        self._attack = PgdAttack(ball, STEPS, ball.epsilon / 4, task=task)
        self._accelerator, self._images = accelerator, len(dataset)
        own = np.arange(len(dataset))[accelerator.process_index :: accelerator.num_processes]
        self._dataset = Subset(dataset, own.tolist())
        size = max(1, batch_size // accelerator.num_processes)
        self._batches = [np.arange(start, min(start + size, len(own))) for start in range(0, len(own), size)]

    def measure(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy on clean images and under attack, in percent; the model is not the wrapper of several processes."""
        device = self._accelerator.device
        counts = torch.zeros(2, dtype=torch.float64, device=device)
        generator = torch.Generator(device).manual_seed(self._accelerator.process_index)
        for images, labels in load_batches(self._dataset, self._batches):
            inputs, labels = model_input(images.to(device)), labels.to(device)
            moved = self._attack.perturb(model, inputs, labels, generator)
            counts += torch.stack([self._right_answers(model, each, labels) for each in (inputs, moved)])
        clean, robust = (100 * self._accelerator.reduce(counts) / self._images).tolist()
        return clean, robust

    def _right_answers(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        with frozen(model), torch.no_grad():
            return self._attack.task.right(model(inputs), labels)
