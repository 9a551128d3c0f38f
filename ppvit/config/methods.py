"""Which parameters a fine-tuning method, augmentations and attacks read: no other one changes a result.

Told by the sources of them, since importing them loads torch, which takes seconds.
"""

from __future__ import annotations

from ppvit.config.augment import Augment
from ppvit.config.choices import CHOICES
from ppvit.config.finetune import Finetune
from ppvit.config.sections import Audit


def read_by_method(settings: Finetune) -> set[str]:
    """Names of the parameters of ``finetune`` that its method and optimiser read.

    Raises:
        UsageError: there is no such method.
    """
    facts = CHOICES["finetune.method"].facts([settings.method], reads=..., unread=...)
    of_some_methods = {name for each in facts.values() for name in each["reads"]}
    method = facts[settings.method]
    unread = (of_some_methods - set(method["reads"])) | set(method["unread"])
    unread |= set() if settings.optimizer == "sgd" else {"momentum", "nesterov"}
    unread |= set() if settings.weight_decay else {"decayed"}
    unread |= set() if settings.keeps_best or settings.patience else {"select_by"}
    unread |= {"recipe"}  # whose values stand in the other parameters
    return set(type(settings).model_fields) - unread


def read_by_augmentations(settings: Augment) -> set[str]:
    """Names of the parameters of ``augment`` that the chosen augmentations read.

    Raises:
        UsageError: there is no such augmentation.
    """
    facts = CHOICES["augment.names"].facts(settings.names, reads=...)
    return {"names", *(name for chosen in settings.names for name in facts[chosen]["reads"])}


def read_by_attacks(settings: Audit) -> set[str]:
    """Names of the parameters of ``audit`` that its attacks read.

    Raises:
        UsageError: there is no such attack.
    """
    named = [name for name in settings.attacks if name != "all"]
    facts = CHOICES["audit.attacks"].facts(named, reads=())
    special = {name for each in facts.values() for name in each["reads"]}
    read = {name for chosen in (facts if "all" in settings.attacks else named) for name in facts[chosen]["reads"]}
    return set(type(settings).model_fields) - (special - read)
