"""dvc.yaml names the code that each stage runs, as packages, no more and no less; and the table of stages agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import make_config
from imports import ROOT, is_glue, reached

from ppvit.config import Config
from ppvit.pipeline import STAGES as TABLE
from ppvit.places import Places

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RUN = [name for name in STAGES if name != "settings"]


def code_of(stage: str) -> list[str]:
    return [name for name in STAGES[stage]["deps"] if name.startswith("ppvit/")]


def within(name: str, places: list[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("stage", RUN)
def test_code_dependencies_are_what_the_stage_runs(stage):
    files = {path.relative_to(ROOT).as_posix() for path in reached(ROOT / "ppvit" / "verbs" / f"{stage}.py")}
    code = code_of(stage)
    assert not sorted(name for name in files if not within(name, code)), "not in dvc.yaml"
    assert not [place for place in code if not any(within(name, [place]) for name in files)], "not needed"


def test_the_studies_name_all_code_that_they_run_or_the_number_that_stands_for_it():
    """A study either depends on packages, all that it runs, or on its ``method_changes`` (see studies/README.md)."""
    for path in sorted((ROOT / "studies").rglob("dvc.yaml")):
        for name, stage in yaml.safe_load(path.read_text())["stages"].items():
            stage = stage.get("do", stage)
            listed = [(path.parent / dep).resolve() for dep in stage.get("deps", [])]
            code = [place.relative_to(ROOT).as_posix() for place in listed if place.is_relative_to(ROOT / "ppvit")]
            if all(is_glue(ROOT / place) for place in code):
                assert any("variants.yaml" in params for each in stage["params"] for params in each), f"{path}: {name}"
                continue
            scripts = [(path.parent / script).resolve() for script in re.findall(r"[\w./]+\.py", stage["cmd"])]
            files = set().union(*(reached(script) for script in scripts))
            used = {file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT / "ppvit")}
            assert not sorted(each for each in used if not within(each, code)), f"{path}: {name}"
    for study in sorted((ROOT / "studies").glob("*/variants.yaml")):
        assert isinstance(yaml.safe_load(study.read_text())["method_changes"], list | dict | int), study


def test_settings_depends_on_what_says_which_parameters_are_read():
    assert set(code_of("settings")) == {
        f"ppvit/{name}"
        for name in ("audit", "ciphers", "datasets", "he", "pipeline", "training/augmentation", "tuners")
    }


def test_the_lock_is_of_these_dependencies():
    """A frozen stage keeps what it was locked with until somebody commits it."""
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    values = {"${dataset.path}": "data/none", "${dataset.name}": "digits", "${model.checkpoint}": "models/none"}
    values["${finetune.track_test}"] = "false"
    for name, stage in STAGES.items():
        listed = set(stage["deps"])
        for text, value in values.items():
            listed = {each.replace(text, value) for each in listed}
        assert {each["path"] for each in locked[name]["deps"]} == listed, name


def test_dvc_yaml_is_short():
    text = (ROOT / "dvc.yaml").read_text()
    assert len(re.findall(r"^ *- (?:ppvit|stages)/", text, re.M)) <= 90
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("stage", ["finetune", "evaluate", "robustness"])
def test_the_trainer_neither_imports_nor_reads_what_is_secret(stage):
    assert not {path for path in reached(ROOT / "ppvit" / "verbs" / f"{stage}.py") if "ciphers" in path.parts}
    assert not any("raw" in name for name in STAGES[stage]["deps"])
    assert not {"dataset", "cipher"} & set(TABLE[stage].sections)
    assert TABLE[stage].party == "trainer"


def test_raw_data_are_never_pushed():
    (out,) = STAGES["download"]["outs"]
    assert out == {"data/raw/${dataset.name}": {"push": False}}


def test_every_stage_stands_in_the_table_in_params_and_in_its_files():
    assert list(STAGES) == ["settings", *TABLE]
    for stage in RUN:
        assert stage in Config.model_fields
        assert STAGES[stage]["cmd"] == f"stages/python stages/{stage}.py"
        read = None if stage == "report" else [stage]  # which prints what all others read
        assert STAGES[stage]["params"] == [{"settings.json": read}]
        assert (ROOT / "ppvit" / "verbs" / f"{stage}.py").exists()
    scripts = {path.stem: path.read_text() for path in (ROOT / "stages").glob("*.py")}
    assert set(scripts) == set(STAGES)
    assert all(len(text.splitlines()) <= 6 for text in scripts.values())


def test_inputs_and_outputs_in_the_table_are_those_of_dvc_yaml():
    config = make_config()
    places = Places.of(config)

    def names(stage: str, *kinds: str) -> set[Path]:
        listed = [each for kind in kinds for each in STAGES[stage].get(kind, [])]
        flat = [name for each in listed for name in ([each] if isinstance(each, str) else each)]
        named = {Path(name.replace("${dataset.name}", config.dataset.name)) for name in flat if "$" not in name[:2]}
        return {path for path in named if path.parts[0] != "ppvit"}

    for stage in RUN:
        # a split of the shards, and a result file with its metrics, are parts of one place
        table = TABLE[stage]
        for kinds, given in ((("outs", "metrics"), table.outputs), (("deps",), table.inputs)):
            found = {getattr(places, name) for name in given if name != "he"}  # random in its last bits, so in no lock
            for path in names(stage, *kinds):
                assert any(path == place or path.is_relative_to(place) for place in found), (stage, path)
            for place in found:
                assert any(path == place or path.is_relative_to(place) for path in names(stage, *kinds)), (stage, place)


@pytest.mark.parametrize(("features", "same"), [("pixels", True), ("grey", True), ("backbone", False)])
def test_he_reads_the_model_where_it_takes_features_of_it(features, same):
    read = [
        TABLE["he"]
        .narrowed(make_config(he={"features": features}, model={"name": name}))
        .model_dump(exclude_unset=True)
        for name in ("vit_micro_patch4_32", "vit_tiny_patch16_224")
    ]
    assert (read[0] == read[1]) is same
