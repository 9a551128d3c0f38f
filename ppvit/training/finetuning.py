"""Fine-tuning on encrypted images, plain or against an attack, from an adapted model to a trained one.

Neither key nor plain image is needed or looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppvit import __version__
from ppvit.config import Adversarial, Finetune
from ppvit.core.reading import sha256_of
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages
from ppvit.data.labels import recorded
from ppvit.data.manifests import PREPARED
from ppvit.models import load_model, read_record
from ppvit.models.tasks import task_of
from ppvit.training.adversarial import Robust
from ppvit.training.attach import attach
from ppvit.training.checkpoint import Checkpoint, seed_everything
from ppvit.training.defence import Defence, robust_head, robust_values
from ppvit.training.loop import Log, Training, make_accelerator
from ppvit.training.objective import Objective
from ppvit.training.schedule import make_optimizer
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
    dataset: EncryptedImages,
    adapted: Path,
    log: Log | None = None,
) -> Finetuned:
    """Fine-tune the adapted model on encrypted training images.

    Args:
        settings: the ``finetune`` section.
        adversarial: the ``adversarial`` section; unused where ``finetune.adversarial`` is none.
        dataset: training images.
        adapted: folder of the model that they were made for.
        log: called after every epoch with its number and metrics; after a resume with all earlier epochs first.

    A run that was killed goes on from its last checkpoint, and on a CPU ends with the result of an uninterrupted one.

    Raises:
        PpvitError: images or model damaged; the loss is not a number.
        UsageError: unknown method, precision that the device lacks, a cipher under which an attack has no radius.
    """
    record = read_record(adapted, "adapt")
    tuner = make_tuner(settings)
    defence = None
    if settings.adversarial != "none":
        defence = Defence(settings, adversarial, dataset, record)
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
    checkpoints = []
    if defence and defence.adversarial.head_init == "robust":
        checkpoints.append(robust_head(defence, model, determines))
        accelerator = make_accelerator(settings.precision)
        seed_everything(settings.seed)  # the method's new weights must not depend on whether the probe was resumed
    objective = (
        defence.objective(settings, accelerator)
        if defence
        else Objective(settings.label_smoothing, task_of(dataset.labelling.task))
    )
    model = attach(tuner, model, settings, images)
    parameters = trainable_parameters(model)
    optimizer = make_optimizer(settings, model, tuner.learning_rates(), tuner.undecayed)
    checkpoints.append(Checkpoint(determines, scratch_folder()))
    training = Training(settings, accelerator, model, optimizer, images, checkpoints[-1], log, objective)
    training.run()
    kept = {"method": settings.method, "num_classes": dataset.num_classes, "finetune": settings.model_dump()}
    kept |= recorded(dataset.labelling.task)
    kept |= {name: record[name] for name in ("key_id", "cipher", "image_size")}
    kept |= {name: dataset.manifest[name] for name in PREPARED if name in dataset.manifest}
    kept["blocks_sha256"] = blocks_sha256(adapted)
    if defence:
        kept["adversarial"] = defence.adversarial.model_dump()
    values = {
        "method": settings.method,
        "train_loss": training.history[-1]["train_loss"],
        "train_accuracy_percent": training.history[-1]["train_accuracy_percent"],
        "trainable_parameters": parameters,
        "trainable_parameters_mi": parameters / 2**20,
        "images_per_second": training.images_per_second,
        "epochs": settings.epochs,
        "processes": accelerator.num_processes,
    }
    if isinstance(objective, Robust):
        values |= robust_values(objective, training)
    trained = accelerator.unwrap_model(training.model).cpu()
    return Finetuned(tuner, trained, kept, values, accelerator.is_main_process, checkpoints)
