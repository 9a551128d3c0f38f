"""The training loop: one for every method and objective, resumable, on one device or many (accelerate)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ppvit.config import Finetune
from ppvit.core.progress import tqdm
from ppvit.core.results import Stopwatch
from ppvit.core.sharing import require_alike, require_as_asked
from ppvit.data.batches import EncryptedImages, epoch_batches, load_batches, shared_out
from ppvit.models import model_input
from ppvit.training.augmentation import Augmenter
from ppvit.training.average import WeightAverage
from ppvit.training.checkpoint import Checkpoint, Extent
from ppvit.training.endings import Diverged
from ppvit.training.hardware import Arithmetic, attention_in_steps, place
from ppvit.training.objective import Objective
from ppvit.training.schedule import learning_rate_factor
from ppvit.training.selection import Selection

Log = Callable[[int, dict[str, float]], None]


def make_accelerator(precision: str) -> Accelerator:
    """accelerate's view of the devices; ``precision`` is ``finetune.precision``.

    Raises:
        UsageError: fp16 without a GPU; fewer processes than were asked for.
    """
    precision = Arithmetic.of(precision).precision
    # accelerate keeps the first precision of a process for all later ones, unless its state is cleared
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    require_as_asked(accelerator.num_processes)
    return accelerator


class Training:
    """One training run, its position, and what it has measured.

    Attributes:
        model: as accelerate prepared it.
        history: one dictionary of metrics an epoch.
        selection: knows which epoch's weights the model has at the end.
        images_per_second: over all processes and the steps made since the last start, loading included.
        seconds: that those steps took.
    """

    def __init__(
        self,
        settings: Finetune,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        dataset: EncryptedImages,
        checkpoint: Checkpoint,
        log: Log | None = None,
        objective: Objective | None = None,
        selection: Selection | None = None,
        average: WeightAverage | None = None,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.settings, self.dataset, self.checkpoint = settings, dataset, checkpoint
        self._accelerator, self._log = accelerator, log
        self._objective = objective or Objective(settings.label_smoothing)
        self.selection = selection or Selection()
        self._average, self._augmenter = average, augmenter or Augmenter()
        self._arithmetic = Arithmetic.of(settings.precision)
        self.model, self._optimizer = accelerator.prepare(place(model, self._arithmetic), optimizer)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        balanced = settings.sampling == "balanced"
        self._strata = dataset.labelling.strata(dataset.labels()) if balanced else None
        self.history: list[dict[str, float]] = []
        self.images_per_second = self.seconds = 0.0
        self._effective_batch = settings.batch_size * settings.accumulation
        self.steps_per_epoch = math.ceil(len(dataset) / self._effective_batch)
        # sums of what the objective measures over this epoch so far, in this process
        self._sums = torch.zeros(len(self._objective.measures), dtype=torch.float64, device=accelerator.device)

    def run(self) -> None:
        """Train from the checkpoint, or from the start, to the end."""
        first_epoch, step = self._resume()
        require_alike(
            (self.checkpoint.name, first_epoch, step),
            "the processes do not start from the same model, images and checkpoint; give all hosts the same folders, "
            "PPVIT_SCRATCH among them",
        )
        total = self.settings.epochs * len(self.dataset)
        earlier = first_epoch * len(self.dataset) + step * self._effective_batch
        quiet = None if self._accelerator.is_main_process else True  # None: quiet unless stderr is a terminal
        watch, done = Stopwatch(), 0
        bar = tqdm(total=total, initial=earlier, unit="img", desc=self._objective.verb, disable=quiet, file=sys.stderr)
        with bar, self._arithmetic.in_force(), attention_in_steps(self.model, self._arithmetic):
            for epoch in range(first_epoch, self.settings.epochs):
                if self.selection.enough(epoch):
                    break
                for images in self._steps(epoch, step):
                    done += images
                    bar.update(images)
                step = 0
                self._finish_epoch(epoch)
                bar.set_postfix(loss=f"{self.history[-1]['train_loss']:.4f}")
        self.seconds = watch.seconds()
        self.images_per_second = done / self.seconds if done else 0.0
        self._keep()

    def _keep(self) -> None:
        """Put the weights that are kept in place: those of an epoch before, the average, or as they are."""
        if self._average:
            self._average.finish(self._bare)
        self.selection.finish(self._bare)

    @property
    def _bare(self) -> nn.Module:
        """The model without the wrapper of several processes."""
        bare: nn.Module = self._accelerator.unwrap_model(self.model)
        return bare

    def _steps(self, epoch: int, first_step: int) -> Iterator[int]:
        """Make the optimiser steps of an epoch from ``first_step`` on; yields the images (of all processes) of each."""
        self.model.train()
        accumulation = self.settings.accumulation
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        batch_size, seed, together = self.settings.batch_size, self.settings.seed, self._augmenter.together
        batches = epoch_batches(
            len(self.dataset), batch_size, seed, epoch, rank, world, self._strata, together, self.dataset.views
        )
        batches = [self.dataset.in_turn(batch, epoch) for batch in batches[first_step * accumulation :]]
        # a process without an image in the last batch computes one at weight zero, so that all processes meet
        loaded = load_batches(self.dataset, [batch if len(batch) else np.zeros(1, np.intp) for batch in batches])
        for step in range(first_step, self.steps_per_epoch):
            count = min(self._effective_batch, len(self.dataset) - step * self._effective_batch)
            micro_batches, batches = batches[:accumulation], batches[accumulation:]
            self._objective.begin_step(epoch, step)
            self._augmenter.begin_step(epoch, step, self._effective_batch)
            for position, batch in enumerate(micro_batches):
                # sums weighted by 1 / count add up to the mean over the effective batch, whatever its division into
                # micro-batches and processes; accelerate averages over processes, hence the factor world
                weight = world / count if len(batch) else 0.0
                last = position == len(micro_batches) - 1
                first = position * batch_size
                places = first + shared_out(min(batch_size, count - first), rank, world, together)
                with nullcontext() if last else self._accelerator.no_sync(self.model):
                    self._backward(*next(loaded), weight, places if len(places) else np.zeros(1, np.intp))
            self._optimizer_step(epoch * self.steps_per_epoch + step)
            yield count
            if step + 1 < self.steps_per_epoch and self._checkpoint_due():
                self._save(epoch, step + 1)

    def _backward(self, images: Tensor, labels: Tensor, weight: float, places: np.ndarray) -> None:
        """Add the gradient of the objective, summed over images and times ``weight``.

        Args:
            images, labels: as they were read.
            weight: see the caller.
            places: of the images in the effective batch.
        """
        device = self._accelerator.device
        inputs, labels = model_input(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
        inputs, targets = self._augmenter(inputs, labels, places)
        loss, measured = self._objective.loss(self.model, inputs, targets)
        self._accelerator.backward(loss * weight)
        if weight:
            self._sums += measured
            self._objective.count(measured, len(labels))

    def _optimizer_step(self, step: int) -> None:
        factor = learning_rate_factor(self.settings, step, self.settings.epochs * self.steps_per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor * group["rate"] * self._objective.rate
        if self.settings.gradient_clip:
            self._accelerator.clip_grad_norm_(self._trained, self.settings.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average:
            self._average.update(self._bare)

    def _finish_epoch(self, epoch: int) -> None:
        self._require_finite(epoch)
        means = (self._accelerator.reduce(self._sums) / len(self.dataset)).tolist()
        metrics = {
            name: 100 * mean if name.endswith("_percent") else mean
            for name, mean in zip(self._objective.measures, means, strict=True)
        }
        metrics["learning_rate"] = self._optimizer.param_groups[0]["lr"]
        with self._average.in_place(self._bare) if self._average else nullcontext():
            validated = self.selection.end_epoch(epoch + 1, self._bare)
        self.history.append(metrics | validated | self._objective.end_epoch(validated))
        if self._objective.restarts:
            self.selection.finish(self._bare)
        self._sums.zero_()
        self._report(epoch)
        self._save(epoch + 1, 0)

    def _report(self, epoch: int) -> None:
        if self._log and self._accelerator.is_main_process:
            self._log(epoch + 1, self.history[epoch])

    def _require_finite(self, epoch: int) -> None:
        if not torch.isfinite(self._sums[0]):
            raise Diverged(
                f"the training loss is not a number in epoch {epoch + 1}; lower finetune.learning_rate "
                f"({self.settings.learning_rate}) or set finetune.precision=fp32"
            )

    def _checkpoint_due(self) -> bool:
        due = self.checkpoint.due()
        if self._accelerator.num_processes > 1:  # clocks differ, and all processes must decide alike
            due = bool(self._accelerator.reduce(torch.tensor(float(due), device=self._sums.device)) > 0)
        return due

    def _save(self, epoch: int, step: int) -> None:
        self._require_finite(epoch)
        sums, objective = self._accelerator.reduce(self._sums), self._objective.state()
        scaler = self._accelerator.scaler  # of fp16
        if self._accelerator.is_main_process:
            progress = {"epoch": epoch, "step": step, "history": self.history, "sums": sums.tolist()}
            progress |= {"objective": objective, "scaler": scaler.state_dict() if scaler else None}
            progress |= {"selection": self.selection.state()}
            progress |= {"average": self._average.state() if self._average else {}}
            self.checkpoint.save(self._bare, self._optimizer, progress)

    def _resume(self) -> tuple[int, int]:
        """Epoch and optimiser step to start at."""
        extent = Extent(self.settings.epochs, self.steps_per_epoch, len(self._objective.measures))
        progress = self.checkpoint.load(self._bare, self._optimizer, extent)
        if progress is None:
            return 0, 0
        self.history = progress["history"]
        self._objective.load_state(progress["objective"])
        self.selection.load_state(progress["selection"])
        if self._average:
            self._average.load_state(progress["average"])
        if progress["scaler"]:
            self._accelerator.scaler.load_state_dict(progress["scaler"])
        # every process counts from the main one's sums, the others from zero, so that their sum is right
        if self._accelerator.is_main_process:
            self._sums += torch.tensor(progress["sums"], dtype=torch.float64, device=self._sums.device)
        for epoch in range(len(self.history)):
            self._report(epoch)
        done = f"{progress['epoch']} epochs and {progress['step']} steps"
        print(f"{self._objective.verb}: resumed after {done}", file=sys.stderr)
        return progress["epoch"], progress["step"]
