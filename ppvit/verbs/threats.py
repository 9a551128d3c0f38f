"""Attack the model with adversarial images as every attacker would, from the one with the key to the one who only asks.

Epsilon is on plain pixels for each attacker:

- K1 knows the key, and differentiates through the cipher;
- K2 holds the weights, recovers the key from them (or from known pairs) and goes on as K1;
- K3 holds the public checkpoint, and transfers images from models made under other keys (union over all of them);
- K4 holds nothing, and asks for classes (Square attack, Andriushchenko et al., arXiv 1912.00049).

A keyed model is only as robust as it is against the strongest of them. The ``naive`` figure is of an attack through a
wrong key: how robust a keyed defence seems when nobody attacks it in earnest. It is there as a warning.
"""

from __future__ import annotations

from typing import Any

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.device import device
from ppvit.core.errors import UsageError, say
from ppvit.core.provenance import Made, one_model, require_made_alike
from ppvit.core.reading import sha256_of_folder
from ppvit.core.results import Stopwatch, write_result
from ppvit.core.scratch import scratch_folder
from ppvit.data.labels import ClassNumbers
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import wrong_key
from ppvit.evasion.at_owner import (
    read_pixels,
    recovery_values,
    require_measurable,
    straight_through_checks,
    summary,
    transferred,
)
from ppvit.evasion.autoattack import require_package
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.evasion.cascade import Adversary, cascade
from ppvit.evasion.ciphered import rounds, through_cipher, through_map
from ppvit.evasion.effort import WITHSTAND, Chosen, Effort, chosen_effort, threats_efforts, told
from ppvit.evasion.effort import refusal as why_not
from ppvit.evasion.passes import pass_seconds
from ppvit.evasion.progress import Progress
from ppvit.evasion.recovery import recover
from ppvit.evasion.sample import Sample, chosen, percent
from ppvit.evasion.verdicts import SEVERAL_LABELS, attack_names, verdict
from ppvit.models.attackable import attackable
from ppvit.models.flops import forward_flops, training_flops
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.tuners.made import made_models


def run(config: Config, places: Places) -> None:
    """Write accuracy under each attacker; a killed run goes on where it was.

    Args:
        config: ``threats`` and ``robustness`` are used, and what made the model.
        places: ``raw``, ``embedded``, ``adapted`` and ``finetuned`` are read; the result is written:
            ``k1_accuracy_percent`` .. ``k4_accuracy_percent``, ``headline_accuracy_percent``, the smallest of them,
            with its 95 % interval; ``naive_accuracy_percent``; what K2 and K3 achieved on the way; ``verdict``. Under a
            cipher that nothing can be differentiated through, and for a multi-label data set, the verdict only.

    Raises:
        UsageError: fewer than two classes, or an epsilon that cannot be measured under this cipher.
        PpvitError: an input is missing, damaged or of another key; AutoAttack is not installed or doubts its figures.
    """
    watch = Stopwatch()
    with one_model(places.adapted, places.finetuned) as identity:
        values, progress = _measured(config, places, identity)
    write_result(places.result("threats"), values, watch)
    if progress is not None:
        progress.remove()
    print(f"threats: {values['verdict']}")


def _measured(config: Config, places: Places, identity: dict[str, str]) -> tuple[dict[str, Any], Progress | None]:
    finetuned = places.finetuned
    cipher = load_cipher(config)
    plain = {split: PlainImages(places.raw, split, config.dataset, config.encrypt) for split in ("train", "test")}
    parameters = {**cipher.record, **plain["test"].made, "model": config.model.name}
    require_made_alike(*made_models(places.adapted, finetuned), Made(f"{places.raw}, by params.yaml,", parameters))
    classes = len(plain["test"].classes)
    if plain["test"].labelling.task != ClassNumbers.task:
        robustness = {name: getattr(config.robustness, name) for name in ("seed", "norm", "epsilon")}
        images = threats_efforts(config.robustness, config.threats)[0].within(len(plain["test"])).images
        return {"images": images, **robustness, **identity, "verdict": f"Not measured: {SEVERAL_LABELS}."}, None
    attack_names(config.robustness.attack, classes)  # refuses a single class
    require_package("the threats (K4 asks as Square does)", otherwise="")
    model = load_finetuned(places.adapted, finetuned, classes)
    size = cipher.image_size
    forward = forward_flops(model, cipher.shape if cipher.makes_tokens else (3, size, size))
    model = attackable(model, device())
    asked = config
    sizes, training = _sized(config, forward, {split: len(each) for split, each in plain.items()}, classes)
    effort = sizes.effort
    config = _with_numbers(config, effort)
    attacks = attack_names(config.robustness.attack, classes)
    order = chosen(len(plain["test"]), effort.images, config.robustness.seed)
    sample = Sample(*read_pixels(plain["test"], order))
    public = {
        "images": len(sample),
        "seed": config.robustness.seed,
        "attacks": ", ".join(attacks),
        "norm": config.robustness.norm,
        "epsilon": config.robustness.epsilon,
        **identity,
    }
    try:
        owner = through_cipher(model, cipher)
    except UsageError as refusal:
        return {**public, "verdict": f"Not measured: {refusal}."}, None
    seconds = sizes.operations / forward * pass_seconds(owner, sample.images)
    say(told("threats", sizes, seconds, training, config != asked))
    if not sizes.fits:
        return {**public, "verdict": f"Not measured: {why_not('threats', sizes)}."}, None
    require_measurable(config, owner)
    ball = Ball.of_grey_levels(config.robustness.norm, config.robustness.epsilon)
    step = config.robustness.step_size * GREY_LEVEL
    seed = config.robustness.seed
    adversary = Adversary(ball, step, classes, seed, effort.steps, effort.queries, effort.apgd_steps)
    determines = {
        "config": {section: values.model_dump(mode="json") for section, values in config},  # with the key's id
        "plain": {split: images.manifest["shards"][split] for split, images in plain.items()},
        "models": [sha256_of_folder(places.adapted), sha256_of_folder(finetuned)],
        "device": str(device()),
    }
    progress = Progress("threats", determines, scratch_folder(), sizes.operations / forward)
    progress.watch(model)

    found = cascade(attacks, adversary, owner, sample, remember=progress.under("k1"))
    standing = {"k1": found[attacks[-1]]}
    values: dict[str, Any] = {"clean_accuracy_percent": percent(found["clean"])}
    recovered = recover(config, cipher, plain["train"], places.embedded, places.adapted) if cipher.keyed else None
    if not cipher.keyed:
        standing["k2"] = standing["k1"]  # nothing to recover
    elif recovered is not None:
        believed = through_map(model, recovered.key, cipher.image_size, cipher.block_size)
        k2 = cascade(attacks, adversary, believed, sample, judge=owner, remember=progress.under("k2"))
        standing["k2"] = k2[attacks[-1]]
        values |= recovery_values(recovered)
    standing["k3"], values["k3_surrogate_accuracy_percent"] = transferred(
        config, places.embedded, plain["train"], adversary, owner, sample, progress
    )
    standing["k4"] = cascade(["square"], adversary, owner, sample, remember=progress.under("k4"))["square"]
    values |= {"k3_surrogates": config.threats.surrogates, "k4_queries": effort.queries}
    values |= {"k3_surrogate_images": min(effort.surrogate_images, len(plain["train"])), "pgd_steps": effort.steps}
    values |= {"apgd_steps": effort.apgd_steps} if attacks != ["pgd"] else {}
    if cipher.keyed:
        stranger = through_cipher(model, load_cipher(config, wrong_key(0)))
        naive = cascade(["pgd"], adversary, stranger, sample, judge=owner, remember=progress.under("naive"))
        values["naive_accuracy_percent"] = percent(naive["pgd"])
    values |= summary(standing)
    if rounds(owner):
        values |= straight_through_checks(config.robustness, adversary, owner, sample, progress)
    says = verdict({**values, **public}, cipher.keyed)
    return {**values, **public, "verdict": says}, progress


def _sized(config: Config, forward: float, images: dict[str, int], classes: int) -> tuple[Chosen, float]:
    """What is measured, and the operations of the training.

    Args:
        config: ``robustness``, ``threats`` and, of training, what decides how long it took.
        forward: operations of a forward pass.
        images: by split.
        classes: C.
    """
    robustness, threats = config.robustness, config.threats
    training = training_flops(config.finetune, config.adversarial, images["train"], forward)
    withstand = WITHSTAND[config.finetune.adversarial != "none"]
    efforts = (each.within(images["test"]) for each in threats_efforts(robustness, threats))
    sizes = (classes, withstand, threats.surrogates, images["train"])
    return chosen_effort("threats", {each: each.threats(*sizes) * forward for each in efforts}, training), training


def _with_numbers(config: Config, effort: Effort) -> Config:
    """With the numbers of an effort in place of ``auto``."""
    robustness = effort.settings(config.robustness)
    numbers = {name: getattr(effort, name) for name in ("images", "queries", "surrogate_images")}
    return config.model_copy(update={"robustness": robustness, "threats": config.threats.model_copy(update=numbers)})
