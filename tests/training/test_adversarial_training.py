"""Adversarial fine-tuning as a run: every method, plain and encrypted, resumed, monitored, on one process or two."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config, tiny_backbone, write_raw
from test_finetune import make_world, train_in_two_processes
from test_finetune import train as train_as_configured
from torch.nn import functional

from ppvit.config import Adversarial, Config, default_yaml, load
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of
from ppvit.evasion.ball import Ball
from ppvit.evasion.pgd import PgdAttack
from ppvit.training import checkpoint, defence, finetuning
from ppvit.training import loop as training
from ppvit.training import monitor as monitor_module
from ppvit.training.adversarial import Robust, attack_of
from ppvit.training.loop import make_accelerator
from ppvit.training.monitor import ROBUST, ROBUST_LOSS, Monitor
from ppvit.training.objective import Objective
from ppvit.training.scalars import automatic_weights
from ppvit.tuners import TUNERS

QUICK = {
    "adversarial": "trades",
    "epochs": 2,
    "batch_size": 16,
    "dropout": 0.0,
    "target_modules": [],
    "frequencies": 50,
    "val_fraction": 0.1,
}
WEAK = {"steps": 2, "step_size": 4.0}


def against(config: Config, **adversarial) -> Config:
    """The same configuration with a weak attack, and values of it."""
    return config.model_copy(update={"adversarial": Adversarial(**{**WEAK, **adversarial})})


def train(folder, config, name="finetuned", log=None, **adversarial):
    return train_as_configured(folder, against(config, **adversarial), name, log)


def robust(classes=7, steps_per_epoch=8, loss="trades", **adversarial) -> Robust:
    settings = make_config(finetune={"adversarial": loss}).finetune
    section = Adversarial(**{**WEAK, **adversarial})
    ball = Ball.of_grey_levels(section.norm, section.epsilon)
    return Robust(settings, section, ball, make_accelerator("fp32"), steps_per_epoch, classes)


@pytest.mark.parametrize("method", TUNERS)
def test_every_method_trains_against_an_attack_on_encrypted_images(tmp_path, method):
    config = make_world(tmp_path, "block", **{**QUICK, "method": method, "epochs": 1})
    result = train(tmp_path, config)
    assert math.isfinite(result["train_loss"])
    assert result["attack_steps"] == 2
    assert 0 < result["attack_time_percent"] < 100
    assert 0 <= result["val_robust_accuracy_percent"] <= result["val_accuracy_percent"] <= 100
    natural, divergence = result["train_natural_loss"], result["train_robust_loss"]
    assert result["train_loss"] == pytest.approx(natural + 6 * divergence, rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["at", "trades"])
def test_training_on_adapted_ciphertext_equals_training_on_plain(tmp_path, loss, norm):
    """Without a random start, which would be drawn in the order of the ciphertext."""
    epsilon = {"linf": 8.0, "l2": 128.0}[norm]
    attack = {"norm": norm, "epsilon": epsilon, "step_size": epsilon / 2, "start": "none", "inner_loss": "ce"}
    losses = {}
    for cipher in ("none", "block_np"):
        config = make_world(tmp_path, cipher, **{**QUICK, "adversarial": loss})
        history = []
        train(tmp_path, config, log=lambda _, metrics, history=history: history.append(metrics), **attack)
        losses[cipher] = [value for metrics in history for name, value in metrics.items() if name.endswith("_loss")]
    assert losses["block_np"] == pytest.approx(losses["none"], rel=1e-3)


def test_loss_is_the_formula():
    """LoFT: u CE(z, y) + v KL(softmax z || softmax z'), with torch's own pieces."""
    objective = robust(natural_weight=0.7, robust_weight=3.0, epsilon=64.0, step_size=32.0)
    model = tiny_backbone().model
    images, labels = 2 * torch.rand(4, 3, 16, 16) - 1, torch.tensor([0, 1, 2, 3])
    objective.begin_step(0, 0)
    moved = objective.attack.perturb(model, images, labels, _stream(objective))
    objective.begin_step(0, 0)
    loss, measured = objective.loss(model.train(), images, labels)
    z, z_moved = model(images), model(moved)
    natural = functional.cross_entropy(z, labels, reduction="sum")
    divergence = functional.kl_div(functional.log_softmax(z_moved, 1), functional.softmax(z, 1), reduction="sum")
    torch.testing.assert_close(loss, 0.7 * natural + 3.0 * divergence)
    assert measured[2:4].tolist() == pytest.approx([natural.item(), divergence.item()], abs=1e-6)
    assert divergence > 0.01


def test_under_at_the_loss_is_the_cross_entropy_of_the_moved_images():
    objective, model = robust(loss="at"), tiny_backbone().model
    images, labels = 2 * torch.rand(4, 3, 16, 16) - 1, torch.tensor([0, 1, 2, 3])
    objective.begin_step(0, 0)
    moved = objective.attack.perturb(model, images, labels, _stream(objective))
    objective.begin_step(0, 0)
    loss, _ = objective.loss(model, images, labels)
    torch.testing.assert_close(loss, functional.cross_entropy(model(moved), labels, reduction="sum"))
    assert loss > functional.cross_entropy(model(images), labels, reduction="sum")


def _stream(objective: Robust) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(objective._generator.get_state())
    return generator


def test_defaults_are_those_of_the_papers():
    ball = Ball.of_grey_levels("linf", 8)
    trades, at = (attack_of(loss, Adversarial(), ball) for loss in ("trades", "at"))
    assert (trades.inner_loss, trades.start, trades.steps) == ("kl", "noise", 10)
    assert (at.inner_loss, at.start) == ("ce", "uniform")
    assert trades.step_size == pytest.approx(2 * 2 / 255)  # 2/255 on a scale of 0..1, which is 2 wide here
    assert trades.ball.epsilon == pytest.approx(2 * 8 / 255)


def test_automatic_scalars():
    assert automatic_weights(1.0, 6.0, 0.25) == (0.75, 1.5)
    objective, model = robust(scalars="auto"), tiny_backbone().model
    assert objective.weights == (1 - 1 / 7, 6 / 7)  # chance, before anything was seen
    images = 2 * torch.rand(4, 3, 16, 16) - 1
    named = model(images).argmax(1)
    named[0] = (named[0] + 1) % 7  # three of four right
    objective.begin_step(0, 1)
    objective.count(objective.loss(model, images, named)[1], 4)
    objective.begin_step(0, 2)  # 8 steps an epoch: a refresh at every second
    assert objective.weights == (0.25, 4.5)


def test_strength_rises_over_the_warm_up():
    objective = robust(warmup_epochs=2, steps_per_epoch=5)
    strengths = []
    for epoch in range(3):
        for step in range(5):
            objective.begin_step(epoch, step)
            strengths.append(objective._strength)
    assert strengths == pytest.approx([(step + 1) / 10 for step in range(10)] + [1.0] * 5)


def test_monitor_strengthens_the_attack():
    objective = robust(steps=1, step_size=8.0, start="n_fgsm", fallback_steps=10)
    steps = []
    for percent in (40.0, 50.0, 46.0, 44.0, 30.0):
        objective.end_epoch({ROBUST: percent})
        steps.append(objective.attack.steps)
    assert steps == [1, 1, 1, 10, 10]  # 46 is within 5 points of 50, 44 is not
    assert objective.attack.start == "uniform"
    assert objective.attack.step_size == pytest.approx(2.5 * 8 / 127.5 / 10)


def test_without_validation_images_the_attack_stays_as_it_is():
    objective = robust(steps=1, step_size=8.0, start="n_fgsm", fallback_steps=10)
    assert objective.end_epoch({}) == {"attack_steps": 1}
    assert objective.attack.steps == 1


def test_monitor_is_pgd_20_with_a_quarter_of_the_radius():
    """On two classes that a line parts, against the closed form: an image stands if its margin exceeds what the worst
    point of the ball takes, epsilon times the L1 norm of the weights."""
    # far from black and white, where the range of pixels would protect as well
    images = torch.randint(96, 160, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    line = torch.randn(48, generator=torch.Generator().manual_seed(1)).double()
    margins = (images.flatten(1).double() / 127.5 - 1) @ line
    epsilon = margins.abs().median().item() / line.abs().sum().item()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(48), line.float()]))
        model[1].bias.zero_()
    labels = (margins > 0).long().tolist()
    dataset = list(zip(images, labels, strict=True))
    monitor = Monitor(dataset, Ball("linf", epsilon), 16, make_accelerator("fp32"))
    steps = []
    model.register_forward_pre_hook(lambda _, given: steps.append(torch.is_grad_enabled()))
    measured = monitor.measure(model)
    standing = (margins.abs() > epsilon * line.abs().sum()).double().mean().item()
    assert measured[ROBUST] == pytest.approx(100 * standing, abs=2.6)  # an image at the very edge
    # at the worst point every margin is smaller by what the ball takes
    worst = margins.abs() - epsilon * line.abs().sum()
    assert measured[ROBUST_LOSS] == pytest.approx(functional.softplus(-worst).mean().item(), rel=1e-3)
    assert sum(steps) == 20 * 3  # gradients, for each of three batches


def test_the_monitor_attacks_so_many_images_at_most(monkeypatch):
    monkeypatch.setattr(monitor_module, "MOST_IMAGES", 5)
    seen = []

    class Counted:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            seen.append(index)
            return torch.zeros(3, 4, 4, dtype=torch.uint8), 0

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    measured = Monitor(Counted(), Ball("linf", 0.1), 2, make_accelerator("fp32")).measure(model)
    assert seen == [0, 1, 2, 3, 4]
    assert measured[ROBUST] in (0, 100)


@pytest.mark.parametrize("head_init", ["random", "robust"])
def test_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, head_init):
    """Stopped twice, in the middle of an epoch, with a checkpoint at every step; the same bytes."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    config = make_world(tmp_path, **{**QUICK, "epochs": 3, "dropout": 0.1})
    options = {"scalars": "auto", "head_init": head_init, "head_epochs": 2, "steps": 1, "step_size": 8.0}
    whole = train(tmp_path, config, "whole", **options)
    step, made = training.Training._optimizer_step, []

    def stopping(self, number):
        step(self, number)
        made.append(number)
        if len(made) in (4, 8):
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_optimizer_step", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, config, "resumed", **options)
    resumed = train(tmp_path, config, "resumed", **options)
    phases = {"random": 3, "robust": 2 + 3}[head_init]  # epochs of 3 steps each
    assert len(made) == phases * 3 + 2  # each stop loses the one step that was not saved
    first, second = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "resumed"))
    assert sha256_of(first) == sha256_of(second)
    names = ("train_loss", "val_robust_accuracy_percent", "selected_epoch", "attack_steps")
    assert [whole[name] for name in names] == [resumed[name] for name in names]
    assert not list(Path(os.environ["PPVIT_SCRATCH"]).rglob("*.pt"))


def test_a_strengthened_attack_outlives_an_interruption():
    first = robust(steps=1, step_size=8.0, start="n_fgsm", fallback_steps=10)
    for percent in (50.0, 20.0):
        first.end_epoch({ROBUST: percent})
    assert first.attack.steps == 10
    second = robust(steps=1, step_size=8.0, start="n_fgsm", fallback_steps=10)
    second.load_state(first.state())
    assert second.attack == first.attack


def test_the_head_alone_is_neither_warmed_up_nor_monitored(tmp_path, monkeypatch):
    strengths = []
    begin = Robust.begin_step

    def noted(self, epoch, step):
        begin(self, epoch, step)
        strengths.append(self._strength)

    monkeypatch.setattr(Robust, "begin_step", noted)
    train(tmp_path, make_world(tmp_path, **QUICK), head_init="robust", head_epochs=1, warmup_epochs=1)
    assert strengths == pytest.approx([1.0] * 3 + [1 / 3, 2 / 3, 1.0] + [1.0] * 3)


def test_figures_are_those_of_the_chosen_epoch(tmp_path):
    history = []
    result = train(tmp_path, make_world(tmp_path, **{**QUICK, "epochs": 3}), log=lambda _, each: history.append(each))
    chosen = history[result["selected_epoch"] - 1]
    assert {name: result[name] for name in chosen if name.startswith("train_")} == {
        name: value for name, value in chosen.items() if name.startswith("train_")
    }


def test_robust_head_is_where_training_starts(tmp_path, monkeypatch):
    """The probe changes the head and nothing else of the model that the method is then attached to."""
    config = make_world(tmp_path, **QUICK)
    given = []
    attach = defence.attach

    def noted(tuner, model, *rest):
        given.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return attach(tuner, model, *rest)

    for module in (defence, finetuning):  # the probe, and the run
        monkeypatch.setattr(module, "attach", noted)
    train(tmp_path, config, head_init="robust", head_epochs=1)
    random, probed = given
    assert {name for name in random if not torch.equal(random[name], probed[name])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_training_against_an_attack_learns_what_an_attack_cannot_undo(loss):
    """One pixel tells the class in nine of ten images by more than epsilon, 47 others each a little and by less
    (Tsipras et al., arXiv 1805.12152): together these are more accurate, and under attack worse than chance."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=generator)
    side = (2.0 * labels - 1)[:, None]
    told = torch.where(torch.rand(400, 1, generator=generator) < 0.9, 0.5, -0.5) * side
    images = torch.cat([told, 0.06 * side + 0.1 * torch.randn(400, 47, generator=generator)], 1).reshape(400, 3, 4, 4)
    objectives = {"natural": Objective(), loss: robust(loss=loss, classes=2, epsilon=12.75, steps=5, step_size=5.0)}
    attack = PgdAttack(objectives[loss].attack.ball, 20, 0.02)
    accuracy = {}
    for name, objective in objectives.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for step in range(150):
            objective.begin_step(0, step)
            (objective.loss(model, images, labels)[0] / 400).backward()
            optimizer.step()
            optimizer.zero_grad()
        moved = attack.perturb(model, images, labels, generator)
        accuracy[name] = [(model(each).argmax(1) == labels).double().mean().item() for each in (images, moved)]
    assert accuracy["natural"][0] > 0.97
    assert accuracy["natural"][1] < 0.3
    assert accuracy[loss][1] > 0.8


def test_bf16_and_a_compiled_attack(tmp_path, monkeypatch):
    config = make_world(tmp_path, **{**QUICK, "epochs": 1, "precision": "bf16"})
    plain = train(tmp_path, config)["train_loss"]
    monkeypatch.setenv("PPVIT_COMPILE", "eager")
    compiled = train(tmp_path, config)
    assert compiled["train_loss"] == pytest.approx(plain, rel=0.02)
    assert [compiled[name] for name in ("precision", "tf32", "compiled")] == ["bf16", False, "eager"]


def test_an_unknown_compiler_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_COMPILE", "foo")
    with pytest.raises(
        UsageError, match=r"PPVIT_COMPILE foo: torch compiles with .*inductor.*; set one of them, 1 or 0"
    ):
        train(tmp_path, make_world(tmp_path, **QUICK))
    assert not (tmp_path / "finetuned").exists()


def test_two_processes_train_as_one(tmp_path):
    config = make_world(tmp_path, **{**QUICK, "epochs": 1, "batch_size": 9})
    attack = {"start": "none", "inner_loss": "ce", "scalars": "auto"}
    one = train(tmp_path, config, "one", **attack)
    two = train_in_two_processes(tmp_path, against(config, **attack))
    for name in ("train_loss", "train_robust_loss", "train_robust_accuracy_percent", "val_accuracy_percent"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


def test_a_cipher_without_distances_is_refused_before_any_work(tmp_path):
    config = make_world(tmp_path, "le", **QUICK)
    with pytest.raises(UsageError, match=r"cipher\.name 'le' does not keep distances between images"):
        train(tmp_path, config)
    assert not (tmp_path / "finetuned").exists()


def test_one_class_is_refused(tmp_path):
    write_raw(tmp_path / "raw", {"train": 50, "test": 12}, classes=1)
    config = make_world(tmp_path, **QUICK)
    with pytest.raises(PpvitError, match="the shards have 1 class, so there is nothing to attack"):
        train(tmp_path, config)


def test_a_model_that_diverges_is_told(tmp_path):
    broken = {"learning_rate": 1000.0, "optimizer": "sgd", "gradient_clip": 0.0, "warmup_fraction": 0.0}
    # in the loss or on validation images, whichever overflows first: processors differ
    with pytest.raises(PpvitError, match=r"(is not a number|are not numbers).*lower finetune\.learning_rate"):
        train(tmp_path, make_world(tmp_path, **{**QUICK, **broken}))
    assert not (tmp_path / "finetuned").exists()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"epsilon": 0}, "adversarial.epsilon"),
        ({"epsilon": 256}, "adversarial.epsilon"),
        ({"steps": 0}, "adversarial.steps"),
        ({"steps": 1001}, "adversarial.steps"),
        ({"step_size": 0}, "adversarial.step_size"),
        ({"start": "n_fgsm"}, r"start n_fgsm is an attack of one step; set adversarial\.steps=1, not 10"),
        ({"start": "none"}, "start none never leaves the image"),
        ({"natural_weight": 0, "robust_weight": 0}, "are both 0"),
        ({"robust_weight": ".inf"}, "adversarial.robust_weight"),
        ({"epsilon": ".nan"}, "adversarial.epsilon"),
        ({"steps": 1}, r"step_size 2 is too short: 1 steps of it reach 2 of .*epsilon 8; set adversarial\.step_size=8"),
        ({"steps": 5, "step_size": 1}, r"set adversarial\.step_size=4"),
        ({"warmup_epochs": 10}, "warmup_epochs 10 leaves none of the 10 finetune.epochs at full strength"),
        ({"norm": "l2", "epsilon": 20000, "step_size": 5000}, r"epsilon 20000 .l2. is beyond the 14134 between black"),
    ],
)
def test_bad_parameters(values, told, tmp_path):
    (tmp_path / "params.yaml").write_text(default_yaml())
    overrides = [f"adversarial.{name}={value}" for name, value in values.items()]
    with pytest.raises(UsageError, match=told):
        load(tmp_path / "params.yaml", ["finetune.adversarial=trades", *overrides])


def test_unused_section_is_not_checked_against_the_loss():
    assert make_config(adversarial={"start": "n_fgsm"}).finetune.adversarial == "none"


def test_seeds_of_steps_differ():
    objective = robust()
    drawn = []
    for epoch, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        objective.begin_step(epoch, step)
        drawn.append(torch.rand(3, generator=_stream(objective)).numpy())
    assert np.array_equal(drawn[0], drawn[3])
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:3])
