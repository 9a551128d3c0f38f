"""Attack the privacy of what the trainer sees, and measure what leaks of plain images and key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ppvit.audit import chosen_attacks
from ppvit.audit.collect import collect
from ppvit.audit.effort import Geometry, chosen_steps, told
from ppvit.audit.measure import audit
from ppvit.config import Config
from ppvit.config.methods import read_by_attacks
from ppvit.core.errors import say
from ppvit.core.files import atomic_output
from ppvit.core.provenance import one_model
from ppvit.core.results import Stopwatch, write_result
from ppvit.data.shards import read_manifest
from ppvit.models import load_model
from ppvit.models.flops import forward_flops, training_flops
from ppvit.places import Places


def run(config: Config, places: Places) -> None:
    """Attack the images and models of a run, and write what was recovered.

    Args:
        config: ``audit`` is used, and what made the inputs: ``dataset``, ``encrypt``, ``cipher``, ``model``.
        places: ``raw`` is read for the known pairs and for scoring; ``encrypted``, ``embedded``, ``adapted`` and
            ``finetuned`` as the attacker has them. Written are the result, whose names are those of
            :func:`ppvit.audit.measure.audit`, and ``pictures``: ``<attack>.png`` for each that tried to make pictures,
            and ``attacks.json``; plain images, for the owner only.

    Raises:
        UsageError: the splits hold fewer images than the parameters ask for, or no attack knows this cipher.
        PpvitError: an input is missing, damaged, or was made with other parameters.
    """
    watch = Stopwatch()
    attacks = chosen_attacks(config.audit)
    values: dict[str, Any] = {}
    with one_model(places.adapted, places.finetuned) as identity:
        view, truth = collect(config, places)
        if "training_steps" in read_by_attacks(config.audit):
            steps = _training_steps(config, places)
            view, values = replace(view, training_steps=steps), {"training_steps": steps}
        with atomic_output(places.pictures, known_by="attacks.json") as folder:
            values |= audit(view, truth, attacks, folder)
    write_result(places.result("audit"), {**values, **identity}, watch)
    print(f"audit: {values['verdict']}")


def _training_steps(config: Config, places: Places) -> int:
    """Steps of the inverse network, which are told, with what they take."""
    geometry, asked = Geometry(config.dataset.image_size, config.cipher.block_size), config.audit.training_steps
    if asked != "auto":
        say(told(asked, geometry, None, automatic=False))
        return asked
    train = read_manifest(places.encrypted / "train")
    tokens = len(train["shape"]) == 2
    forward = forward_flops(load_model(places.adapted, "adapt"), train["shape"] if tokens else (3, *train["shape"][:2]))
    training = training_flops(config.finetune, config.adversarial, train["count"], forward)
    steps = chosen_steps(geometry, training)
    say(told(steps, geometry, training, automatic=True))
    return steps
