"""Values that do not go together, found before any stage from names and other facts that cost nothing to know.

The stages check the same on the network itself, which may be another one than ``model.name`` says. Here only what is
sure is refused.
"""

from __future__ import annotations

import importlib
from typing import Any

from ppvit.config.choices import CHOICES
from ppvit.config.endings import ends_in, those_there
from ppvit.config.methods import read_by_method
from ppvit.config.networks import Network, network
from ppvit.config.sections import DEMO_KEY_ID, Config
from ppvit.core.declared import declared
from ppvit.core.errors import UsageError

_REASONS = {
    "linear": "it is not linear in pixel values",
    "permutes": "it does more than move values to other places",
    "keeps_blocks": "what becomes of a block depends on more than that block",
    "one_key": "every image has a key of its own",
}


def require_trainable(config: Config) -> None:
    """Refuse a network, a method, layers and validation that do not go together; needs no cipher, and so no key.

    Raises:
        UsageError: one line with the parameters and the remedy.
    """
    found = network(config.model.name)
    if found is not None:
        _require_layers(config, found)
        _require_method(config, found)
        _require_block(config, found)
    _require_targets(config, found.linear if found else ())
    _require_validation(config)
    _require_attack(config)


def _require_layers(config: Config, found: Network) -> None:
    model, name = config.model, config.model.name
    if model.adaptnet != "none" and not found.overlapping:
        raise UsageError(
            f"model.adaptnet {model.adaptnet} is for PyramidNets and ResNets, and model.name {name} is none; set "
            "model.adaptnet=none, or choose model.name=pyramidnet_110_270"
        )
    if model.adaptive_matrix and found.file != "convmixer":
        raise UsageError(
            f"model.adaptive_matrix is for ConvMixers, and model.name {name} is none; set model.adaptive_matrix=false, "
            "or choose model.name=convmixer_256_8"
        )


def _require_method(config: Config, found: Network) -> None:
    settings, name = config.finetune, config.model.name
    methods = _facts("finetune.method")
    facts = methods.get(settings.method, {})
    if facts.get("plain_vit") and not found.plain_vit:
        raise UsageError(
            f"finetune.method {settings.method} needs a plain Vision Transformer, and model.name {name} is none; "
            "choose finetune.method=full, or a model such as vit_base_patch16_224"
        )
    if facts and found.convolutional and not facts.get("convolutions"):
        others = ", ".join(each for each, its in methods.items() if its.get("convolutions"))
        raise UsageError(
            f"finetune.method {settings.method} is for networks with linear layers, and model.name {name} has none but "
            f"its head; set finetune.method to one of {others}"
        )
    if settings.batch_norm != "frozen" and settings.gradient_checkpointing:
        raise UsageError(
            f"finetune.gradient_checkpointing computes twice, and with finetune.batch_norm {settings.batch_norm} every "
            "image would count twice; set finetune.gradient_checkpointing=false or finetune.batch_norm=frozen"
        )


def _require_block(config: Config, found: Network) -> None:
    """Patches of the block's size, where the model is adapted; a ResNet has no patches."""
    block, name = config.cipher.block_size, config.model.name
    if config.adapt.enabled and found.patch not in (None, block) and not found.overlapping:
        raise UsageError(
            f"cipher.block_size {block}, but the patches of model.name {name} have {found.patch} pixels a side; set "
            f"cipher.block_size={found.patch}"
            + (
                ""
                if config.dataset.image_size % found.patch == 0
                else f" and dataset.image_size to a multiple of it, such as {7 * found.patch}"
            )
            + ", or adapt.enabled=false to leave the model unadapted"
        )


def _require_targets(config: Config, linear: tuple[str, ...]) -> None:
    """Layers that the method takes; ``linear`` names all, or none where they are not known."""
    settings = config.finetune
    facts = _facts("finetune.method").get(settings.method, {})
    if not settings.target_modules or "target_modules" not in read_by_method(settings):
        return
    if not facts.get("names_layers", True):
        raise UsageError(
            f"finetune.method {settings.method} puts prompts into every block; leave finetune.target_modules empty"
        )
    names = list(linear)
    if "attn.q" in facts.get("targets", ()):  # of layers it takes rows too
        names += [f"{name.removesuffix('qkv')}{part}" for name in linear if name.endswith(".qkv") for part in "qkv"]
    for ending in settings.target_modules:
        if linear and not any(ends_in(name, ending) for name in names):
            raise UsageError(f"finetune.target_modules: no linear layer ends in '{ending}'{those_there(ending, names)}")


def _require_validation(config: Config) -> None:
    if config.finetune.needs_validation and lacks_validation(config):
        asks, without = config.finetune.needs_validation
        raise UsageError(f"{asks} needs validation images, and {_NO_VAL}; raise it, or set {without}")


_NO_VAL = "there will be none with dataset.val_fraction 0"


def lacks_validation(config: Config) -> bool:
    """Whether it is sure that there will be no validation images: none is held out, and the data set brings none."""
    dataset = config.dataset
    if dataset.val_fraction:
        return False
    return dataset.own_val == "train" or bool(importlib.import_module("ppvit.datasets").brings_no_val(dataset))


def _require_attack(config: Config) -> None:
    settings, model = config.finetune, config.model
    if settings.adversarial == "none":
        return
    if model.adaptnet == "ele" or (model.adaptive_matrix and model.matrix_form != "free"):
        raise UsageError(
            f"finetune.adversarial {settings.adversarial} has no terms for model.adaptnet ele or a model.matrix_form; "
            "set finetune.adversarial=none"
        )
    branch = config.adversarial.branch
    if branch != "none" and settings.method != "full":
        raise UsageError(
            f"adversarial.branch {branch} is for the whole network; set finetune.method=full, not {settings.method}"
        )
    if branch == "twins" and settings.batch_norm != "affine":
        raise UsageError(
            f"adversarial.branch twins is for networks whose batch normalisation trains, not with finetune.batch_norm "
            f"{settings.batch_norm}; choose a ResNet and finetune.batch_norm=affine"
        )
    facts = _facts("augment.names")
    for name in config.augment.names:
        if facts.get(name, {}).get("keeps_range") is False:
            raise UsageError(
                f"augment.names: '{name}' moves pixels beyond black and white, where adversarial.epsilon means "
                "nothing; leave it out, or set finetune.adversarial=none"
            )


def require_encryptable(config: Config) -> None:
    """Refuse a geometry, a network or an augmentation that the cipher does not go with; for the owner.

    The cipher is made with the public demo key: whether the owner has the other one is another matter.

    Raises:
        UsageError: one line with the parameters and the remedy.
    """
    cipher, name = _cipher(config), config.cipher.name
    found = network(config.model.name)
    if config.adapt.enabled:
        _require_adaptable(config, cipher, found)
    elif cipher.makes_tokens and found is not None and not found.plain_vit:
        raise UsageError(
            f"cipher.name {name} makes tokens and needs a plain Vision Transformer behind them, and model.name "
            f"{config.model.name} is none; choose one such as vit_base_patch16_224"
        )
    if config.finetune.adversarial != "none" and (told := _no_distance(config, cipher, "adversarial")):
        raise UsageError(told)
    views = config.encrypt
    random_views = views.views > 1 and views.view_recipe != "none"
    if random_views and views.view_key_id == DEMO_KEY_ID and cipher.keyed and config.cipher.key_id != DEMO_KEY_ID:
        raise UsageError(
            "encrypt.view_key_id is the public demo key, so anybody could tell which views are flipped; make one with "
            "`ppvit keygen` and set it to its id"
        )
    kinds = _facts("augment.names")
    for each in config.augment.names:
        if missing := [fact for fact in kinds.get(each, {}).get("needs", ()) if not cipher.facts[fact]]:
            raise UsageError(
                f"augment.names: '{each}' does not commute with cipher.name {name}, because {_REASONS[missing[0]]}; "
                "leave it out, or choose another cipher, see docs/augmentation.md"
            )


def _require_adaptable(config: Config, cipher: Any, found: Network | None) -> None:
    name = config.cipher.name
    base = importlib.import_module("ppvit.ciphers").Cipher
    if found is not None and found.overlapping:
        if cipher.keyed:
            raise UsageError(
                f"model.name {config.model.name} has overlapping kernels, so that it cannot be adapted to cipher.name "
                f"{name}; set cipher.name=none, or adapt.enabled=false for the unadapted baseline, or choose a Vision "
                "Transformer such as vit_base_patch16_224"
            )
    elif cipher.image_keys or type(cipher).affine_map is base.affine_map:
        why = "every image has a key of its own" if cipher.image_keys else "it is no affine map of a block's values"
        raise UsageError(
            f"no exact adaptation exists for cipher.name {name}, because {why}; set adapt.enabled=false to fine-tune "
            "the unadapted model"
        )


def _cipher(config: Config) -> Any:
    ciphers = importlib.import_module("ppvit.ciphers")
    settings = config.cipher
    kind = ciphers.CIPHERS[settings.name]
    options = {name: getattr(settings, name) for name in kind.options}
    return kind(ciphers.keys.DEMO_KEY, config.dataset.image_size, settings.block_size, **options)


def refusals_to_come(config: Config) -> list[str]:
    """What stages that not everybody runs will refuse: one line each, for a note at the start."""
    cipher = _cipher(config)
    lines = []
    if told := _no_distance(config, cipher, "robustness"):
        lines.append(f"robustness: {told}")
    if cipher.makes_tokens:
        lines.append(f"threats: cipher.name {config.cipher.name} makes tokens, for which no attack is known")
    if config.he.patience and lacks_validation(config):
        lines.append(f"he: he.patience {config.he.patience} needs validation images, and {_NO_VAL}; raise it")
    return lines


def without_effect(config: Config) -> list[str]:
    """Values that somebody chose and nothing can follow: one line each, for a note at the start."""
    dataset = config.dataset
    datasets = importlib.import_module("ppvit.datasets")
    unread = [name for name in datasets.CHOICES if name not in datasets.parameters_read(dataset)]
    lines = [
        f"dataset.{name} {getattr(dataset, name)}: nothing reads it with dataset.name {dataset.name}"
        for name in unread
        if getattr(dataset, name) != type(dataset).model_fields[name].default
    ]
    if config.finetune.keeps_best and lacks_validation(config):
        lines.append(f"the last epoch will be kept: the best one needs validation images, and {_NO_VAL}")
    return lines


def _no_distance(config: Config, cipher: Any, section: str) -> str:
    """Why a perturbation of a ciphertext would not be one of the image in this norm; empty where it is."""
    name, keeps = config.cipher.name, cipher.record["isometry"]
    if keeps == "values" or (keeps == "length" and getattr(config, section).norm == "l2"):
        return ""
    if keeps == "length":
        return f"cipher.name {name} keeps Euclidean distances only; set {section}.norm=l2"
    if options := cipher.record["isometry_options"]:
        told = ", ".join(f"cipher.{option}={value}" for option, value in options.items())
        return f"cipher.name {name} keeps distances only with other options; set {told}"
    return (
        f"cipher.name {name} does not keep distances between images, so {section}.epsilon would not be in plain "
        "pixels; choose a cipher that moves and inverts values, such as block_np"
    )


def _facts(parameter: str) -> dict[str, dict[str, Any]]:
    choice = CHOICES[parameter]
    return declared(choice.folder, choice.decorator).facts
