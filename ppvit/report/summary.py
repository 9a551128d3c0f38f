"""What the report says in words and rows: the answers at its top, the figures that matter, who learns what."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppvit.ciphers import Cipher
from ppvit.config import Config
from ppvit.core.errors import printable
from ppvit.core.measures import HEADLINES, Headline, LabelRow, hardly_trained
from ppvit.data.shards import sizes
from ppvit.report.claims import unconfirmed

_SHORT_SIDE = 4  # of a block in pixels: 48 values and less


def answers(config: Config, values: dict[str, dict[str, Any]], headline: Headline) -> list[tuple[str, str]]:
    """Questions and answers for whoever reads no more than these.

    Args:
        config: ``cipher.name`` is used.
        values: result files by stage.
        headline: of these results.
    """
    evaluate, verify, finetune, audit = (values[stage] for stage in ("evaluate", "verify", "finetune", "audit"))
    good = f"{headline.title} {headline.text(evaluate[headline.name])} on {evaluate['images']:,} encrypted test images"
    if "accuracy_low_percent" in evaluate and headline.name == "accuracy_percent":
        low, high = evaluate["accuracy_low_percent"], evaluate["accuracy_high_percent"]
        good += f" (95 % interval {low:.1f} to {high:.1f} %)"
    good += f"; whoever guesses gets {headline.text(verify[headline.chance])}."
    if plain := headline.of(verify, "plain_"):
        good += f" The same model on plain images, its adaptation undone: {plain}."
    if warning := hardly_trained(finetune):
        good += f" It is {warning}."
    told = [("Does it work?", good)]
    if wrong := headline.of(verify, "wrong_key_"):
        told.append(("Is the model of use without the key?", f"With a wrong key: {wrong}."))
    robust = values["threats"].get("headline_accuracy_percent")
    if robust is not None:
        changed = f"{_percent(robust)} of {values['threats']['images']} images are still classified correctly when the"
        told.append(
            ("Can it be misled?", f"{changed} strongest attacker changes them by {_change(values['threats'])}.")
        )
    parameters = finetune["trainable_parameters"]
    cost = f"{finetune['epochs']} epochs, {parameters:,} trained parameters, {_size(finetune['adapter_bytes'])}"
    told.append(("What did it cost?", f"{cost} to send back; hours, memory and machine are under Costs."))
    told.append(("What follows?", _advice(audit, config.cipher.name)))
    return told


def _change(threats: dict[str, Any]) -> str:
    levels = f"{threats['epsilon']:g} of 255 grey levels" if "epsilon" in threats else "what people hardly see"
    return f"at most {levels} a value" if threats.get("norm", "linf") == "linf" and "epsilon" in threats else levels


def _advice(audit: dict[str, Any], cipher: str) -> str:
    if cipher == "none":
        return "Nothing is encrypted: the trainer sees the images."
    if audit["verdict"].startswith("Broken"):
        return (
            "Give the encrypted images only to those who may see the plain ones, or choose another cipher, a new key "
            "for every image, or homomorphic training of the head; encryption hides the images from eyes alone."
        )
    return (
        "These attacks did not read the images, which proves nothing about others: perceptual encryption is visual "
        "obfuscation, not confidentiality."
    )


def promises(values: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What leaks to whom: a party, what it holds, and what it can learn of that.

    Args:
        values: result files by stage; ``adapt`` and ``audit`` are used, ``he`` where it is there.
    """
    adapted = values["adapt"]["adapted"]
    model = "the model adapted to the key" if adapted else "the public model"
    key = "the key, where it has the public checkpoint: adapted weights differ from it by the key" if adapted else ""
    rows = [
        ("owner", "key, plain images, names of classes, this page", "everything"),
        (
            "trainer",
            f"encrypted images with the numbers of their classes, {model}; no key, no plain image, no names",
            "; ".join(
                part for part in ("how many images and classes there are", key, values["audit"]["verdict"]) if part
            ),
        ),
        (
            "remote that both use",
            "what the trainer holds, and the adapter; plain images, recovered pictures and this page are not pushed",
            "what the trainer learns",
        ),
        (
            "whoever is given the fine-tuned model",
            "adapter and adapted model" if adapted else "adapter and public model",
            key or "nothing of the key from these weights, which were not adapted to it",
        ),
    ]
    if he := values.get("he"):
        held = f"{he['train_images']:,} images' features and labels under CKKS, evaluation keys"
        rows.append(("trainer of the homomorphic head", held, "numbers of images, features, classes and iterations"))
    return rows


def label_rows(labels: list[LabelRow], classes: list[str], images: int) -> list[tuple[str, ...]]:
    """How well every label is told: name, images that carry it, AUROC, average precision, F1, accuracy."""
    return [
        (
            printable(classes[row.label]),
            f"{row.positives} of {images}",
            *("not measured" if value is None else f"{value:.4f}" for value in (row.auroc, row.average_precision)),
            f"{row.f1:.4f}",
            _percent(100 * row.accuracy(images)),
        )
        for row in labels
    ]


def summary_rows(
    values: dict[str, dict[str, Any]], headline: Headline = HEADLINES["multiclass"], known: str = ""
) -> list[tuple[str, str]]:
    """The figures that matter, as (name, value) texts; ``known``: what is known of the test images."""
    evaluate, verify, finetune, adapt = (values[stage] for stage in ("evaluate", "verify", "finetune", "adapt"))
    rows = [
        (
            f"{headline.words}, encrypted" + (" and adapted" if adapt["adapted"] else ", not adapted"),
            headline.text(evaluate[headline.name]),
        )
    ]
    rows.append((f"{headline.words}, encrypted anew by the owner", headline.text(verify[headline.name])))
    rows += [("test images", known)] if known else []
    if warning := unconfirmed(values, headline):
        rows.insert(0, ("WARNING", warning))
    if plain := headline.of(verify, "plain_"):
        rows.append((f"{headline.words}, plain images, adaptation undone", plain))
    if wrong := headline.of(verify, "wrong_key_"):
        rows.append((f"{headline.words}, wrong key (chance {headline.text(verify[headline.chance])})", wrong))
    rows += _chosen(finetune, evaluate["images"], headline)
    rows += [("training", told)] if (told := hardly_trained(finetune)) else []
    parameters = finetune["trainable_parameters"]
    if views := values["audit"].get("views"):
        rows.append(("views of each training image", str(views)))
    rows.append(("trainable parameters", f"{parameters:,} ({parameters / 2**20:.3f} Mi), {finetune['method']}"))
    for what, name in (("float64 logits", "float64"), ("logits of stored ciphertext", "stored")):
        if f"max_logit_difference_{name}" in adapt:  # a new model for tokens has nothing to be compared with
            label = "adaptation error" if adapt["adapted"] else "difference to the plain model"
            rows.append((f"{label} ({what})", f"{adapt[f'max_logit_difference_{name}']:.1e}"))
    if he := values.get("he"):
        rows.append((f"{headline.words}, head trained under CKKS", headline.text(he[headline.name])))
    robust = values["threats"].get("headline_accuracy_percent")
    if robust is not None:
        rows.append(("accuracy under attack, strongest attacker", _percent(robust)))
    rows.append(("leak so far", values["audit"]["verdict"]))
    return rows


def _chosen(finetune: dict[str, Any], test_images: int, headline: Headline) -> list[tuple[str, str]]:
    """On how many images it was trained, and which epoch was kept by how many others."""
    if "val_images" not in finetune:
        return []
    counts = {"train": finetune["train_images"], "val": finetune["val_images"], "test": test_images}
    kept = f"{finetune['selected_epoch']} of {finetune['epochs']}"
    if (robust := finetune.get("val_robust_accuracy_percent")) is not None:
        kept += f", validation accuracy under attack {_percent(robust)}"
    elif val := headline.of(finetune, "val_"):
        kept += f", validation {headline.words} {val}"
    return [("images", sizes(counts)), ("epoch that was kept", kept)]


def short_key(cipher: Cipher) -> str:
    """A sentence where blocks are so small that the part of the key which acts inside them is short; else empty."""
    form = cipher.affine_map()
    blocks_alone = form is not None and form.matrix is None and form.sign.min() > 0
    if form is not None and blocks_alone:
        blocks_alone = bool((form.value_permutation == np.arange(form.value_permutation.shape[-1])).all())
    if not cipher.keyed or blocks_alone or cipher.block_size > _SHORT_SIDE:
        return ""
    return (
        f"Patches of {cipher.block_size} x {cipher.block_size} pixels make blocks of {cipher.values} values, so what "
        f"the key does inside a block is short: blocks of 16 x 16 pixels have {3 * 16**2}. Fewer images tell the "
        "values of a block apart."
    )


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 1024:.0f} KiB"
