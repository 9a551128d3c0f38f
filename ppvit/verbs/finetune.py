"""Fine-tune the adapted model on encrypted shards; no key is needed. Metrics of every epoch are written as it goes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from ppvit.config import Config
from ppvit.core.errors import say
from ppvit.core.measures import hardly_trained
from ppvit.core.provenance import identities
from ppvit.core.results import Stopwatch, write_result
from ppvit.places import Places
from ppvit.training.finetuning import finetune
from ppvit.tuners import adapter_bytes, save_finetuned


def run(config: Config, places: Places) -> None:
    """Write the trained adapter, or the whole model where the method has no adapter.

    Args:
        config: ``finetune`` and ``augment`` are used, and ``adversarial`` where training is against an attack.
        places: ``encrypted`` and ``adapted`` are read; ``finetuned``, ``live`` and the result are written.

    Raises:
        PpvitError: shards or model missing, damaged or not made for each other; see
            :func:`ppvit.training.finetuning.finetune`.
    """
    from dvclive.live import Live  # slow to import

    watch = Stopwatch()
    # DVC tracks the folder itself (see dvc.yaml), so DVCLive need not write a dvc.yaml or an experiment of its own
    # one process alone has the folder, since each would empty it first; launchers number them
    logs = os.environ.get("RANK", "0") == "0"
    live: Live | None = None
    with ExitStack() as closing:

        def log(epoch: int, metrics: dict[str, float]) -> None:
            nonlocal live
            if not logs:
                return
            if live is None:  # not before: it empties the folder, and until here what cannot be trained on is refused
                live = closing.enter_context(Live(str(places.live), dvcyaml=None, save_dvc_exp=False, report=None))
            live.step = epoch
            for name, value in metrics.items():
                live.log_metric(name, value)
            live.make_summary()

        finetuned = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted, log, config.augment)
    if not finetuned.is_main_process:
        return
    save_finetuned(finetuned.tuner, finetuned.model, places.finetuned, places.adapted, finetuned.record)
    files = {"adapter_bytes": adapter_bytes(places.finetuned), **identities(places.adapted, places.finetuned)}
    write_result(places.result("finetune"), {**finetuned.values, **files}, watch)
    finetuned.written()
    print(_figures(finetuned.values))
    if told := hardly_trained(finetuned.values):
        say(f"warning: {told}")


def _figures(values: dict[str, Any]) -> str:
    """What was measured, in a line."""
    told = [
        f"epoch {values['selected_epoch']} of {values['epochs']} is kept",
        f"training loss {values['train_loss']:.4f}",
    ]
    if "val_accuracy_percent" in values:
        told.append(f"validation accuracy {values['val_accuracy_percent']:.2f} %")
    elif "val_auroc" in values:
        told.append(f"validation AUROC {values['val_auroc']:.4f}")
    told.append(
        f"{values['trainable_parameters']:,} trained parameters, {values['images_per_second']:,.0f} images a second"
    )
    return f"finetune: {values['method']}, {', '.join(told)}"
