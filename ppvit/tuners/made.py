"""What an adapted and a fine-tuned model were made with."""

from __future__ import annotations

from pathlib import Path

from ppvit.core.provenance import Made
from ppvit.core.reading import sha256_of
from ppvit.models import read_record
from ppvit.tuners.records import read_finetuned_record


def made_models(adapted: Path, finetuned: Path) -> tuple[Made, Made]:
    """The fine-tuned and the adapted model, for :func:`ppvit.core.provenance.require_made_alike`.

    Raises:
        PpvitError: one of them is missing or damaged.
    """
    tuned = read_finetuned_record(finetuned)
    base = read_record(adapted, "adapt")
    if "adapted_sha256" in tuned:  # the weights of `he` were trained on no adapted model
        base = {**base, "adapted_sha256": sha256_of(adapted / "model.safetensors")}
    return Made(finetuned, tuned, "finetune"), Made(adapted, base, "adapt")
