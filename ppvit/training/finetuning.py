"""Fine-tuning on encrypted images, plain or against an attack, from an adapted model to a trained one.

Neither key nor plain image is needed or looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ppvit import __version__
from ppvit.config import Adversarial, Augment, Finetune
from ppvit.core.errors import PpvitError, UsageError, say
from ppvit.core.provenance import Made, require_made_alike
from ppvit.core.reading import sha256_of
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages, readers_kept
from ppvit.data.labels import Labelling, recorded
from ppvit.data.manifests import PREPARED
from ppvit.models import load_model, read_record
from ppvit.models.tasks import Multiclass, task_of
from ppvit.training.adversarial import Robust
from ppvit.training.attach import attach
from ppvit.training.augmentation import make_augmenter
from ppvit.training.average import WeightAverage
from ppvit.training.branches import add_branch, drop_branch
from ppvit.training.checkpoint import Checkpoint, seed_everything
from ppvit.training.defence import Defence, robust_head, robust_values
from ppvit.training.endings import Abandoned, Diverged
from ppvit.training.frozen import frozen_once
from ppvit.training.hardware import Arithmetic, take_back
from ppvit.training.loop import Log, Training, make_accelerator
from ppvit.training.monitor import ROBUST, ROBUST_LOSS
from ppvit.training.objective import Objective
from ppvit.training.penalised import objective_of, require_none
from ppvit.training.schedule import make_optimizer
from ppvit.training.selection import Measure, Selection
from ppvit.training.validation import Validation, figure_of
from ppvit.tuners import Tuner, make_tuner, trainable_parameters
from ppvit.tuners.made import blocks_sha256


@dataclass
class Finetuned:
    """A trained model and what its training measured.

    Attributes:
        tuner: the method.
        model: on the CPU, as :meth:`ppvit.tuners.Tuner.attach` returned it.
        record: what is kept of it: method, classes, key id, cipher settings, parameters.
        values: figures for the result file.
        is_main_process: whether this process is the one to write.
    """

    tuner: Tuner
    model: nn.Module
    record: dict[str, Any]
    values: dict[str, Any]
    is_main_process: bool
    _checkpoints: list[Checkpoint]

    def written(self) -> None:
        """Forget the checkpoints, which a killed run would have gone on from."""
        for checkpoint in self._checkpoints:
            checkpoint.remove()


def finetune(
    settings: Finetune,
    adversarial: Adversarial,
    encrypted: Path,
    adapted: Path,
    log: Log | None = None,
    augment: Augment | None = None,
) -> Finetuned:
    """Fine-tune the adapted model on encrypted training images.

    Args:
        settings: the ``finetune`` section.
        adversarial: the ``adversarial`` section; unused where ``finetune.adversarial`` is none.
        encrypted: folder of shards. The splits train and val are read, test only for ``finetune.track_test``.
        adapted: folder of the model that they were made for.
        log: called after every epoch with its number and metrics; after a resume with all earlier epochs first. It may
            raise :class:`ppvit.training.endings.Abandoned`.
        augment: the ``augment`` section; None for its defaults.

    A run that was killed goes on from its last checkpoint, and on a CPU ends with the result of an uninterrupted one.

    Raises:
        PpvitError: images or model missing, damaged or not made for each other; the loss is not a number; there is
            ``finetune.patience`` and no validation image to judge by.
        UsageError: unknown method, precision that the device lacks, a cipher under which an attack has no radius or
            with which an augmentation does not commute.
    """
    augment = augment or Augment()
    splits = _open(settings, encrypted)
    record = read_record(adapted, "adapt")
    made = Made(adapted, record, "adapt")
    require_made_alike(*(Made(each.folder, each.manifest, "encrypt") for each in splits.values()), made)
    with readers_kept(*splits.values()):
        return _finetune(settings, adversarial, augment, splits, adapted, record, log)


def _finetune(
    settings: Finetune,
    adversarial: Adversarial,
    augment: Augment,
    splits: dict[str, EncryptedImages],
    adapted: Path,
    record: dict[str, Any],
    log: Log | None,
) -> Finetuned:
    dataset = splits["train"]
    tuner = make_tuner(settings)
    defence = None
    if settings.adversarial != "none":
        defence = Defence(settings, adversarial, dataset, record)
    augmenter = make_augmenter(augment, dataset.manifest, settings.seed, attacked=defence is not None)
    accelerator = make_accelerator(settings.precision)
    seed_everything(settings.seed)
    model = load_model(adapted, "adapt", dataset.num_classes)
    determines = {
        "settings": settings.model_dump(),
        "adversarial": defence.adversarial.model_dump() if defence else None,
        "augment": augment.model_dump() if augment.names else None,
        "model": sha256_of(adapted / "model.safetensors"),
        "images": {split: images.identity() for split, images in splits.items()},
        "versions": [__version__, torch.__version__],
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "arithmetic": (arithmetic := Arithmetic.of(settings.precision).record()),
    }
    checkpoints = []
    task = task_of(dataset.labelling.task)
    if settings.class_weights == "balanced":
        task = task.weighted(task.balanced_weights(dataset.labelling.counts(dataset.labels()), len(dataset)))
    if defence and defence.adversarial.head_init == "robust":
        checkpoints.append(robust_head(defence, model, determines, task))
        accelerator = make_accelerator(settings.precision)
        seed_everything(settings.seed)  # the method's new weights must not depend on whether the probe was resumed
    augmenter.attach(model)
    model = attach(tuner, model, settings, dataset)
    if defence:
        require_none(model, settings.adversarial)
        model = add_branch(model, defence.adversarial.branch, defence.adversarial.branch_rank, settings)
        objective: Objective = defence.objective(settings, accelerator, task)
    else:
        objective = objective_of(model, settings, task)
    parameters = trainable_parameters(model)
    trains: nn.Module = model
    if not augment.names:
        trains, splits = frozen_once(model, splits, settings, accelerator)
    optimizer = make_optimizer(settings, model, tuner.learning_rates(), tuner.undecayed)
    checkpoints.append(Checkpoint(determines, scratch_folder()))
    selection = _selection(settings, splits, defence, accelerator)
    average = WeightAverage(settings.ema_decay) if settings.ema_decay else None
    training = Training(
        settings,
        accelerator,
        trains,
        optimizer,
        splits["train"],
        checkpoints[-1],
        log,
        objective,
        selection,
        average,
        augmenter,
    )
    try:
        training.run()
    except (Abandoned, Diverged):
        for each in checkpoints:
            each.remove()
        raise
    augmenter.detach()
    kept = {"method": settings.method, "num_classes": dataset.num_classes}
    kept |= recorded(dataset.labelling.task)
    kept |= {name: record[name] for name in ("key_id", "cipher", "image_size")}
    kept["train_images"] = len(dataset)
    kept |= {name: dataset.manifest[name] for name in PREPARED if name in dataset.manifest}
    kept["blocks_sha256"] = blocks_sha256(adapted)
    if augment.names:
        kept["augment"] = augment.model_dump()
    if defence:
        kept["adversarial"] = defence.adversarial.model_dump()
    kept_epoch = training.history[selection.epoch - 1]
    values = {
        "method": settings.method,
        **{name: value for name, value in kept_epoch.items() if name.startswith(("train_", "val_"))},
        "selected_epoch": selection.epoch,
        "train_images": len(dataset),
        "val_images": len(splits["val"]),
        "trainable_parameters": parameters,
        "trainable_parameters_mi": parameters / 2**20,
        "images_per_second": training.images_per_second,
        "epochs": len(training.history),
        "optimiser_steps": len(training.history) * training.steps_per_epoch,
        "processes": accelerator.num_processes,
        **arithmetic,
    }
    if isinstance(objective, Robust):
        values |= robust_values(objective, training)
    trained = take_back(accelerator.unwrap_model(training.model))
    trained = drop_branch(trained) if trains is model else take_back(model)  # with the head that was trained alone
    return Finetuned(tuner, trained, kept, values, accelerator.is_main_process, checkpoints)


def chosen_figure(settings: Finetune, labelling: Labelling) -> str:
    """The metric on the validation images that runs are compared by, and of which more is better."""
    if settings.adversarial != "none" and settings.select_by == "auto":
        return ROBUST
    return f"val_{figure_of(labelling, settings.select_by)}"


def _open(settings: Finetune, encrypted: Path) -> dict[str, EncryptedImages]:
    """The splits that are read."""
    names = ("train", "val", "test") if settings.track_test else ("train", "val")
    return {name: EncryptedImages(encrypted, name) for name in names}


def _selection(
    settings: Finetune, splits: dict[str, EncryptedImages], defence: Defence | None, accelerator: Accelerator
) -> Selection:
    """What is measured after every epoch, and what of it chooses the epoch.

    Raises:
        PpvitError: nothing can be measured on the validation images, and ``finetune.patience`` asks for it.
        UsageError: ``finetune.select_by`` is a figure that such images do not have.
    """
    measures: list[Measure] = []
    chooses = None
    val = splits["val"]
    carried = val.labelling.counts(val.labels())
    several = val.labelling.task != Multiclass.name
    if several and settings.select_by == "balanced_accuracy":
        raise UsageError(
            "finetune.select_by balanced_accuracy is for images of one class each; these carry several: set it to auroc"
        )
    lacking = "" if len(val) else "there are no validation images"
    ranks = settings.select_by == "auroc" or (several and settings.select_by == "auto")  # some images against others
    if not lacking and ranks and not ((carried > 0) & (carried < len(val))).any():
        lacking = f"no {'label' if several else 'class'} tells the validation images apart"
    if lacking and settings.needs_validation:
        asks, without = settings.needs_validation
        raise PpvitError(
            f"{asks}: {lacking} in {val.folder}; raise dataset.val_fraction and encrypt again, or set {without}"
        )
    if not lacking:
        validation = Validation(val, accelerator, settings.select_by)
        measures, chooses = [validation], (validation.figure, validation.loss)
        if settings.select_by in ("auto", "loss"):
            chooses = (validation.loss, validation.loss)
        if defence:
            measures.append(defence.monitor(val, accelerator))
            chooses = (ROBUST, ROBUST_LOSS) if settings.select_by == "auto" else chooses
    elif settings.keeps_best and accelerator.is_main_process:
        say(f"warning: {lacking} in {val.folder}, so the last epoch is kept")
    if settings.track_test:
        measures.append(Validation(splits["test"], accelerator))
    return Selection(measures, chooses, "best" if settings.keeps_best else "last", settings.patience)
