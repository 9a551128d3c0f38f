"""Accuracy under attack: AutoAttack as its authors' code runs it, honest checks, resume, clear ends."""

import json
import logging
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pyautoattack
import pytest
import torch
from conftest import make_config, tiny_backbone, write_raw
from torch import nn

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config, load
from ppvit.core.errors import PpvitError, UsageError
from ppvit.evasion import masking
from ppvit.evasion.ball import TOLERANCE, Ball
from ppvit.evasion.cascade import Adversary, cascade, classified_correctly, find_now
from ppvit.evasion.passes import UNIT, bytes_kept, units_at_once
from ppvit.evasion.progress import Progress
from ppvit.evasion.sample import Sample, chosen
from ppvit.evasion.verdicts import attack_names, trainers_verdict
from ppvit.models import save_model
from ppvit.places import Places
from ppvit.verbs import encrypt, evaluate, finetune, robustness

GREY = 1 / 127.5
SHAPE = (3, 6, 6)


def tiny_net(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), 24), nn.GELU(), nn.Linear(24, classes))
    return nn.Sequential(*layers).eval().requires_grad_(False)


def tiny_sample(model: nn.Module, count: int = 24, seed: int = 1) -> Sample:
    """Random images with the labels that the model gives, but for a few."""
    images = torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    labels = model(images).argmax(1)
    labels[:2] = (labels[:2] + 1) % model[-1].out_features
    return Sample(images, labels)


def adversary(classes: int = 10, norm: str = "linf", epsilon: float = 6.0, **others) -> Adversary:
    return Adversary(Ball.of_grey_levels(norm, epsilon), epsilon / 4 * GREY, classes, seed=3, steps=20, **others)


def make_world(folder, cipher: str, **finetuning) -> Config:
    """Shards, adapted and fine-tuned model in ``folder``; the configuration that made them."""
    settings = {"epochs": 3, "batch_size": 8, "rank": 2, "target_modules": ["attn.qkv"], **finetuning}
    config = make_config(dataset={"image_size": 16}, cipher={"name": cipher}, finetune=settings)
    places = Places.of(config, root=folder)
    write_raw(places.raw, {"train": 50, "test": 12})
    encrypt.run(config, places)
    backbone, used = tiny_backbone(), load_cipher(config)
    adapt_model(backbone, used)
    save_model(places.adapted, backbone, used.record)
    finetune.run(config, places)
    return config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("PPVIT_SCRATCH", str(folder / "scratch"))
    config = make_world(folder, "block_np", epochs=8, learning_rate=1e-2)
    patch.undo()
    return folder, config


def settings(**values) -> Config:
    return make_config(robustness={"attack": "pgd", "images": 6, "epsilons": [8.0, 128.0], **values})


def places_in(folder, name: str = "results") -> Places:
    return Places.of(make_config(), root=folder, results=folder / name, curves=folder / name / "robustness")


def measure(folder, config: Config, name: str = "results") -> dict:
    places = places_in(folder, name)
    robustness.run(config, places)
    return json.loads(places.result("robustness").read_text())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 4.0), ("l2", 40.0)])
def test_attacks_are_those_of_the_package(norm, epsilon):
    """Same images left standing as by one call of pyautoattack on [0, 1] with the settings of AutoAttack's standard."""
    model = tiny_net()
    sample = tiny_sample(model)
    found = cascade(["apgd-ce", "apgd-t"], adversary(norm=norm, epsilon=epsilon), model, sample)
    name = {"linf": "Linf", "l2": "L2"}[norm]
    direct = pyautoattack.AutoAttack(lambda x: model(2 * x - 1), eps=epsilon / 255, norm=name, seed=3)
    direct.attacks_to_run = ["apgd-ce", "apgd-t"]
    _, predicted = direct.run_standard_evaluation((sample.images + 1) / 2, sample.labels)
    expected = (predicted == sample.labels).numpy()
    np.testing.assert_array_equal(found["apgd-t"], expected)
    assert 0 < expected.sum() < 22  # neither nothing nor all withstands, so the comparison says something


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["pgd", "apgd-ce", "apgd-t", "square"])
def test_no_attack_leaves_the_ball_or_the_range(attack, norm):
    model = tiny_net()
    sample = tiny_sample(model)
    strength = adversary(norm=norm, epsilon=30.0, queries=50)
    moved = strength.perturb(attack, model, sample.images, sample.labels)
    assert strength.ball.radius(moved, sample.images).max() <= strength.ball.epsilon + TOLERANCE
    assert moved.abs().max() <= 1 + TOLERANCE
    assert (moved != sample.images).any()


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "square"])
def test_the_layout_of_images_in_memory_does_not_matter(attack):
    """Images that were read as (n, H, W, 3) and turned round."""
    model = tiny_net()
    sample = tiny_sample(model)
    turned = sample.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    strength = adversary(epsilon=4.0, queries=20)
    moved = [strength.perturb(attack, model, images, sample.labels) for images in (sample.images, turned)]
    torch.testing.assert_close(*moved, rtol=0, atol=1e-6)


def test_attacks_fit_the_number_of_classes():
    assert attack_names("full", 10) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert attack_names("full", 2) == ["apgd-ce", "fab", "square"]
    assert attack_names("quick", 3) == ["pgd", "apgd-ce", "fab-t"]
    with pytest.raises(UsageError, match="robustness needs 2 classes or more and the model has 1"):
        attack_names("pgd", 1)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("attack", ["quick", "full"])
def test_few_classes_are_attacked_without_a_flag(classes, attack):
    model = tiny_net(classes)
    sample = tiny_sample(model, count=8)
    attacks = attack_names(attack, classes)
    found = cascade(attacks, adversary(classes, epsilon=8.0, queries=20), model, sample)
    assert found[attacks[-1]].sum() < found["clean"].sum() == 6
    assert cascade(attacks[:1], adversary(classes, epsilon=1e-3), model, sample)[attacks[0]].sum() == 6


def test_batches_do_not_miss_an_image():
    model = tiny_net()
    sample = tiny_sample(model, count=2 * UNIT + 5)
    assert cascade(["pgd"], adversary(epsilon=200.0), model, sample)["pgd"].sum() == 0
    named = []
    cascade(["pgd"], adversary(), model, sample, remember=lambda finds: named.extend(finds) or find_now(finds))
    assert named == ["pgd 0", f"pgd {UNIT}", f"pgd {2 * UNIT}"]


@pytest.mark.parametrize("together", [2, 3, 99])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_how_many_images_are_attacked_together_changes_nothing(monkeypatch, norm, together):
    model = tiny_net()
    sample = tiny_sample(model, count=3 * UNIT + 5)
    strength = adversary(norm=norm, epsilon=4.0 if norm == "linf" else 30.0)
    alone = cascade(["pgd"], strength, model, sample)
    assert 5 < alone["pgd"].sum() < len(sample) - 5  # of both kinds
    passes = []
    monkeypatch.setattr("ppvit.evasion.cascade.units_at_once", lambda *_: together)
    perturb = Adversary.perturb
    monkeypatch.setattr(Adversary, "perturb", lambda *given: passes.append(len(given[3])) or perturb(*given))
    found: dict[str, list[bool]] = {}
    filled = cascade(
        ["pgd"],
        strength,
        model,
        sample,
        remember=lambda finds: [found.setdefault(name, find()) for name, find in finds.items()],
    )
    assert filled["pgd"].tolist() == alone["pgd"].tolist()
    assert len(passes) == -(-4 // together)
    # a killed run goes on with a card that takes another number
    monkeypatch.setattr("ppvit.evasion.cascade.units_at_once", lambda *_: 2)
    kept = {name: finding for name, finding in found.items() if name in ("pgd 0", f"pgd {UNIT}", f"pgd {2 * UNIT}")}
    passes.clear()
    resumed = cascade(
        ["pgd"],
        strength,
        model,
        sample,
        remember=lambda finds: [kept.get(name) or find() for name, find in finds.items()],
    )
    assert resumed["pgd"].tolist() == alone["pgd"].tolist()
    assert len(passes) == 1


def test_every_unit_starts_from_the_same_points():
    images = torch.zeros(2 * UNIT + 7, *SHAPE)
    starts = adversary()._starts(images)
    assert starts[:UNIT].equal(starts[UNIT : 2 * UNIT])
    assert starts[2 * UNIT :].equal(adversary()._starts(images[:7]))
    assert starts[0].ne(starts[1]).any()


def test_memory_of_an_attack_is_what_is_kept_of_the_forward_pass(monkeypatch):
    model = tiny_net()
    # layers keep their input for the gradient of their weights alone, which are frozen; GELU keeps 24 numbers
    assert bytes_kept(model, torch.zeros(1, *SHAPE)) == 4 * 24
    assert bytes_kept(model, torch.zeros(5, *SHAPE)) == 5 * 4 * 24
    images = torch.zeros(10 * UNIT, *SHAPE)
    assert units_at_once(model, images) == 1  # a CPU
    monkeypatch.setattr("ppvit.evasion.passes.bytes_kept", lambda *_: 1000)
    card = tiny_net().to("meta")
    for free, units in ((10, 1), (64_000 * 5, 3), (10**12, 32)):  # 0.6 of it for what is kept
        monkeypatch.setattr("ppvit.evasion.passes.free_bytes", partial(int, free))
        assert units_at_once(card, images) == units


class Randomised(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, images):
        return self.net(images + 0.3 * torch.randn_like(images))


class WithoutGradient(Randomised):
    def forward(self, images):
        return self.net((images * 4).round().detach() / 4) + 0 * images.sum()


@pytest.mark.parametrize(("defence", "told"), [(Randomised, "randomized"), (WithoutGradient, "zero gradient")])
def test_doubts_of_autoattack_are_errors(defence, told):
    model = defence().eval()
    sample = tiny_sample(model.net)
    with pytest.raises(PpvitError, match=f"AutoAttack does not trust its own figure: .*{told}"):
        cascade(["apgd-t"], adversary(), model, sample)


def test_logits_that_are_no_numbers_are_told():
    model = tiny_net()
    sample = tiny_sample(model)
    model[1].weight[0, 0] = torch.nan
    with pytest.raises(PpvitError, match="the fine-tuned model's logits are not numbers"):
        cascade(["pgd"], adversary(), model, sample)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_planted_adversarial_image_is_found(norm, classes):
    attacks = attack_names("quick", classes)
    assert masking.finds_planted(attacks, adversary(classes, norm, epsilon=8.0), SHAPE)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_too_weak_for_the_planted_image_is_told(norm, seed):
    """Whatever the seed of its start."""
    weak = Adversary(Ball.of_grey_levels(norm, 8.0), 0.01 * GREY, 10, seed=seed, steps=20)
    assert not masking.finds_planted(["pgd"], weak, SHAPE)


def test_every_attack_must_find_the_planted_image(monkeypatch):
    """Not only the first of them, which leaves nothing for the others."""
    perturb = Adversary.perturb

    def lazy(self, attack, model, images, labels):
        return images if attack == "apgd-t" else perturb(self, attack, model, images, labels)

    attacks = ["pgd", "apgd-ce", "apgd-t", "square"]
    assert masking.finds_planted(attacks, adversary(), SHAPE)  # without Square, which is no match for it
    monkeypatch.setattr(Adversary, "perturb", lazy)
    assert not masking.finds_planted(attacks, adversary(), SHAPE)


def test_what_square_alone_finds_is_an_error():
    """AutoAttack's rule: 0.2 points; never for a single image."""
    before = np.arange(2000) < 1000
    for found, images in ((4, 2000), (1, 10)):
        masking.require_square_adds_nothing(before[:images], before[:images] & (np.arange(images) >= found))
    for found, images in ((5, 2000), (2, 10)):
        with pytest.raises(PpvitError, match=f"Square, without gradients, fooled the model with {found} of {images}"):
            masking.require_square_adds_nothing(before[:images], before[:images] & (np.arange(images) >= found))


def test_the_package_itself_flags_what_square_alone_finds(caplog):
    """The rule above against the package's own check, which only its own cascade reaches."""
    for share, flagged in ((0.003, True), (0.001, False)):
        with caplog.at_level("WARNING"):
            pyautoattack.checks.check_square_sr(
                {"clean": 0.9, "apgd-ce": 0.5, "square": 0.5 - share}, logger=logging.getLogger()
            )
        assert bool(caplog.records) == flagged
        caplog.clear()


def test_distances_of_wide_balls_are_rounded_too():
    """What float32 adds grows with the radius: no attack on a valid one ends as a defect."""
    model = tiny_net()
    wide = Adversary(Ball("l2", 700.0, box=False), 100.0, 10, seed=0, steps=20)
    moved = wide.perturb("pgd", model, tiny_sample(model).images, tiny_sample(model).labels)
    assert wide.ball.radius(moved, tiny_sample(model).images).max() == pytest.approx(700, rel=1e-5)


def test_planted_boundary_is_where_it_says():
    for norm, order in (("linf", 1), ("l2", 2)):
        ball = Ball(norm, 0.1)
        model = masking.planted(SHAPE, 5, ball, 0.1)
        weights = model[1].weight[1].detach()
        steepest = weights.sign() if norm == "linf" else weights / weights.norm()
        assert weights.norm(p=order) == pytest.approx(1, rel=1e-5)
        for distance, winner in ((0.099, 0), (0.101, 1)):
            assert model((distance * steepest)[None]).argmax().item() == winner


def test_masking_is_seen():
    assert masking.falls({0.0: 90.0, 4.0: 60.0, 8.0: 61.5}, images=1000)
    assert not masking.falls({0.0: 90.0, 8.0: 64.0, 4.0: 61.0}, images=1000)  # by epsilon, not by the order given
    assert masking.vanishes({8.0: 60.0, 64.0: 4.0}, images=1000)
    assert not masking.vanishes({8.0: 4.0, 64.0: 60.0}, images=1000)
    assert masking.at_least_as_strong(31.0, 30.0, images=1000)
    assert not masking.at_least_as_strong(33.0, 30.0, images=1000)
    assert masking.tolerance_percent(10) == 10.0  # one image


def test_fewer_images_are_the_first_of_more():
    np.testing.assert_array_equal(chosen(50, 10, 1), chosen(50, 30, 1)[:10])
    assert sorted(chosen(7, 99, 0)) == list(range(7))


def test_stage_measures_what_evaluate_measures(world):
    folder, config = world
    places = places_in(folder)
    evaluate.run(config, places)
    clean = json.loads(places.result("evaluate").read_text())
    found = measure(folder, settings(attack="quick", images=100, epsilons=[2.0, 8.0, 64.0, 255.0]))
    assert found["clean_accuracy_percent"] == pytest.approx(clean["accuracy_percent"])
    assert found["finetuned_id"] == clean["finetuned_id"]
    assert found["images"] == 12
    order = ["clean", "pgd", "apgd_ce", "fab_t", "headline"]  # the targeted loss of APGD takes four classes
    accuracies = [found[f"{name}_accuracy_percent"] for name in order]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found["interval_low_percent"] <= found["headline_accuracy_percent"] <= found["interval_high_percent"]
    rows = (places.curves / "curve.csv").read_text().splitlines()
    assert rows[0] == "epsilon,accuracy_percent"
    assert [float(row.split(",")[0]) for row in rows[1:]] == [0, 2, 8, 64, 255]
    assert float(rows[-1].split(",")[1]) < float(rows[1].split(",")[1])
    assert all(found[name] is True for name in found if name.startswith("masking"))
    assert found["attacks"] == "pgd, apgd-ce, fab-t"
    assert " withstand linf 8 under PGD-20, APGD-CE and FAB-T (95 % interval " in found["verdict"]
    assert found["verdict"].endswith("no sign of masked gradients.")


def test_killed_and_resumed_equals_uninterrupted(world, monkeypatch, tmp_path):
    folder, _ = world
    monkeypatch.setenv("PPVIT_SCRATCH", str(tmp_path))
    quick = settings(attack="quick", epsilon=4.0)
    whole = measure(folder, quick)
    assert list(tmp_path.iterdir()) == []  # nothing is left of a finished run
    perturb, calls = Adversary.perturb, []

    def killed(self, attack, *arguments):
        calls.append(attack)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return perturb(self, attack, *arguments)

    monkeypatch.setattr(Adversary, "perturb", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, quick, "resumed")
    assert not places_in(folder, "resumed").result("robustness").exists()
    assert len(list(tmp_path.glob("robustness-*.json"))) == 1
    first = list(calls)
    assert measure(folder, quick, "resumed") == whole
    assert calls[3] == first[2]  # it went on with the very attack that was killed
    curves = [(places_in(folder, name).curves / "curve.csv").read_text() for name in ("results", "resumed")]
    assert curves[0] == curves[1]


def test_findings_of_other_settings_or_damaged_ones_are_not_used(tmp_path):
    def finds(seed: int, finding: bool, stage: str = "robustness") -> list[bool]:
        return Progress(stage, {"seed": seed}, tmp_path).remember({"pgd 0": lambda: [finding]})[0]

    finds(0, True)
    assert finds(0, False) == [True]
    assert finds(1, False) == finds(0, False, "threats") == [False]
    for damaged in ("{", "[]", '{"pgd 0": 3}', '{"pgd 0": [0.5]}'):
        for path in tmp_path.glob("*.json"):
            path.write_text(damaged)
        assert finds(0, False) == [False]


def test_findings_of_other_packages_are_not_used(tmp_path, monkeypatch):
    Progress("robustness", {}, tmp_path).remember({"pgd 0": lambda: [True]})
    monkeypatch.setattr("ppvit.evasion.progress.version", lambda package: "9.9")
    assert Progress("robustness", {}, tmp_path).remember({"pgd 0": lambda: [False]}) == [[False]]


def test_cipher_that_keeps_no_distances_is_not_measured(tmp_path):
    make_world(tmp_path, "le")
    found = measure(tmp_path, settings())
    assert found["verdict"].startswith("Not measured by the trainer: cipher.name 'le' does not keep distances")
    assert "headline_accuracy_percent" not in found
    assert found["clean_accuracy_percent"] > 0


def test_model_that_was_not_made_for_the_shards_is_refused(world, tmp_path):
    folder, config = world
    other = Places.of(config, root=tmp_path, raw=places_in(folder).raw)
    encrypt.run(config.model_copy(update={"cipher": config.cipher.model_copy(update={"name": "np"})}), other)
    mixed = replace(places_in(folder), encrypted=other.encrypted, results=tmp_path, curves=tmp_path / "curves")
    with pytest.raises(PpvitError, match="was made with cipher .* make them again: dvc repro encrypt finetune"):
        robustness.run(settings(), mixed)
    assert not mixed.result("robustness").exists()


def test_missing_extra_is_told(world, monkeypatch):
    folder, _ = world
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(PpvitError, match=r"need pyautoattack; pip install 'ppvit\[robust\]'"):
        measure(folder, settings(attack="quick"), "missing")
    assert not places_in(folder, "missing").result("robustness").exists()
    assert measure(folder, settings(), "without")["pgd_accuracy_percent"] <= 100  # PGD is our own


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("robustness.epsilon=0", "parameter 'robustness.epsilon': input should be greater than 0"),
        ("robustness.epsilon=256", "robustness.epsilon 256 is beyond the 255 grey levels of a pixel"),
        ("robustness.epsilons=[]", "parameter 'robustness.epsilons'"),
        ("robustness.epsilons=[8,300]", "robustness.epsilons 300 is beyond the 255 grey levels of a pixel"),
        (
            "robustness.epsilons=[2,4]",
            r"robustness.epsilons end at 4, below robustness.epsilon 8; set .*\[2,4,8,16,32\]",
        ),
        ("robustness.step_size=0.3", "robustness.step_size 0.3 is too short: .*; set robustness.step_size=2"),
        ("robustness.attack=fgsm", "parameter 'robustness.attack'"),
        ("threats.surrogates=2", "parameter 'threats.surrogates': input should be greater than or equal to 3"),
    ],
)
def test_bad_values_are_told(override, told, tmp_path):
    from ppvit.config import default_yaml

    (tmp_path / "params.yaml").write_text(default_yaml())
    with pytest.raises(UsageError, match=told):
        load(tmp_path / "params.yaml", [override])


def test_accuracy_counts_right_names_only():
    model = tiny_net()
    sample = tiny_sample(model)
    np.testing.assert_array_equal(classified_correctly(model, sample.images, sample.labels), np.arange(24) >= 2)


def test_verdict_says_why_a_figure_is_not_to_be_believed():
    checks = {"masking_falls_with_epsilon": True, "masking_vanishes": False, "masking_falls_with_steps": True}
    values = {
        "pgd_steps": 20,
        "headline_accuracy_percent": 60.0,
        "interval_low_percent": 50.0,
        "interval_high_percent": 69.0,
        **checks,
    }
    said = trainers_verdict(values | {"masking_planted_found": False}, settings().robustness, ["pgd"], 100)
    figure = "60.0 % of 100 images withstand linf 8 under PGD-20 (95 % interval 50 to 69 %)"
    assert said.startswith(f"Not to be believed: {figure}, but ")
    assert "the largest epsilon leaves more than nothing; an attack misses a planted adversarial image." in said
