"""Attack the privacy of what the trainer sees, and measure what leaks of plain images and key."""

from __future__ import annotations

from ppvit.audit import chosen_attacks
from ppvit.audit.collect import collect
from ppvit.audit.measure import audit
from ppvit.config import Config
from ppvit.core.files import atomic_output
from ppvit.core.provenance import one_model
from ppvit.core.results import Stopwatch, write_result
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
    with one_model(places.adapted, places.finetuned) as identity:
        view, truth = collect(config, places)
        with atomic_output(places.pictures, known_by="attacks.json") as folder:
            values = audit(view, truth, chosen_attacks(config.audit), folder)
    write_result(places.result("audit"), {**values, **identity}, watch)
    print(f"audit: {values['verdict']}")
