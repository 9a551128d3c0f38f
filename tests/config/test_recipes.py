"""finetune.recipe: values as the papers have them, what they replace, and what is refused."""

import re

import pytest
import yaml
from imports import ROOT
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.config import Config, default_yaml, load, parameters
from ppvit.config.recipes import overrides, recipe_named, recipes, told
from ppvit.core.errors import UsageError
from ppvit.pipeline import STAGES

# what the project's specifications quote of each paper, word for word; that of medmnist is from the authors' script
TEXTS = {
    "nagamori2023": "SGD lr 1e-3, momentum 0.9, weight decay 5e-4, batch 32, 15 epochs (30 for the curves), "
    "cross-entropy.",
    "lin2025": "Adam lr 1e-4, 200 epochs, LoRA on W_Q and W_V of every layer. Text says alpha = 4, r = 8.",
    "hta2024": "AdamW, 100 epochs, 10 warm-up, cosine; grid per task lr {0.2, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0001}, "
    "weight decay {0.05, 0.01, 0.005, 0.001, 0}, batch {64, 32, 16}, adapter dropout {0.5, 0.3, 0.2, 0.1, 0}",
    "loft": "scaling 1 (alpha = r). x': PGD-10, Linf, eps 8/255, step 2/255. SGD lr 0.01, batch 256, 25 epochs, r = 8",
    "medmnist": "lr = 0.001, gamma=0.1, milestones = [0.5 * num_epochs, 0.75 * num_epochs], torch.optim.Adam, "
    "num_epochs default=100, batch_size default=128; cur_auc = val_metrics[1], if cur_auc > best_auc: best_model",
    "etc2022": "SGD 0.03, no weight decay, clip 1.0, batch 512, 20,000 steps, warm-up 500, cosine",
    "madono2020": "SGD 0.1, Nesterov, momentum 0.9, weight decay 5e-4, batch 512, 305 epochs (text: 128, 300), "
    "lr x0.1 at the start of epochs 150 and 225; CE + 0.001 L_U + 0.1 L_s",
    "convmixer2022": "AdamW lr 0.01 one-cycle, eps 1e-3, weight decay 1e-2, gradient clip 1.0, 300 epochs, batch 64",
}
_NUMBER = r"(\d[\d.,]*(?:e-\d+)?)"
NUMBERS = {  # where a number stands in such a text
    "finetune.learning_rate": rf"\b(?:lr(?: =)?|SGD) {_NUMBER}",
    "finetune.momentum": rf"momentum {_NUMBER}",
    "finetune.weight_decay": rf"weight decay {_NUMBER}",
    "finetune.batch_size": rf"batch(?:_size default=| ){_NUMBER}",
    "finetune.epochs": rf"{_NUMBER} epochs|num_epochs default={_NUMBER}",
    "finetune.gradient_clip": rf"clip {_NUMBER}",
    "finetune.alpha": rf"alpha = {_NUMBER}",
    "finetune.permutation_penalty": rf"{_NUMBER} L_U",
    "finetune.smoothness_penalty": rf"{_NUMBER} L_s",
    "finetune.rank": rf"\br = {_NUMBER}",
    "adversarial.epsilon": rf"eps {_NUMBER}/255",
    "adversarial.step_size": rf"step {_NUMBER}/255",
    "adversarial.steps": rf"PGD-{_NUMBER}",
}
GRIDS = {
    "finetune.learning_rate": r"lr \{(.*?)\}",
    "finetune.weight_decay": r"weight decay \{(.*?)\}",
    "finetune.batch_size": r"batch \{(.*?)\}",
    "finetune.dropout": r"dropout \{(.*?)\}",
}


def read(text: str) -> dict[str, float]:
    found = {name: re.search(pattern, text) for name, pattern in NUMBERS.items()}
    numbers = {name: next(filter(None, match.groups())).rstrip(".,") for name, match in found.items() if match}
    return {name: float(number.replace(",", "")) for name, number in numbers.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_numbers_are_those_of_the_text(name):
    found = read(TEXTS[name])
    assert len(found) >= 1
    recipe = recipe_named(name)
    assert {each: recipe.values.get(each) for each in found} == found
    for each, pattern in GRIDS.items():
        if grid := re.search(pattern, TEXTS[name]):
            assert sorted(recipe.choices[each]) == sorted(float(value) for value in grid[1].split(","))


@pytest.mark.parametrize("name", TEXTS)
def test_words_are_those_of_the_text(name):
    text, recipe = TEXTS[name], recipe_named(name)
    assert recipe.stated["finetune.optimizer"] == re.search("SGD|AdamW|Adam", text)[0].lower()
    assert ("cosine" in text) == (recipe.stated.get("finetune.schedule") == "cosine")
    assert ("cur_auc = val" in text) == (recipe.stated.get("finetune.select_by") == "auroc")
    assert ("milestones" in text) == (recipe.stated.get("finetune.schedule") == "step")
    if "no weight decay" in text:
        assert recipe.stated["finetune.weight_decay"] == 0


def test_shares_are_computed_from_what_the_texts_say():
    assert recipe_named("hta2024").stated["finetune.warmup_fraction"] == 10 / 100
    etc = recipe_named("etc2022").stated
    assert etc["finetune.warmup_fraction"] == 500 / 20_000
    assert etc["finetune.epochs"] == round(20_000 * etc["finetune.batch_size"] / 50_000)  # images of CIFAR-10
    loft = recipe_named("loft").stated
    assert loft["finetune.alpha"] == loft["finetune.rank"]  # scaling 1


@pytest.mark.parametrize("name", ["nagamori2023", "lin2025", "hta2024", "loft", "etc2022", "aoft2025", "convmixer2022"])
def test_what_is_called_stated_is_in_the_text(name):
    """All of it is read above, or one of a few words and products."""
    text = TEXTS.get(name, "")
    elsewhere = {"finetune.optimizer", "finetune.schedule", "finetune.warmup_fraction", "finetune.epochs"}
    elsewhere |= {"finetune.label_smoothing"} if "cross-entropy" in text else set()
    elsewhere |= {"adversarial.norm"} if "Linf" in text else set()
    elsewhere |= {"finetune.alpha"} if "scaling 1" in text else set()
    elsewhere |= {"finetune.weight_decay"} if "no weight decay" in text else set()
    assert recipe_named(name).stated.keys() - read(text).keys() - (elsewhere if text else set()) == set()


def test_every_recipe_is_a_set_of_known_parameters_that_train(tmp_path):
    known = {name for name, _, _ in parameters(("finetune", "adversarial"))}
    for name, recipe in recipes().items():
        parts = (recipe.stated, recipe.choices, recipe.unstated)
        assert len(recipe.values) == sum(map(len, parts)), name  # none stands twice
        assert recipe.values.keys() <= known - {"finetune.recipe", "finetune.seed"}, name
        config = load(None, [f"finetune.recipe={name}"])
        assert told(config).startswith(f"finetune.recipe {name} sets ")
        built_in = {parameter: default for parameter, default, _ in parameters()}
        for parameter, values in recipe.choices.items():
            assert built_in[parameter] not in values[1:], "what is built in cannot be told from what was not set"
            assert value(load(None, [f"finetune.recipe={name}", f"{parameter}={values[-1]}"]), parameter) == values[-1]


def value(config: Config, name: str):
    section, _, parameter = name.partition(".")
    return getattr(getattr(config, section), parameter)


def test_a_recipe_replaces_what_is_built_in_and_nothing_else():
    config, plain = load(None, ["finetune.recipe=nagamori2023", "finetune.seed=7"]), load(None)
    expected = recipe_named("nagamori2023").values
    for name, _, _ in parameters():
        if name not in ("finetune.recipe", "finetune.seed"):
            own = expected[name] if name in expected else value(plain, name)
            # built-in values that the paper has as well stay
            assert value(config, name) == own, name
    assert config.finetune.seed == 7


def test_one_of_several_values_is_kept_and_any_other_is_refused():
    assert load(None, ["finetune.recipe=lin2025"]).finetune.method == "lora_patch"
    assert load(None, ["finetune.recipe=lin2025", "finetune.method=melo"]).finetune.method == "melo"
    assert load(None, ["finetune.recipe=nagamori2023", "finetune.epochs=30"]).finetune.epochs == 30
    with pytest.raises(
        UsageError,
        match=r"^finetune\.epochs 1 is not of finetune\.recipe lin2025, which has 200; leave finetune\.epochs as it is "
        r"built in, or depart from the recipe's values with: \$\(ppvit recipe lin2025\) -S finetune\.epochs=1$",
    ):
        load(None, ["finetune.recipe=lin2025", "finetune.epochs=1"])
    with pytest.raises(UsageError, match=r"\) -S 'finetune\.method=my own'$"):  # as a shell takes it
        load(None, ["finetune.recipe=lin2025", "finetune.method=my own"])


def test_a_file_that_contradicts_its_recipe_is_refused_too(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(default_yaml().replace("  recipe: none", "  recipe: loft").replace("  steps: 10 ", "  steps: 3 "))
    with pytest.raises(UsageError, match=r"^adversarial\.steps 3 is not of finetune\.recipe loft, which has 10; "):
        load(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [("nagamori", "did you mean 'nagamori2023'"), ("None", "did you mean|there are"), ("x" * 4000, "there are nag")],
)
def test_unknown_recipe_names_the_nearest(name, told):
    with pytest.raises(UsageError, match=rf"^unknown finetune\.recipe '.*; ({told})") as error:
        load(None, [f"finetune.recipe={name}"])
    assert len(str(error.value)) < 400


def test_recipe_written_out_is_the_recipe_and_reruns_nothing():
    """The name alone decides nothing: what is read is the same, so that DVC compares equal."""
    for name in recipes():
        named, written = load(None, [f"finetune.recipe={name}"]), load(None, overrides(name))
        names = [each for each, _, _ in parameters() if each != "finetune.recipe"]
        assert {each: value(named, each) for each in names} == {each: value(written, each) for each in names}
        stages = [STAGES["finetune"].narrowed(each).model_dump() for each in (named, written)]
        assert stages[0] == stages[1]


def test_the_command_prints_overrides_alone_on_stdout():
    done = CliRunner().invoke(app, ["recipe", "lin2025"])
    assert done.exit_code == 0
    words = done.stdout.split()
    assert words[::2] == ["-S"] * (len(words) // 2)
    assert load(None, [*words[1::2], "finetune.epochs=2"]).finetune.epochs == 2
    assert "not stated: finetune.batch_size" in done.stderr


def test_studies_as_published_take_the_values_from_here():
    """Their size `full` names the recipe, so that no second copy can go astray."""
    for study in ("nagamori2023", "lin2025", "aoft2025"):
        plan = yaml.safe_load((ROOT / "studies" / study / "variants.yaml").read_text())["settings"]
        assert f"finetune.recipe={study}" in plan["size"]["full"]
        assert not any(text.partition("=")[0] in recipe_named(study).stated for text in plan["size"]["full"]), (
            "stands in the recipe"
        )


def test_the_page_has_every_value():
    """docs/recipes.md: a row a recipe."""
    rows = [line for line in (ROOT / "docs/recipes.md").read_text().splitlines() if line.startswith("| `")]
    for name, recipe in recipes().items():
        (row,) = (row for row in rows if row.startswith(f"| `{name}` |"))
        _, _, source, stated, several, ours, _ = row.split("|")
        assert source.strip() == recipe.source
        for cell, values in ((stated, recipe.stated), (ours, recipe.unstated)):
            assert {f"{each.removeprefix('finetune.')}={own}" for each, own in values.items()} <= set(
                cell.strip().split(", ")
            )
        for each, values in recipe.choices.items():
            assert f"{each.removeprefix('finetune.')} {', '.join(map(str, values))}" in several
