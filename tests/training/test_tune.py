"""`ppvit tune`: it trains as the stage does, by validation images alone, and an interrupted search ends the same."""

import builtins
import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from conftest import make_config, tiny_backbone, write_raw
from test_finetune import QUICK, changed, places_of, train
from typer.testing import CliRunner

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.cli.command import app
from ppvit.config import default_yaml
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import EncryptedImages
from ppvit.models import save_model
from ppvit.training.finetuning import chosen_figure
from ppvit.verbs import encrypt, tune

RATES = "finetune.learning_rate=1e-4..1e-1"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards with validation images and a model, and the parameter file that they were made with."""
    folder = tmp_path_factory.mktemp("world")
    dataset = {"image_size": 16, "val_fraction": 0.3}
    config = make_config(dataset=dataset, finetune={**QUICK, "epochs": 2})
    places = places_of(folder)
    write_raw(places.raw, {"train": 50, "test": 12})
    encrypt.run(config, places)
    backbone, used = tiny_backbone(), load_cipher(config)
    adapt_model(backbone, used)
    save_model(places.adapted, backbone, used.record)
    values = yaml.safe_load(default_yaml())
    values["dataset"] |= dataset
    values["finetune"] |= {**QUICK, "epochs": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder, config, places


def search(world, *ranges: str, trials: int = 4, overrides=()) -> tune.Found:
    folder, _, places = world
    return tune.run(folder / "params.yaml", overrides, places, ranges or (RATES,), trials)


def test_no_test_image_is_read_and_the_best_is_what_the_stage_measures(world, monkeypatch):
    """The test shards are gone; and no file of that name is asked for, whatever finetune.track_test says."""
    folder, config, places = world
    shutil.rmtree(places.encrypted / "test")
    asked = []
    opened, system = builtins.open, os.open

    def watched(file, *arguments, **keywords):
        asked.append(str(file))
        return opened(file, *arguments, **keywords)

    def watched_below(path, *arguments, **keywords):
        asked.append(str(path))
        return system(path, *arguments, **keywords)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(os, "open", watched_below)
    found = search(world, trials=3, overrides=("finetune.track_test=true",))
    monkeypatch.undo()
    assert [path for path in asked if "encrypted" in path], "the shards were watched"
    assert not [path for path in asked if "encrypted/test" in path]
    assert found.figure == "val_accuracy_percent"
    rate = found.best.values["finetune.learning_rate"]
    assert train(folder, changed(config, learning_rate=rate))["val_accuracy_percent"] == found.score
    assert found.score == max(trial.curve[trial.kept - 1] for trial in found.trials if trial.ended == "trained")


@pytest.mark.parametrize("chosen", [{"select_by": "auroc"}, {"select_by": "balanced_accuracy"}, {"adversarial": "at"}])
def test_what_is_compared_is_what_chooses_the_epoch(world, chosen):
    folder, config, places = world
    attack = config.adversarial.model_copy(update={"steps": 1, "epsilon": 1.0})
    config = changed(config, **chosen).model_copy(update={"adversarial": attack})
    figure = chosen_figure(config.finetune, EncryptedImages(places.encrypted, "val").labelling)
    curve = []
    values = train(folder, config, log=lambda epoch, metrics: curve.append(metrics[figure]))
    assert curve[values["selected_epoch"] - 1] == max(curve)
    assert values[figure] == max(curve)


@pytest.mark.parametrize("select", ["auto", "last"])
def test_trials_are_compared_by_the_figure_that_is_named(world, select):
    """Also where the last epoch is kept, and the stage would not read the name."""
    found = search(world, trials=1, overrides=("finetune.select_by=auroc", f"finetune.select={select}"))
    assert found.figure == "val_auroc"
    assert len(found.best.curve) == 2
    if select == "last":
        assert found.score == found.best.curve[-1]


def test_the_first_trial_is_of_the_values_as_they_are(world):
    """So that the search never proposes what is worse than what one had."""
    found = search(world, trials=2)
    assert found.trials[0].values == {"finetune.learning_rate": 0.002}
    assert found.own == found.trials[0].curve[found.trials[0].kept - 1]
    assert found.score >= found.own
    outside = search(world, "finetune.learning_rate=1e-2..1e-1", trials=1)
    assert outside.own is None
    assert 1e-2 <= outside.trials[0].values["finetune.learning_rate"] <= 1e-1


def test_interrupted_search_goes_on_to_the_same_trials(world, monkeypatch):
    """Stopped in the middle of the third training; what was tried is kept, and the rest follows from it."""
    whole = search(world)
    (kept,) = Path(os.environ["PPVIT_SCRATCH"]).glob("tune-*.json")
    kept.unlink()
    trained, calls = tune.finetune, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trained(*arguments)

    monkeypatch.setattr(tune, "finetune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(world)
    assert search(world) == whole
    assert len(calls) == 3 + 2  # trials 3 and 4 of the second start
    assert search(world) == whole
    assert len(calls) == 5  # nothing left to do
    assert [path.name for path in Path(os.environ["PPVIT_SCRATCH"]).iterdir()] == [kept.name]  # no checkpoint is left


def test_what_is_worse_than_the_median_is_stopped_and_what_diverges_is_passed_over(world, monkeypatch):
    """Curves by hand: three trainings that go well, one that does not from its second epoch on, one without a loss."""
    curves = [[50.0, 60.0, 70.0, 80.0]] * 3 + [[55.0, 40.0, 90.0, 90.0], None, [51.0, 61.0, 71.0, 85.0]]
    seen = []

    class Written:
        values: ClassVar = {"selected_epoch": 4}

        def written(self) -> None: ...

    def scripted(settings, adversarial, encrypted, adapted, log, augment):
        curve = curves[len(seen)]
        seen.append(0)
        if curve is None:
            raise tune.Diverged("the training loss is not a number")
        for epoch, figure in enumerate(curve, start=1):
            seen[-1] = epoch
            log(epoch, {"val_accuracy_percent": figure})
        return Written()

    monkeypatch.setattr(tune, "finetune", scripted)
    found = search(world, trials=6, overrides=("finetune.epochs=4",))
    assert [trial.ended for trial in found.trials] == ["trained"] * 3 + ["stopped", "diverged", "trained"]
    assert seen == [4, 4, 4, 2, 0, 4]
    assert found.best == found.trials[5]


def test_values_are_of_the_range_on_its_scale_and_of_the_parameter_s_type(world, monkeypatch):
    tried = []

    def noted(settings, adversarial, encrypted, adapted, log, augment):
        tried.append(settings)
        log(1, {"val_accuracy_percent": 50.0})
        raise tune.Diverged("enough")

    monkeypatch.setattr(tune, "finetune", noted)
    ranges = (RATES, "finetune.rank=2..64", "finetune.weight_decay=0..0.1", "finetune.optimizer=[sgd, adamw]")
    with pytest.raises(PpvitError, match=r"^all 40 trials diverged; search smaller values of finetune\.learning_rate$"):
        search(world, *ranges, trials=40)
    below = sum(settings.learning_rate < 10**-2.5 for settings in tried)
    assert 8 < below < 36  # half of a logarithmic scale, 3 % of a linear one
    assert {type(settings.rank) for settings in tried} == {int}
    assert {settings.optimizer for settings in tried} == {"sgd", "adamw"}
    assert all(2 <= settings.rank <= 64 and 0 <= settings.weight_decay <= 0.1 for settings in tried)
    assert all(float(f"{settings.learning_rate:.3g}") == settings.learning_rate for settings in tried)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("finetune.learning_rate", "is no range such as finetune.learning_rate=1e-4..1e-1"),
        ("cipher.block_size=[2, 4]", "`tune` searches parameters of training, those of finetune, augment, adversarial"),
        ("finetune.learningrate=1..2", "'finetune.learningrate' is none"),
        ("finetune.seed=1..9", "finetune.seed is not to be searched"),
        ("finetune.learning_rate=1e-1..1e-4", "the ends of a range are two numbers, the smaller one first"),
        ("finetune.learning_rate=-1..1", "the ends of a range are two numbers, the smaller one first, from 0 on"),
        ("finetune.learning_rate=0..1", "parameter 'finetune.learning_rate': input should be greater than 0"),
        ("finetune.learning_rate=1..1e9", "parameter 'finetune.learning_rate': input should be less than"),
        ("finetune.learning_rate=fast..slow", "the ends of a range are two numbers"),
        ("finetune.learning_rate=1..2..3", "is neither a range such as 1e-4..1e-1 nor a list"),
        ("finetune.learning_rate=[]", "is neither a range such as 1e-4..1e-1 nor a list"),
        ("finetune.learning_rate=[{a: 1}]", "is neither a range such as 1e-4..1e-1 nor a list"),
        ("finetune.learning_rate=[1", "the range in 'finetune.learning_rate=[1' cannot be read: line "),
        ("finetune.optimizer=[sgd, lion]", "parameter 'finetune.optimizer'"),
        ("finetune.rank=1.5..2.5", "parameter 'finetune.rank': input should be a valid integer"),
        ("finetune.momentum=0..0.9", "finetune.momentum is not read with finetune.method lora"),
        ("adversarial.steps=1..10", "adversarial.steps is not read with finetune.method lora"),
    ],
)
def test_ranges_that_cannot_be_searched_are_refused_in_a_line(world, text, reason):
    with pytest.raises(UsageError) as error:
        search(world, text)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_two_ranges_of_a_parameter_are_refused(world):
    with pytest.raises(UsageError, match=r"^finetune\.rank is given two ranges, .*4.* and .*8.*; leave one out$"):
        search(world, "finetune.rank=[4]", "finetune.rank=[8]")


def test_without_validation_images_there_is_nothing_to_compare_by(tmp_path):
    places = places_of(tmp_path)
    write_raw(places.raw, {"train": 8, "test": 4})
    encrypt.run(make_config(dataset={"image_size": 16}), places)
    with pytest.raises(PpvitError, match=r"val has no images, and `tune` compares by them; set dataset\.val_fraction"):
        tune.run(None, (), places, (RATES,), 1)


def test_missing_package_is_said_with_its_remedy(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PpvitError, match=r"^`tune` needs Optuna; install it: pip install 'ppvit\[tune\]'$"):
        search(world)


def test_damaged_file_of_a_search_is_refused(world):
    search(world, trials=1)
    (kept,) = Path(os.environ["PPVIT_SCRATCH"]).glob("tune-*.json")
    kept.write_text(kept.read_text().replace('"trained"', '"__import__"'))
    with pytest.raises(PpvitError, match=r"tune-.*\.json: 'trials\.0\.ended'"):
        search(world, trials=2)


def test_the_command_prints_how_to_use_what_it_found(world, monkeypatch):
    folder, _, places = world
    monkeypatch.chdir(folder)
    given = ["--encrypted", str(places.encrypted), "--adapted", str(places.adapted), "--trials", "1"]
    done = CliRunner().invoke(app, ["tune", RATES, "-S", "finetune.epochs=1", *given])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "dvc exp run -S finetune.epochs=1 -S finetune.learning_rate=0.002"
    assert "tune: trial 1 of 1: finetune.learning_rate=0.002: val_accuracy_percent " in done.stderr
    shutil.copy("params.yaml", "other file.yaml")
    done = CliRunner().invoke(app, ["tune", RATES, "-S", "finetune.epochs=1", "--params", "other file.yaml", *given])
    assert done.exit_code == 0, done.output
    expected = "ppvit finetune --params 'other file.yaml' -S finetune.epochs=1 -S finetune.learning_rate=0.002"
    assert done.stdout.splitlines()[-1] == expected
