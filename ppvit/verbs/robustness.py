"""Attack the fine-tuned model with adversarial images, on encrypted test shards; no key is needed.

A killed run goes on where it was.
"""

from __future__ import annotations

from ppvit.config import Config, Robustness
from ppvit.core.device import device
from ppvit.core.errors import say
from ppvit.core.files import atomic_output
from ppvit.core.provenance import Made, one_model, require_made_alike
from ppvit.core.reading import sha256_of, sha256_of_folder
from ppvit.core.results import Stopwatch, write_result
from ppvit.core.scratch import scratch_folder
from ppvit.core.sharing import is_main
from ppvit.data.batches import EncryptedImages
from ppvit.data.labels import ClassNumbers
from ppvit.evasion.at_trainer import evaluate
from ppvit.evasion.curve import write_curve
from ppvit.evasion.effort import WITHSTAND, Chosen, chosen_effort, refusal, robustness_efforts, told
from ppvit.evasion.passes import UNIT, pass_seconds
from ppvit.evasion.progress import Progress
from ppvit.evasion.sample import draw
from ppvit.models import read_record
from ppvit.models.attackable import attackable
from ppvit.models.flops import forward_flops, training_flops
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models
from ppvit.tuners.records import FinetunedRecord, checked_record


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
        forward = forward_flops(model, draw(dataset, 1, 0).images.shape[1:])
        single = dataset.labelling.task == ClassNumbers.task
        model = attackable(model, device())
        tuned = checked_record(places.finetuned)
        training, chosen = _chosen(config.robustness, tuned, dataset, forward)
        settings = chosen.effort.settings(settings)
        sample = draw(dataset, chosen.effort.images, settings.seed)
        if single and is_main():
            seconds = chosen.operations / forward * pass_seconds(model, sample.images)
            automatic = "auto" in (config.robustness.images, config.robustness.steps)
            say(told("robustness", chosen, seconds, training, automatic))
        determines = {
            "settings": settings.model_dump(mode="json"),
            "apgd_steps": chosen.effort.apgd_steps,
            "finetuned": sha256_of_folder(places.finetuned),
            "adapted": sha256_of(places.adapted / "model.safetensors"),
            "images": dataset.manifest["shards"],
            "batch": UNIT,
            "device": str(device()),
        }
        progress = Progress("robustness", determines, scratch_folder(), chosen.operations / forward)
        progress.watch(model)
        why = "" if chosen.fits else refusal("robustness", chosen)
        more = (progress, dataset.labelling.task, chosen.effort.apgd_steps, why)
        values, curve = evaluate(settings, model, sample, dataset.num_classes, record, *more)
    if not is_main():
        return
    with atomic_output(places.curves, known_by="curve.csv") as folder:
        write_curve(folder / "curve.csv", curve)
    write_result(places.result("robustness"), {**values, **identity}, watch)
    progress.remove()
    print(f"robustness: {values['verdict']}")


def _chosen(
    settings: Robustness, tuned: FinetunedRecord, dataset: EncryptedImages, forward: float
) -> tuple[float | None, Chosen]:
    """Operations of the training, where they are known, and what is measured."""
    training = None
    if tuned.finetune is not None and tuned.train_images is not None:
        training = training_flops(tuned.finetune, tuned.adversarial, tuned.train_images, forward)
    classes = max(2, dataset.num_classes)  # one is refused later
    withstand = WITHSTAND[tuned.adversarial is not None]
    efforts = (each.within(len(dataset)) for each in robustness_efforts(settings))
    passes = {each: each.robustness(classes, withstand, len(settings.epsilons)) * forward for each in efforts}
    if dataset.labelling.task != ClassNumbers.task:  # of which the accuracy alone is measured
        effort = next(iter(passes))
        return training, Chosen(effort, effort.images * forward, True)
    return training, chosen_effort("robustness", passes, training)
