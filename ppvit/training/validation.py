"""Scores of a model under training, on images that it is not trained on."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ppvit.data.batches import EncryptedImages, load_batches
from ppvit.data.labels import Labelling
from ppvit.evaluation.scoring import BATCH, scores_for
from ppvit.evasion.pgd import frozen
from ppvit.models import model_input


class Validation:
    """The figure that models are compared by, accuracy or mean AUROC, the chosen one, and the loss, after every epoch.

    Every process computes the logits of its part of each batch and then has those of all, so that all of them score
    alike and come to the same decision.

    Args:
        dataset: encrypted images, at least one.
        accelerator: processes and device.
        chosen: the figure, as ``finetune.select_by`` names it.

    Attributes:
        figure, loss: names of the figure that may choose, of which more is better, and of the loss; they begin with
            the name of the split.
    """

    def __init__(self, dataset: EncryptedImages, accelerator: Accelerator, chosen: str = "auto") -> None:
        self._dataset, self._accelerator = dataset, accelerator
        self._targets = torch.from_numpy(dataset.labelling.targets(dataset.labels()))
        headline, figure = scores_for(dataset.labelling).headline, figure_of(dataset.labelling, chosen)
        self._split = dataset.manifest["split"]
        self._measured = {headline: headline, figure: figure, "cross_entropy": "loss"}
        self.figure, self.loss = f"{self._split}_{figure}", f"{self._split}_loss"

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The figures in their own units, and the mean loss in nats; called in every process.

        Args:
            model: not the wrapper of several processes.

        Raises:
            PpvitError: the logits are not numbers.
        """
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        batches = np.split(np.arange(len(self._dataset)), range(BATCH, len(self._dataset), BATCH))
        scores = scores_for(self._dataset.labelling)
        with frozen(model), torch.no_grad():
            for batch, (images, _) in zip(
                batches, load_batches(self._dataset, _parts(batches, rank, world)), strict=True
            ):
                logits = model(model_input(images.to(self._accelerator.device, non_blocking=True))).float()
                gathered = self._accelerator.gather(logits)  # by process; then in the order of the batch
                gathered = gathered.unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)
                scores.add(gathered[: len(batch)], self._targets[batch])
        found = scores.figures(self._measured)
        return {f"{self._split}_{name}": found[figure] for figure, name in self._measured.items()}


def figure_of(labelling: Labelling, chosen: str) -> str:
    """The name among the scores of what ``finetune.select_by`` names; where that is the loss, of the usual figure."""
    if chosen in ("auto", "loss"):
        return scores_for(labelling).headline
    return chosen if chosen == "auroc" else f"{chosen}_percent"


def _parts(batches: list[np.ndarray], rank: int, world: int) -> list[np.ndarray]:
    """What one process computes of every batch: each world-th image; as many as any other, if need be the first one."""
    parts = []
    for batch in batches:
        filled = np.concatenate([batch, np.repeat(batch[:1], -len(batch) % world)])
        parts.append(filled[rank::world])
    return parts
