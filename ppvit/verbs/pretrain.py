"""Train the embedded micro ViT on rendered letters and digits, or any adapted model on images without labels."""

from __future__ import annotations

import csv
import io
from typing import Any

from ppvit.config import Config
from ppvit.core.errors import say
from ppvit.core.files import atomic_output
from ppvit.core.results import Stopwatch, write_result
from ppvit.places import Places
from ppvit.training.contrastive.curves import COLLAPSED, KNN, LINEAR, SPREAD
from ppvit.training.contrastive.unsupervised import pretrain
from ppvit.training.pretraining import save, train


def run(config: Config, places: Places) -> None:
    """Write weights.

    Args:
        config: ``pretrain`` is used, and ``adversarial`` by methods that train against an attack.
        places: ``embedded`` is written where the method is ``supervised``: the weights that come with ppvit, float16
            to halve their size. With any other method ``encrypted`` and ``adapted`` are read; ``pretrained``, the
            result and the curves of training are written.

    Raises:
        PpvitError: the loss is no finite number; see also :func:`ppvit.training.contrastive.unsupervised.pretrain`.
    """
    if config.pretrain.method == "supervised":
        model, measured = train(config.pretrain)
        save(model, places.embedded)
        print(f"pretrain: {measured['train_accuracy_percent']} % of the last glyphs named, see {places.embedded}")
        return
    watch = Stopwatch()
    pretrained = pretrain(config.pretrain, config.adversarial, places.encrypted, places.adapted)
    _write_curves(pretrained.history, places)
    values = pretrained.values
    write_result(places.result("pretrain"), values, watch)
    pretrained.save(places.pretrained)
    epochs, method = config.pretrain.epochs, config.pretrain.method
    done = f"{epochs} epoch{'s' * (epochs > 1)} of {method}{_told(values)}"
    print(f"pretrain: {done}, see {places.pretrained}")


def _told(values: dict[str, Any]) -> str:
    """Figures of features in words, none where they were not measured; a warning where they say nothing."""
    if SPREAD not in values:
        return ""
    if values[SPREAD] < COLLAPSED:
        say(
            f"warning: features have collapsed (a spread of {values[SPREAD]:.1f} %): all images look alike; lower "
            "pretrain.learning_rate"
        )
    return (
        f": of {values['val_images']:,} validation images {values[KNN]:.1f} % right by neighbours and "
        f"{values[LINEAR]:.1f} % by a linear classifier, spread {values[SPREAD]:.0f} %"
    )


def _write_curves(history: list[dict[str, float]], places: Places) -> None:
    """One line an epoch; features are not measured in every one."""
    names = list(dict.fromkeys(name for metrics in history for name in metrics))
    with io.StringIO() as text:
        rows = csv.DictWriter(text, ["epoch", *names], lineterminator="\n")
        rows.writeheader()
        rows.writerows({"epoch": epoch} | metrics for epoch, metrics in enumerate(history, 1))
        path = places.results / "pretrain" / "curves.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
