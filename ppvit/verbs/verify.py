"""Check the model that came back: accuracy under the owner's key, under wrong keys and on plain images."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from torch import nn

from ppvit.ciphers import Cipher
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.measures import HEADLINES
from ppvit.core.progress import tqdm
from ppvit.core.provenance import Made, one_model, require_made_alike
from ppvit.core.results import Stopwatch, write_result
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import (
    is_embedded_by_blocks,
    learned_order_percent,
    plain_batches,
    undo_adaptation,
    wrong_key,
)
from ppvit.evaluation.scoring import AnyScores, counted, score, scores_for
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models


def run(config: Config, places: Places) -> None:
    """Measure the fine-tuned model on test images that are encrypted here and now.

    ``accuracy_percent``: under the owner's key, which must equal what the trainer reports;
    ``plain_accuracy_percent``: on plain images, with the adaptation undone;
    ``wrong_key_accuracy_percent``: under other keys (mean of ``verify.wrong_keys``), about chance when the key matters.
    ``learned_order_percent``: of a learned matrix over blocks, how much of the key's order it has found.
    ``auroc``: under the owner's key too, a figure of the trainer's that its tables do not bound.
    Multi-label, they are ``auroc``, ``plain_auroc`` and ``wrong_key_auroc``.

    Args:
        config: ``dataset``, ``cipher``, ``encrypt`` and ``verify`` are used.
        places: ``raw``, ``adapted`` and ``finetuned`` are read; the result is written.

    Raises:
        PpvitError: the model was not made for this key, cipher or image size; no key.
    """
    watch = Stopwatch()
    with one_model(places.adapted, places.finetuned) as identity:
        values = _measured(config, places)
    write_result(places.result("verify"), {**values, **identity}, watch)
    print(_figures(values))


def _figures(values: dict[str, Any]) -> str:
    """What was measured, in a line."""
    headline = next(each for each in HEADLINES.values() if each.name in values)
    told = [f"{headline.words} {headline.of(values)}"]
    for which, words in (("plain_", "on plain images"), ("wrong_key_", "under a wrong key")):
        told += [f"{figure} {words}"] if (figure := headline.of(values, which)) else []
    return (
        f"verify: {values['images']:,} test images: {', '.join(told)} (chance {headline.text(values[headline.chance])})"
    )


def _measured(config: Config, places: Places) -> dict[str, Any]:
    cipher = load_cipher(config)
    plain = PlainImages(places.raw, "test", config.dataset, config.encrypt)
    parameters = Made(f"{places.raw}, by params.yaml,", {**cipher.record, **plain.made})
    require_made_alike(*made_models(places.adapted, places.finetuned), parameters)
    model = load_finetuned(places.adapted, places.finetuned, len(plain.classes))

    undone = not cipher.keyed or (cipher.affine_map() is not None and is_embedded_by_blocks(model, cipher))
    others = [
        load_cipher(config, wrong_key(number)) for number in range(config.verify.wrong_keys if cipher.keyed else 0)
    ]
    bar = tqdm(total=(1 + len(others) + undone) * len(plain), desc="verify", unit="image", file=sys.stderr)

    def scored(network: nn.Module, used: Cipher | None) -> AnyScores:
        return score(network, counted(plain_batches(plain, used), bar), scores_for(plain.labelling))

    def figure(network: nn.Module, used: Cipher | None) -> float:
        return float(scored(network, used).summary()[name])

    ours = scored(model, cipher)
    name = ours.headline
    told = ours.summary()
    values: dict[str, Any] = {name: told[name]}
    values |= {"auroc": told["auroc"]} if "auroc" in told else {}  # of the trainer's figures the one that ranks
    if others:
        values[f"wrong_key_{name}"] = float(np.mean([figure(model, other) for other in others]))
    chance, value = ours.chance()
    values[chance] = value
    if (found := learned_order_percent(model, cipher)) is not None:
        values["learned_order_percent"] = found
    if undone:
        undo_adaptation(model, cipher)
        values[f"plain_{name}"] = figure(model, None)
    values["images"] = len(plain)
    bar.close()
    return values
