"""The studies of robustness fit the code: their settings exist, and their tables are those of their results."""

import importlib.util
import json

import numpy as np
import pytest
import yaml
from imports import ROOT

from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import UsageError
from ppvit.tuners import TUNERS

STUDIES = ROOT / "studies"
LOFT, KEYED = STUDIES / "loft", STUDIES / "keyed_defence"
SIZES = ("tiny", "assets")
COMMITTED = [size for size in SIZES if (LOFT / f"{size}.md").exists()]


@pytest.fixture(autouse=True)
def assets(monkeypatch):
    """They need not be there."""
    monkeypatch.setenv("PPVIT_ASSETS", "assets")


def script(folder, name):
    """A script of a study as a module; both studies have one of the same name."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


loft_table, loft_run = script(LOFT, "table"), script(LOFT, "run")
keyed_table, keyed_run = script(KEYED, "table"), script(KEYED, "run")
LOFT_RUNS = [(size, run) for size in SIZES for stage in loft_table.planned(size).values() for run in stage]


def matrices_are_those_of_the_variants(folder, others):
    stages, pipeline = read(folder / "variants.yaml")["stages"], read(folder / "dvc.yaml")["stages"]
    for name, axes in stages.items():
        assert pipeline[name]["matrix"] == {axis: f"${{stages.{name}.{axis}}}" for axis in axes}
    assert set(pipeline) - others == set(stages)


def shown(hits, images):
    """As many True as images withstood."""
    return np.arange(images) < hits


# --- LoFT


def test_every_setting_of_loft_exists():
    methods = read(LOFT / "variants.yaml")["methods"]
    assert {run[1] for _, run in LOFT_RUNS} == set(methods)  # none is left over
    for size, run in LOFT_RUNS:
        config = loft_run.configuration(size, *run)
        assert config.finetune.method in TUNERS
        assert config.cipher.name == "none"
        assert (config.finetune.adversarial == "none") == (run[1] == "natural")
        assert config.robustness.epsilon == config.adversarial.epsilon


def test_methods_differ_in_what_they_are_named_after():
    def settings(method):
        config = loft_run.configuration("tiny", "vit", method, 100)
        return config.finetune.method, config.adversarial.scalars, config.adversarial.head_init, config.finetune.rank

    assert [settings(method)[:3] for method in ("rft", "rft_auto", "loft", "loft_roli")] == [
        ("full", "fixed", "random"),
        ("full", "auto", "random"),
        ("lora", "fixed", "random"),
        ("lora", "fixed", "robust"),
    ]
    planned = loft_table.planned("tiny")
    for _, method, _ in planned.get("ranks", []):
        assert settings(method)[3] == int(method.removeprefix("loft_r"))
    for _, method, _ in planned.get("steps", []):
        assert loft_run.configuration("tiny", "vit", method, 100).adversarial.steps == int(method.split("_")[1])
    assert settings("loft")[3] == 8
    assert loft_run.configuration("tiny", "vit", "loft", 100).adversarial.steps == 10


def test_a_share_of_labels_is_one_of_the_images():
    whole, part = (loft_run.configuration("tiny", "vit", "rft", labels).dataset.train_fraction for labels in (100, 10))
    assert part == pytest.approx(whole / 10)


def test_matrices_of_loft():
    matrices_are_those_of_the_variants(LOFT, {"pretrain_resnet", "table"})
    assert read(LOFT / "dvc.yaml")["stages"]["table"]["matrix"]["size"] == list(SIZES)
    assert set(read(LOFT / "variants.yaml")["sizes"]) == set(read(LOFT / "paper.yaml")["sizes"]) == set(SIZES)


def test_every_result_of_loft_belongs_to_a_run():
    results = set((LOFT / "results").glob("*/*"))
    assert results <= {loft_table.result_path(size, run) for size, run in LOFT_RUNS}


@pytest.mark.parametrize("size", COMMITTED)
def test_tables_of_loft_are_made_of_their_results(size, tmp_path):
    loft_table.main(size, tmp_path)
    assert (tmp_path / f"{size}.md").read_text() == (LOFT / f"{size}.md").read_text()


def test_published_figures_are_those_of_the_paper():
    """SA and AA on CIFAR-10 and CIFAR-100."""
    paper = read(LOFT / "paper.yaml")
    assert paper["columns"] == ["CIFAR-10 SA", "CIFAR-10 AA", "CIFAR-100 SA", "CIFAR-100 AA"]
    assert paper["figures"] == {
        "LoFT": [83.38, 58.04, 57.38, 34.16],
        "TWINS": [86.61, 51.71, 66.72, 28.29],
        "AutoLoRa": [84.20, 48.95, 62.10, 27.48],
        "vanilla RFT": [81.51, 47.52, 58.55, 24.07],
        "DYNACL": [77.41, 45.04, 52.26, 20.05],
        "AdvCL": [73.23, 37.46, 37.58, 15.54],
        "ACL": [79.32, 37.62, 45.34, 15.68],
        "natural fine-tuning": [94.02, 6.61, None, None],
    }


@pytest.mark.parametrize(
    ("first", "second", "interval"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 20), (0.6791, 1.0000)),
    ],
)
def test_interval_of_a_difference_is_the_published_one(first, second, interval):
    expected = [first[0] / first[1] - second[0] / second[1], *interval]
    found = np.array(loft_table.difference_percent(shown(*first), shown(*second))) / 100
    assert found == pytest.approx(expected, abs=1e-4)


def test_only_what_is_told_apart_is_marked():
    def result(percent):
        return {"images": 50, "headline_accuracy_percent": percent}

    assert loft_table.against(result(80.0), result(40.0)).endswith("*")
    assert loft_table.against(result(40.0), result(80.0)).startswith("-40 (")
    assert not loft_table.against(result(44.0), result(40.0)).endswith("*")


def test_a_figure_that_fails_a_check_says_which():
    checks = {"masking_vanishes": False, "masking_planted_found": True}
    result = {**checks, "curve": {"8.0": 70.0, "32.0": 12.0, "16.0": 50.0}}
    assert loft_table.failed_checks(result) == ["masking_vanishes"]
    line = loft_table.doubts(("vit", "rft", 10), result)
    assert "vit `rft`, 10 %" in line
    assert line.endswith("failed `masking_vanishes`; PGD-20 leaves 12 % at eps 32.")


# --- keyed defence


def test_every_setting_of_the_keyed_defence_exists():
    variants = read(KEYED / "variants.yaml")
    rows = keyed_table.planned()
    assert {cipher for cipher, _ in rows} == set(variants["ciphers"])
    assert {training for _, training in rows} == set(variants["trainings"])
    for cipher, training in rows:
        config = keyed_run.configuration(cipher, training)
        assert config.cipher.name in CIPHERS
        assert config.cipher.name == cipher.removesuffix("_unadapted")
        assert config.adapt.enabled != cipher.endswith("_unadapted")
        assert config.finetune.adversarial == {"natural": "none", "loft": "trades"}[training]
        assert load_cipher(config).name == config.cipher.name
    with pytest.raises(UsageError, match="has no cipher 'rot13'"):
        keyed_run.configuration("rot13", "natural")


def test_matrices_of_the_keyed_defence():
    matrices_are_those_of_the_variants(KEYED, {"table"})


def test_results_of_the_keyed_defence_belong_to_rows():
    results = set((KEYED / "results").glob("*"))
    assert results <= {keyed_table.result_path(*row) for row in keyed_table.planned()}


@pytest.mark.skipif(not (KEYED / "threats.md").exists(), reason="the table is not committed")
def test_table_of_the_keyed_defence_is_made_of_its_results(tmp_path):
    keyed_table.main(tmp_path)
    assert (tmp_path / "threats.md").read_text() == (KEYED / "threats.md").read_text()


@pytest.mark.parametrize("path", sorted((KEYED / "results").glob("*")), ids=lambda path: path.stem)
def test_headline_is_the_strongest_attacker(path):
    result = json.loads(path.read_text())
    figures = [result.get(f"{name}_accuracy_percent", 100) for name in keyed_table.ATTACKERS]
    assert result["headline_accuracy_percent"] == min(figures)
