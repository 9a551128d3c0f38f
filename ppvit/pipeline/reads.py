"""Which parameters of a section are read, where that depends on what is chosen: no other changes a result."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help of the command needs neither pydantic nor anything else
    from ppvit.config import Config


def _as_told_by(module: str, section: str) -> Callable[[Config], set[str]]:
    """What the ``parameters_read`` of a package says; the help of the command does not import it."""
    return lambda config: importlib.import_module(module).parameters_read(getattr(config, section))


def _encrypt_reads(config: Config) -> set[str]:
    settings = config.encrypt
    unread = {"view_recipe"} if settings.views == 1 else set()
    unread |= {"view_key_id"} if settings.views == 1 or settings.view_recipe == "none" else set()
    return set(type(settings).model_fields) - unread


def _finetune_reads(config: Config) -> set[str]:
    from ppvit.config.methods import read_by_method

    model, unread = config.model, set()
    if model.adaptnet != "ele":
        unread = {"smoothness_penalty"}
        unread |= set() if model.adaptive_matrix and model.matrix_form == "l12" else {"permutation_penalty"}
    return read_by_method(config.finetune) - unread


def _augment_reads(config: Config) -> set[str]:
    from ppvit.config.methods import read_by_augmentations

    return read_by_augmentations(config.augment)


def _audit_reads(config: Config) -> set[str]:
    from ppvit.config.methods import read_by_attacks

    return read_by_attacks(config.audit)


def _model_reads(config: Config) -> set[str]:
    model = config.model
    unread = set() if model.name.startswith("pyramidnet") else {"shake_drop"}
    unread |= set() if model.adaptive_matrix else {"matrix_form"}
    return set(type(model).model_fields) - unread


def _adversarial_reads(config: Config) -> set[str]:
    loss, settings = config.finetune.adversarial, config.adversarial
    if loss == "none":
        return set()
    unread = set() if loss == "trades" else {"natural_weight", "robust_weight", "scalars"}
    unread |= {"scalars"} if settings.branch == "twins" else set()
    unread |= set() if settings.branch == "twins" else {"branch_weight"}
    unread |= set() if settings.branch == "lora" else {"branch_rank"}
    unread |= set() if settings.head_init == "robust" else {"head_epochs"}
    return set(type(settings).model_fields) - unread


def _pretrain_reads(config: Config) -> set[str]:
    method = config.pretrain.method
    if method == "supervised":
        return {"method", "steps", "batch_size", "learning_rate", "weight_decay", "patch_drop", "seed"}
    unread = {"steps", "patch_drop"} | ({"temperature"} if method == "byol" else set())
    unread |= set() if method in ("byol", "dynacl") else {"momentum"}
    unread |= set() if method == "advcl" else {"pseudo_weight"}
    return set(type(config.pretrain).model_fields) - unread


def _adversarial_read_by_pretrain(config: Config) -> set[str]:
    return {"norm", "epsilon", "steps", "step_size"} if config.pretrain.attacked else set()


def _model_read_by_he(config: Config) -> set[str]:
    return _model_reads(config) if config.he.features == "backbone" else set()  # pixels need no model


def _training_read_by_threats(config: Config) -> set[str]:
    chosen = (config.robustness.steps, config.threats.images, config.threats.queries, config.threats.surrogate_images)
    return _training("auto" in chosen, config)


def _training_read_by_audit(config: Config) -> set[str]:
    return _training(config.audit.training_steps == "auto" and "training_steps" in _audit_reads(config), config)


def _training(read: bool, config: Config) -> set[str]:
    """How long training took: of ``finetune`` and ``adversarial``."""
    read_of_both = {"method", "epochs", "adversarial", *(["steps"] if config.finetune.adversarial != "none" else [])}
    return read_of_both if read else set()


# sections of which only a part is read, depending on what is chosen; in all stages, or in one
READS: dict[str, Callable[[Config], set[str]]] = {
    "cipher": _as_told_by("ppvit.ciphers", "cipher"),
    "encrypt": _encrypt_reads,
    "model": _model_reads,
    "finetune": _finetune_reads,
    "adversarial": _adversarial_reads,
    "pretrain": _pretrain_reads,
    "pretrain.adversarial": _adversarial_read_by_pretrain,
    "augment": _augment_reads,
    "audit": _audit_reads,
    "audit.finetune": _training_read_by_audit,
    "audit.adversarial": _training_read_by_audit,
    "threats.finetune": _training_read_by_threats,
    "threats.adversarial": _training_read_by_threats,
    "download.dataset": _as_told_by("ppvit.datasets", "dataset"),
    "he": _as_told_by("ppvit.he.algorithms", "he"),
    "he.model": _model_read_by_he,
}
