"""The model card: what whoever finds the folder must know, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import timm
import yaml

from ppvit.audit.rows import attack_rows
from ppvit.audit.verdict import NOTICEABLE
from ppvit.config import NO_MODEL, Config
from ppvit.config.methods import read_by_method
from ppvit.core.errors import UsageError
from ppvit.core.registry import summary
from ppvit.export.finished import Finished
from ppvit.export.weights import Weights, base_name
from ppvit.models import MICRO_NAME, is_convolutional
from ppvit.models.weights_file import find_weights
from ppvit.tuners import TUNERS

_TEMPLATE = Path(__file__).with_name("card.md.j2")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_ON_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenette": "frgfm/imagenette",
}


def require_licence(name: str) -> None:
    """Refuse what cannot be an id of a licence on the Hub.

    Raises:
        UsageError: says what one looks like.
    """
    if not _LICENCE.fullmatch(name):
        near = re.sub(r"[\s_]+", "-", name.strip().lower())
        told = f"; did you mean {near}?" if _LICENCE.fullmatch(near) else ""
        raise UsageError(
            f"--license '{name[:100]}': the Hub names licences as apache-2.0, cc-by-4.0 or other; see hf.co/docs/hub/"
            f"repositories-licenses{told}"
        )


def model_card(finished: Finished, weights: Weights, licence: str | None = None) -> str:
    """The card as Markdown; nothing in it depends on when or where it is written.

    Args:
        finished: the run.
        weights: what of it was written.
        licence: id on the Hub; by default that of the base model.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    method = finished.record["method"]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_yaml(front_matter(finished, weights, licence)),
        title=_title(finished),
        run=finished,
        weights=weights,
        method=method,
        method_in_words=_in_words(method),
        hyper_parameters=_yaml({"finetune": hyper_parameters(finished.config)}),
        cipher_settings=_yaml({"cipher": finished.record["cipher"]}),
        base_name=base_name(finished),
        public_base=public_base(finished.config),
        licence=licence or licence_of_base(finished.config),
        licence_is_given=licence is not None,
        tokens=len(finished.manifest["shape"]) == 2,
        leaks=_leaks(finished.audit),
    )


def front_matter(finished: Finished, weights: Weights, licence: str | None = None) -> dict[str, Any]:
    """What the Hub reads: see https://huggingface.co/docs/hub/model-cards."""
    method, cipher = finished.record["method"], finished.record["cipher"]["name"]
    network = "convolutional-network" if is_convolutional(finished.base["model"]) else "vision-transformer"
    tags = ["ppvit", "timm", network, "encrypted-images", f"cipher-{cipher}", method]
    values: dict[str, Any] = {
        "license": licence or licence_of_base(finished.config),
        "library_name": "peft" if weights.form == "adapter" else "timm",
        "pipeline_tag": "image-classification",
        "tags": tags if finished.keyed else [tag for tag in tags if tag != "encrypted-images"],
    }
    base = public_base(finished.config)
    if base is not None:
        values["base_model"] = base
        values["base_model_relation"] = "adapter" if weights.form == "adapter" else "finetune"
    values["datasets"] = [_dataset(finished)]
    values["metrics"] = [finished.headline.hub]
    values["model-index"] = [{"name": _title(finished), "results": _measured(finished)}]
    return values


def _measured(finished: Finished) -> list[dict[str, Any]]:
    headline = finished.headline
    figures = {f"cipher {finished.record['cipher']['name']}": finished.evaluate[headline.name]}
    if finished.keyed and finished.verify is not None and f"plain_{headline.name}" in finished.verify:
        figures["plain images, adaptation undone"] = finished.verify[f"plain_{headline.name}"]
    told = f"{headline.words} in percent" if headline.unit else headline.words
    name = finished.config.dataset.name
    return [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": _dataset(finished), "name": name, "config": images, "split": "test"},
            "metrics": [{"type": headline.hub, "value": round(value, headline.digits), "name": told}],
        }
        for images, value in figures.items()
    ]


def _dataset(finished: Finished) -> str:
    """Id of the data set on the Hub where it has one, else our name of it."""
    name = finished.config.dataset.name
    return _ON_HUB.get(name, name)


def licence_of_base(config: Config) -> str:
    """Id on the Hub of the licence of the checkpoint that the run started from; ``unknown`` where nobody says."""
    if _embedded(config):
        return "apache-2.0"  # which is ours
    if public_base(config) is None:
        return "unknown"
    source = timm.get_pretrained_cfg(config.model.name)
    stated = (source.license or "").lower() if source is not None else ""
    return stated if _LICENCE.fullmatch(stated) else "unknown"


def _embedded(config: Config) -> bool:
    model = config.model
    return model.name == MICRO_NAME and model.pretrained and Path(model.checkpoint) == Path(NO_MODEL)


def public_base(config: Config) -> str | None:
    """Id on the Hub of the checkpoint that the run started from; None where it was another file, or is on no hub."""
    checkpoint = Path(config.model.checkpoint)
    if not config.model.pretrained or checkpoint != Path(NO_MODEL):
        return None
    if checkpoint.is_dir() and find_weights(checkpoint, config.model.name) is not None:
        return None
    source = timm.get_pretrained_cfg(config.model.name)
    return source.hf_hub_id if source is not None else None


def hyper_parameters(config: Config) -> dict[str, Any]:
    """The parameters of ``finetune`` as in params.yaml that had an effect."""
    settings, convolutional = config.finetune, is_convolutional(config.model.name)
    read = read_by_method(settings) - (set() if convolutional else {"batch_norm"})
    values = {name: value for name, value in settings.model_dump().items() if name in read}
    if values.get("target_modules") == []:  # the method's own choice
        values["target_modules"] = [] if convolutional else list(TUNERS[settings.method].targets)
    return {name: value for name, value in values.items() if value != []}


def _in_words(method: str) -> str:
    """The first paragraph of what the method's class says of itself, as Markdown."""
    return re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", summary(TUNERS[method])).replace("``", "`")


def _leaks(audit: dict[str, Any] | None) -> dict[str, Any]:
    """Rows of the attacks that found something, and the names of those that did not and of those that were not made."""
    if audit is None:
        return {}
    suffix = "_strength_percent"
    strengths = {name.removesuffix(suffix): value for name, value in audit.items() if name.endswith(suffix)}
    made = {name: value for name, value in strengths.items() if value is not None}
    strong = tuple(f"{name}_" for name, value in made.items() if value >= 100 * NOTICEABLE)
    return {
        "rows": attack_rows({name: value for name, value in audit.items() if name.startswith(strong)}),
        "weak": [name.replace("_", " ") for name, value in made.items() if value < 100 * NOTICEABLE],
        "not_made": [name.replace("_", " ") for name in strengths if name not in made],
    }


def _title(finished: Finished) -> str:
    config = finished.config
    return f"{config.model.name}-{config.dataset.name}-{config.cipher.name}-{finished.record['method']}"


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000).rstrip("\n")
