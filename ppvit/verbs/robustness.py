"""Attack the fine-tuned model with adversarial images, on encrypted test shards; no key is needed.

A killed run goes on where it was.
"""

from __future__ import annotations

from ppvit.config import Config
from ppvit.core.device import device
from ppvit.core.files import atomic_output
from ppvit.core.provenance import Made, one_model, require_made_alike
from ppvit.core.reading import sha256_of, sha256_of_folder
from ppvit.core.results import Stopwatch, write_result
from ppvit.core.scratch import scratch_folder
from ppvit.core.sharing import is_main
from ppvit.data.batches import EncryptedImages
from ppvit.evasion.at_trainer import evaluate
from ppvit.evasion.curve import write_curve
from ppvit.evasion.passes import UNIT
from ppvit.evasion.progress import Progress
from ppvit.evasion.sample import draw
from ppvit.models import read_record
from ppvit.models.products import by_onednn
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models


def run(config: Config, places: Places) -> None:
    """Write accuracy under attack, and its curve against epsilon.

    Args:
        config: ``robustness`` is used.
        places: ``encrypted``, ``adapted`` and ``finetuned`` are read; ``curves`` (``curve.csv``) and the result are
            written; its names are those of :func:`ppvit.evasion.at_trainer.evaluate`.

    Raises:
        UsageError: fewer than two classes.
        PpvitError: an input is missing or damaged, AutoAttack is not installed, or its figures prove nothing.
    """
    watch = Stopwatch()
    settings = config.robustness
    dataset = EncryptedImages(places.encrypted, "test")
    record = read_record(places.adapted, "adapt")
    models = made_models(places.adapted, places.finetuned)
    require_made_alike(Made(dataset.folder, dataset.manifest, "encrypt"), *models)
    with one_model(places.adapted, places.finetuned) as identity:
        model = load_finetuned(places.adapted, places.finetuned, dataset.num_classes)
        model = by_onednn(model).to(device()).eval().requires_grad_(False)
        sample = draw(dataset, settings.images, settings.seed)
        determines = {
            "settings": settings.model_dump(mode="json"),
            "finetuned": sha256_of_folder(places.finetuned),
            "adapted": sha256_of(places.adapted / "model.safetensors"),
            "images": dataset.manifest["shards"],
            "batch": UNIT,
            "device": str(device()),
        }
        progress = Progress("robustness", determines, scratch_folder())
        values, curve = evaluate(settings, model, sample, dataset.num_classes, record, progress, dataset.labelling.task)
    if not is_main():
        return
    with atomic_output(places.curves, known_by="curve.csv") as folder:
        write_curve(folder / "curve.csv", curve)
    write_result(places.result("robustness"), {**values, **identity}, watch)
    progress.remove()
    print(f"robustness: {values['verdict']}")
