"""Studies fit the code: what they name exists, tables are those of their results, and the root does not see them."""

import math
import subprocess
import sys

import pytest
import torch
import yaml
from imports import ROOT

from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import load
from ppvit.tuners import TUNERS

STUDIES = ROOT / "studies"
PAPERS = ("nagamori2023", "lin2025", "aoft2025")
SIZES = tuple(yaml.safe_load((STUDIES / "sizes.yaml").read_text()))
COMMITTED = [(paper, size) for paper in PAPERS for size in SIZES if (STUDIES / paper / f"{size}.md").exists()]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts of the studies can be imported, and assets need not be there."""
    monkeypatch.syspath_prepend(STUDIES)
    monkeypatch.setenv("PPVIT_ASSETS", "assets")


def read(*parts):
    return yaml.safe_load(STUDIES.joinpath(*parts).read_text())


def planned(paper, size):
    import settings

    return settings.planned(paper, size)


def test_the_study_of_ciphers_has_them_all():
    variants = read("ciphers", "variants.yaml")["variants"]
    matrix = read("ciphers", "dvc.yaml")["stages"]["run"]["matrix"]["variant"]
    assert matrix == list(variants)
    assert {name.split("-")[0] for name in variants} == set(CIPHERS)
    for name, settings in variants.items():
        config = load(ROOT / "params.yaml", [f"cipher.name={name.split('-')[0]}", *settings["overrides"]])
        assert load_cipher(config).name == name.split("-")[0]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_setting_of_a_study_exists(paper):
    runs, seen = [run for size in SIZES for run in planned(paper, size)], set()
    for run in runs:
        new = {(run.size, run.images), (run.size, run.method)} - seen
        seen |= new
        if new:  # each setting once, not each combination
            config = run.config()
            assert config.finetune.method in TUNERS
            assert config.cipher.name in CIPHERS
            assert config.adapt.enabled == (run.images == "plain" or run.images.endswith("_adapted"))
            assert load_cipher(config).block_size == config.cipher.block_size
    assert [run.config().finetune.seed for run in runs[:3]] == [0, 1, 2]
    assert {run.method for run in runs} == set(read(paper, "variants.yaml")["methods"])  # none is left over


@pytest.mark.parametrize("paper", PAPERS)
def test_matrices_are_those_of_the_variants(paper):
    variants, pipeline = read(paper, "variants.yaml"), read(paper, "dvc.yaml")
    prepared = read("dvc.yaml")["stages"]["prepare"]["matrix"]
    for name, axes in variants["stages"].items():
        matrix = pipeline["stages"][name]["matrix"]
        assert matrix == {axis: f"${{stages.{name}.{axis}}}" for axis in axes}
        assert axes["seed"] == [0, 1, 2]
        assert set(axes["size"]) <= set(prepared["size"]) == set(SIZES)
        assert set(axes["images"]) <= set(prepared["images"])
    assert set(pipeline["stages"]) - {"table", "counts"} == set(variants["stages"])


@pytest.mark.parametrize("paper", PAPERS)
def test_every_result_belongs_to_a_run(paper):
    results = {path.relative_to(STUDIES) for path in (STUDIES / paper / "results").glob("*/*")}
    assert results <= {run.result for size in SIZES for run in planned(paper, size)}


@pytest.mark.parametrize(("paper", "size"), COMMITTED)
def test_tables_are_made_of_their_results(paper, size, tmp_path):
    import table

    missing = [str(run.result) for run in planned(paper, size) if not (STUDIES / run.result).exists()]
    assert not missing
    table.main(paper, size, tmp_path)
    assert (tmp_path / f"{size}.md").read_text() == (STUDIES / paper / f"{size}.md").read_text()
    plots = {path.name for path in tmp_path.glob("*.svg")}
    assert plots == {path.name for path in (STUDIES / paper).glob(f"{size}-*.svg")}


@pytest.mark.parametrize("paper", PAPERS)
def test_published_figures_are_of_rows_that_are_run(paper):
    published, rows = read(paper, "paper.yaml"), {(run.images, run.method) for run in planned(paper, "full")}
    claimed = [(figure["images"], figure["method"], figure["column"]) for figure in published["figures"]]
    assert {row[:2] for row in claimed} <= rows
    assert {row[2] for row in claimed} == set(published["columns"])
    assert len(set(claimed)) == len(claimed)
    assert set(published["sizes"]) == set(SIZES)


def test_published_figures_are_those_of_the_papers():
    def figures(paper, column):
        found = read(paper, "paper.yaml")["figures"]
        return {(row["images"], row["method"]): row["value"] for row in found if row["column"] == column}

    table_one = figures("nagamori2023", "cifar10_percent")
    assert (table_one["plain", "full"], table_one["block", "full"]) == (99.00, 72.86)
    assert (table_one["block_adapted", "full"], table_one["shuffle_adapted", "full"]) == (98.98, 99.05)
    lin = figures("lin2025", "cifar10_percent")
    assert (lin["shuffle", "melo_r4"], lin["shuffle", "lora_patch_r4"]) == (90.05, 96.35)
    assert figures("aoft2025", "vtab_percent")["plain", "aoft_lora_scaled"] == 74.1


def test_parameter_counts_are_the_published_ones(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES / "lin2025")
    import counts

    assert counts.count("full", classes=1000) == 86_567_656  # 82.557 * 2^20
    assert counts.count("melo", 4) == 12 * 2 * 2 * 768 * 4 + 7_690 == 155_146
    assert counts.count("lora_patch", 4) == 155_146 + 590_592 == 745_738
    committed = read("lin2025", "counts.json")
    assert [committed[name] for name in ("full_1000", "melo_r4", "lora_patch_r4")] == [86_567_656, 155_146, 745_738]


def test_angles_of_columns():
    import angles

    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert angles.column_angles(matrix).tolist() == pytest.approx([45, 90, 45])
    counts = angles.histogram([matrix])
    assert sum(counts) == 3
    assert angles.near_right_percent(counts) == pytest.approx(100 / 3)
    # random columns of n entries spread by 1 / sqrt(n) around a right angle
    size = 400
    near = angles.near_right_percent(angles.histogram(angles.gaussian([torch.empty(size, 200)])))
    expected = math.erf(math.radians(5) * math.sqrt(size) / math.sqrt(2))
    assert near == pytest.approx(100 * expected, abs=1)


def test_differences_are_told_apart_by_a_t_test():
    import table

    assert table.told_apart([1.0, 1.1, 0.9])  # t = 17.3, and 4.30 is the limit for three values at 5 %
    assert not table.told_apart([1.0, 3.0, -0.5])  # t = 1.15
    runs = [{"accuracy_percent": value} for value in (90.0, 91.0, 92.0)]
    assert table.difference(runs, runs) == "0 in every run"
    assert table.spread(runs) == "91.0 ± 1.0"


def test_the_root_does_not_see_the_studies():
    command = [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"]
    stages = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "finetune" in stages
    assert "studies" not in stages
