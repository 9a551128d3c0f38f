"""Studies fit the code: settings exist, tables are those of their results and say what they were made with."""

import importlib
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import write_raw
from imports import ROOT
from PIL import Image
from sklearn.datasets import load_digits

from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import load
from ppvit.core.errors import UsageError
from ppvit.core.files import write_json
from ppvit.core.reading import read_json
from ppvit.tuners import TUNERS

STUDIES = ROOT / "studies"
PAPERS = ("nagamori2023", "lin2025", "aoft2025")
NAMES = (*PAPERS, "augmentation", "ciphers", "contrastive", "keyed_defence", "loft", "medmnist", "rates")


def module(name):
    """A script of the studies, or of one of them such as ``loft.tables``."""
    if str(STUDIES) not in sys.path:
        sys.path.append(str(STUDIES))
    return importlib.import_module(name)


def study(name, folder=STUDIES):
    return module("study").Study(folder / name)


def variants(name):
    return [variant for size in study(name).sizes for variant in study(name).variants(size)]


def apart(name):
    """Variants that have every setting: of a benchmark's tasks all with its first method, and the first with all."""
    for size in study(name).sizes:
        for group, found in study(name).groups(size).items():
            axes = study(name).plan["groups"][group]
            for variant in found:
                first = [variant[axis] == axes[axis][0] for axis in ("task", "method", "seed") if "task" in axes]
                if not first or (first[2] and any(first[:2])):
                    yield variant


TABLES = [(name, size) for name in NAMES for size in study(name).sizes if (STUDIES / name / f"{size}.md").exists()]


@pytest.fixture(autouse=True)
def assets(monkeypatch):
    """They need not be there."""
    monkeypatch.setenv("PPVIT_ASSETS", "assets")


def test_all_studies_are_tested():
    assert set(module("study").names()) == set(NAMES)


# --- settings


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_exists(name):
    for variant in apart(name):
        config = variant.local_config()
        assert config.finetune.method in TUNERS
        assert config.cipher.name in CIPHERS
        assert "$" not in config.dataset.path + config.model.checkpoint
        if "images" in variant.axes:
            adapted = variant["images"] == "plain" or variant["images"].endswith("_adapted")
            assert config.adapt.enabled == (adapted and variant.axes.get("method") != "convmixer")
            assert config.finetune.seed == variant.axes.get("seed", 100)
        assert load_cipher(config).block_size == config.cipher.block_size
        assert variant.settings()["finetune.method"] == config.finetune.method
    used = {(axis, value) for variant in variants(name) for axis, value in variant.axes.items()}
    own = {axis: values for axis, values in study(name).plan["settings"].items() if axis != "all"}
    assert {(axis, value) for axis, values in own.items() for value in values} <= used  # none is left over


def test_the_built_in_parameters_are_where_settings_start(monkeypatch, tmp_path):
    """Not the root's params.yaml, which its user changes."""
    monkeypatch.chdir(tmp_path)
    assert load(None, ["finetune.rank=3"]).finetune.rank == 3
    assert load(None) == load(ROOT / "params.yaml")
    with pytest.raises(UsageError, match="-S: unknown parameter 'finetune.rnak'; did you mean 'rank'"):
        load(None, ["finetune.rnak=3"])


@pytest.mark.parametrize("script", sorted(STUDIES.glob("*.sh")), ids=lambda path: path.name)
def test_options_of_shell_scripts_exist(script):
    options = re.findall(r"-S ([\w.]+)=", script.read_text())
    assert options
    known = {f"{section}.{name}" for section, values in load(None) for name, _ in values}
    assert set(options) <= known


def test_variants_of_the_study_of_ciphers_are_named_after_them():
    for variant in variants("ciphers"):
        assert variant.config().cipher.name == variant["cipher"].split("-")[0]
    assert set(study("ciphers").plan["convmixer"]) <= {variant["cipher"] for variant in variants("ciphers")}


def test_methods_of_loft_differ_in_what_they_are_named_after():
    configs = {
        (variant["model"], variant["method"], variant["labels"]): variant.config() for variant in variants("loft")
    }

    def settings(method):
        config = configs["vit", method, 100]
        return config.finetune.method, config.adversarial.scalars, config.adversarial.head_init

    assert settings("rft") == ("full", "fixed", "random")
    assert settings("rft_auto") == ("full", "auto", "random")
    assert settings("loft") == ("lora", "fixed", "random")
    assert settings("loft_roli") == ("lora", "fixed", "robust")
    for (_, method, _), config in configs.items():
        assert (config.finetune.adversarial == "none") == (method in ("natural", "slf"))
        assert config.robustness.epsilon == config.adversarial.epsilon
        if rank := re.fullmatch(r"loft_r(\d+)", method):
            assert config.finetune.rank == int(rank[1])
        if steps := re.fullmatch(r"loft_(\d)_steps?", method):
            assert config.adversarial.steps == int(steps[1])
    whole, part = (configs["resnet", "rft", labels].dataset.train_fraction for labels in (100, 10))
    assert part == pytest.approx(whole / 10)  # a share of labels is one of the images


def test_settings_of_keyed_defences():
    for variant in variants("keyed_defence"):
        config = variant.config()
        assert config.cipher.name == variant["cipher"].removesuffix("_unadapted")
        assert config.adapt.enabled != variant["cipher"].endswith("_unadapted")
        assert config.finetune.adversarial == {"natural": "none", "loft": "trades"}[variant["training"]]


def test_stages_of_dvc_are_the_studies():
    stages = yaml.safe_load((STUDIES / "dvc.yaml").read_text())["stages"]["run"]["foreach"]
    assert stages == {f"{n}-{size}": {"study": n, "size": size} for n in NAMES for size in study(n).sizes}


def test_the_root_does_not_see_the_studies():
    """Its `dvc status` would list every study that is out of date."""
    command = [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"]
    stages = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "finetune" in stages
    assert "studies" not in stages


# --- results and tables


@pytest.mark.parametrize("name", NAMES)
def test_every_result_belongs_to_a_variant(name):
    results = set((STUDIES / name / "results").glob("*/*"))
    assert results or "Not run yet" in (STUDIES / name / "README.md").read_text()
    assert results <= {variant.path for variant in variants(name)}


@pytest.mark.parametrize(("name", "size"), TABLES)
def test_tables_are_made_of_their_results(name, size):
    """And say so at their top where these are out of date, or some are missing."""
    files = module("table").render(study(name), size)
    assert files[f"{size}.md"].decode() == (STUDIES / name / f"{size}.md").read_text(encoding="utf-8")
    assert set(files) == {path.name for path in (STUDIES / name).glob(f"{size}[.-]*")}
    top = files[f"{size}.md"].decode().split("|")[0]
    outdated = [variant.outdated(result) for variant, result in study(name).results(size).items()]
    assert ("**Out of date:**" in top) == any(outdated)
    assert ("Not run" in top) == (len(outdated) < len(study(name).variants(size)))


@pytest.mark.parametrize("page", sorted(STUDIES.glob("[!R]*.md")), ids=lambda page: page.name)
def test_pages_of_single_scripts_say_what_they_are_made_with(page):
    top = page.read_text(encoding="utf-8").split("\n\n")[1]
    assert re.search(r"revisions? [0-9a-f]{7}", top)
    assert re.search(r"\d+ \w+ 20\d\d", top)  # date
    assert re.search(r"\d+\.\d+\.\d", top)  # versions
    assert "**Out of date:**" in top or "came out the same again" in top


def test_links_between_pages_lead_somewhere():
    for page in STUDIES.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.fixture
def copied(tmp_path):
    """The folder of studies with one of them."""
    shutil.copy(STUDIES / "shared.yaml", tmp_path)
    shutil.copytree(STUDIES / "lin2025", tmp_path / "lin2025")
    shutil.rmtree(tmp_path / "lin2025" / "results" / "large", ignore_errors=True)
    return tmp_path


def edited(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def record_as_current(copied):
    """Make old results say that they were made with today's method and settings."""
    for variant, result in study("lin2025", copied).results("tiny").items():
        settings = "; ".join(f"{name}={value}" for name, value in variant.settings().items())
        write_json(variant.path, {**result, "method_number": 1, "settings": settings, "data_id": ""})
    module("table").write(study("lin2025", copied), "tiny")


def outdated(copied):
    return {
        variant.name: why
        for variant, result in study("lin2025", copied).results("tiny").items()
        if (why := variant.outdated(result))
    }


def test_a_table_is_out_of_date_when_the_method_changes(copied, capsys):
    record_as_current(copied)
    module("check").main(copied)
    assert "lin2025 tiny: 0 of 45 out of date, 0 not run" in capsys.readouterr().out
    edited(copied / "lin2025" / "variants.yaml", "method_changes:\n", "method_changes:\n  2: heads start at zero\n")
    assert set(outdated(copied).values()) == {"made by method 1, now 2"}
    with pytest.raises(SystemExit, match="lin2025/tiny.md; run python studies/table.py"):
        module("check").main(copied)
    assert "lin2025 tiny: 45 of 45 out of date, 0 not run" in capsys.readouterr().out
    module("table").write(study("lin2025", copied), "tiny")
    module("check").main(copied)  # it says so now
    assert "45 of 45 results made by method 1, now 2" in (copied / "lin2025" / "tiny.md").read_text()


def test_only_what_a_changed_setting_concerns_is_out_of_date(copied):
    record_as_current(copied)
    edited(
        copied / "lin2025" / "variants.yaml",
        "finetune.rank=16], tiny: [finetune.learning_rate=0.003]",
        "finetune.rank=16], tiny: [finetune.learning_rate=0.004]",
    )
    names = [f"shuffle_adapted-melo_r16-{seed}" for seed in range(3)]
    assert outdated(copied) == dict.fromkeys(names, "made with finetune.learning_rate=0.003, now 0.004")


def test_a_parameter_that_did_not_exist_counts_as_its_default(copied):
    record_as_current(copied)
    path = copied / "lin2025" / "results" / "tiny" / "plain-full-0.json"
    edited(path, "finetune.label_smoothing=0.0; ", "")  # its default
    edited(path, "finetune.optimizer=adam; ", "")  # not its default
    assert outdated(copied) == {"plain-full-0": "made with finetune.optimizer=adamw, now adam"}


def test_a_table_names_what_was_not_run(copied):
    path = copied / "lin2025" / "results" / "tiny" / "plain-full-0.json"
    path.unlink()
    text = module("table").render(study("lin2025", copied), "tiny")["tiny.md"].decode()
    assert "Not run: `plain-full-0`." in text
    assert "| plain | `full` |" in text  # the mean of its other seeds


# --- running


@pytest.fixture
def toy(tmp_path):
    """A study of two seeds, on noise that brightness tells apart."""
    shutil.copy(STUDIES / "shared.yaml", tmp_path)
    write_raw(tmp_path / "data" / "tiny" / "raw", {"train": 24, "test": 9})
    (tmp_path / "toy").mkdir()
    plan = {
        "title": "Toy",
        "sizes": {"tiny": "Noise."},
        "columns": {},
        "figures": [],
        "method_changes": {1: "first"},
        "stages": ["encrypt", "adapt", "finetune", "evaluate"],
        "groups": {"all": {"size": ["tiny"], "images": ["block_adapted"], "method": ["melo"], "seed": [0, 1]}},
        "settings": {
            "all": ["dataset.train_fraction=1.0", "finetune.epochs=2"],
            "method": {"melo": {"tiny": ["finetune.method=melo"]}},
        },
    }
    (tmp_path / "toy" / "variants.yaml").write_text(yaml.safe_dump(plan))
    return tmp_path / "toy"


def test_a_variant_runs_end_to_end(toy):
    module("run").run_one(study("toy", toy.parent), "tiny", "block_adapted-melo-0")
    result = read_json(toy / "results" / "tiny" / "block_adapted-melo-0.json", "test")
    assert 0 <= result["accuracy_percent"] <= 100
    assert result["trainable_parameters"] > 0
    assert len(result["train_loss_by_epoch"]) == 2
    assert result["train_loss_by_epoch"][-1] == result["train_loss"]
    assert "finetune.seed=0; " in result["settings"]
    assert result["device"] == "cpu"
    assert not study("toy", toy.parent).variants("tiny")[0].outdated(result)
    table = (toy / "tiny.md").read_text()
    assert (
        f"revision {result['git_revision']}; versions {result['versions']}; device cpu; date {result['date']}" in table
    )
    assert "Not run: `block_adapted-melo-1`." in table
    assert "Out of date" not in table


@pytest.fixture
def measured(monkeypatch):
    """Names of the variants that would have run, and no table."""
    names = []

    def result(run):
        names.append(run.variant.name)
        settings = "; ".join(f"{name}={value}" for name, value in run.variant.settings().items())
        return {"method_number": 1, "settings": settings, "data_id": run.data_id()}

    monkeypatch.setattr(module("measure").Run, "result", result)
    monkeypatch.setattr(module("run"), "write", lambda *_: None)
    return names


def test_a_study_runs_what_is_missing_and_removes_what_is_left_over(toy, measured, capsys):
    results, run_all = toy / "results" / "tiny", module("run").run_all
    module("run").run_one(study("toy", toy.parent), "tiny", "block_adapted-melo-1")
    (results / "block-melo-0.json").write_text("{}")
    capsys.readouterr()
    run_all(study("toy", toy.parent), "tiny")  # goes on where it was interrupted
    assert measured == ["block_adapted-melo-1", "block_adapted-melo-0"]
    first, second = "block-melo-0.json removed: no variant has this name", "1 of 2: block_adapted-melo-0"
    told = capsys.readouterr().out.splitlines()
    assert [told[0], told[-1]] == [first, second]
    assert re.match(
        r"encrypted images of one kind take about [0-9.]+ MiB in .*/data/tiny, where [0-9,]+ MiB are", told[1]
    )
    assert {path.name for path in results.iterdir()} == {f"block_adapted-melo-{seed}.json" for seed in (0, 1)}
    run_all(study("toy", toy.parent), "tiny")
    assert len(measured) == 2  # nothing is missing
    edited(toy.parent / "data" / "tiny" / "raw" / "dataset.json", '"source": "test"', '"source": "other data"')
    module("measure")._sha256.cache_clear()
    run_all(study("toy", toy.parent), "tiny")
    assert len(measured) == 4


def test_a_trial_is_not_kept(toy, measured, capsys):
    module("run").run_one(study("toy", toy.parent), "tiny", "block_adapted-melo-0", ("finetune.epochs=1",))
    assert "method_number: 1" in capsys.readouterr().out
    assert not (toy / "results").exists()


def test_names_that_do_not_exist(toy):
    with pytest.raises(UsageError, match="no study 'lin2024'; there are aoft2025, augmentation"):
        study("lin2024")
    with pytest.raises(UsageError, match="toy has no size 'huge'; it has tiny"):
        study("toy", toy.parent).variants("huge")
    with pytest.raises(UsageError, match="no variant 'plain-melo-0'"):
        module("run").run_one(study("toy", toy.parent), "tiny", "plain-melo-0")


def test_assets_are_asked_for(monkeypatch):
    monkeypatch.delenv("PPVIT_ASSETS")
    with pytest.raises(UsageError, match="set the environment variable PPVIT_ASSETS"):
        study("lin2025").variants("large")[0].local_config()


# --- published figures


@pytest.mark.parametrize("name", PAPERS)
def test_published_figures_are_of_rows_that_are_run(name):
    published = study(name).about
    rows = {(variant["images"], variant["method"]) for variant in study(name).variants("full")}
    claimed = [(figure["images"], figure["method"], figure["column"]) for figure in published["figures"]]
    assert {row[:2] for row in claimed} <= rows
    assert {row[2] for row in claimed} == set(published["columns"])
    assert len(set(claimed)) == len(claimed)
    assert set(published["sizes"]) == set(study(name).sizes)


def test_published_figures_are_those_of_the_papers():
    def figures(name, column):
        found = study(name).about["figures"]
        return {(row["images"], row["method"]): row["value"] for row in found if row["column"] == column}

    table_one = figures("nagamori2023", "cifar10_percent")
    assert (table_one["plain", "full"], table_one["block", "full"]) == (99.00, 72.86)
    assert (table_one["block_adapted", "full"], table_one["shuffle_adapted", "full"]) == (98.98, 99.05)
    lin = figures("lin2025", "cifar10_percent")
    assert (lin["shuffle", "melo_r4"], lin["shuffle", "lora_patch_r4"]) == (90.05, 96.35)
    assert figures("aoft2025", "vtab_percent")["plain", "aoft_lora_scaled"] == 74.1


def test_published_figures_of_loft():
    """SA and AA on CIFAR-10 and CIFAR-100."""
    paper = study("loft").about
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
        "RFT of Table I": [84.46, 17.16, None, None],
    }
    assert paper["starts"]["ACL"] == [
        "78.22/39.17",
        "75.53/40.60",
        "81.25/49.60",
        "45.82/17.30",
        "43.49/19.07",
        "57.74/24.78",
    ]
    assert {len(values) for values in paper["starts"].values()} == {len(paper["protocols"])}


def test_starts_without_labels_are_where_variants_look_for_them():
    prepare = module("loft.prepare")
    models = {
        (variant["size"], variant["model"]): variant.config().model
        for variant in variants("loft")
        if "_" in variant["model"]
    }
    assert {size for size, _ in models} == {"tiny", "large", "full"}
    for (size, name), model in models.items():
        config = prepare.config_without_labels(size, name)
        assert config.pretrain.method == name.partition("_")[2]
        assert (config.model.name, config.model.pretrained) == (model.name, False)
        assert config.model.mean == model.mean == [0.5, 0.5, 0.5]  # so that the result is a plain network
        assert model.checkpoint == (prepare.FOLDER / f"{size}-{name}.safetensors").relative_to(ROOT).as_posix()
        assert config.dataset.image_size == 32


def test_parameter_counts_are_the_published_ones():
    counts = module("lin2025.counts")
    assert counts.count("full", classes=1000) == 86_567_656  # 82.557 * 2^20
    assert counts.count("melo", 4) == 12 * 2 * 2 * 768 * 4 + 7_690 == 155_146
    assert counts.count("lora_patch", 4) == 155_146 + 590_592 == 745_738
    committed = read_json(STUDIES / "lin2025" / "counts.json", "counts.py")
    assert [committed[name] for name in ("full_1000", "melo_r4", "lora_patch_r4")] == [86_567_656, 155_146, 745_738]


# --- what is special to a study


def test_angles_of_columns():
    figures = module("aoft2025.figures")
    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert figures.column_angles(matrix).tolist() == pytest.approx([45, 90, 45])
    counts = figures.histogram([matrix])
    assert sum(counts) == 3
    assert figures.near_right_percent(counts) == pytest.approx(100 / 3)
    # random columns of n entries spread by 1 / sqrt(n) around a right angle
    size = 400
    near = figures.near_right_percent(figures.histogram(figures.gaussian([torch.empty(size, 200)])))
    expected = math.erf(math.radians(5) * math.sqrt(size) / math.sqrt(2))
    assert near == pytest.approx(100 * expected, abs=1)


BOTH_MEANS = {  # arXiv 2410.22952, as printed: over 19 tasks, and on FGVC; the groups' of HTA as others print its row
    "hta_lora": (74.7, 76.9, 90.6),
    "melo": (72.3, None, 89.5),
}


@pytest.mark.parametrize("method", BOTH_MEANS)
def test_figures_of_tasks_reproduce_the_published_means(method):
    found = module("aoft2025.benchmarks").means(study("aoft2025").about["benchmarks"]["figures"][method])
    for ours, printed in zip(found.values(), BOTH_MEANS[method], strict=True):
        assert printed is None or round(ours, 1) == printed


def test_tasks_of_the_benchmarks_are_those_of_the_data_sets():
    from ppvit.datasets.fgvc import FGVC
    from ppvit.datasets.vtab import TASKS

    groups = study("aoft2025").about["benchmarks"]["groups"]
    assert {name: task.group for name, task in TASKS.items()} == {
        task: group for group in ("natural", "specialised", "structured") for task in groups[group]
    }
    assert groups["fgvc"] == list(FGVC)
    planned = {
        variant["task"] for variant in variants("aoft2025") if variant["size"] == "full" and "task" in variant.axes
    }
    assert planned == {task for tasks in groups.values() for task in tasks}
    for figures in study("aoft2025").about["benchmarks"]["figures"].values():
        assert {group: len(values) for group, values in figures.items()} == {g: len(t) for g, t in groups.items()}


def test_every_task_has_images_of_its_own(tmp_path):
    measure = module("measure")
    places = {
        variant["task"]: measure.Run(variant, tmp_path).places.raw
        for variant in study("aoft2025").groups("large")["standins"]
    }
    assert {task: path.relative_to(STUDIES).as_posix() for task, path in places.items()} == {
        task: f"data/large/{task}/raw" for task in ("natural", "specialised", "structured")
    }
    other = study("aoft2025").groups("large")["claims"][0]
    assert measure.Run(other, tmp_path).places.raw == STUDIES / "data" / "large" / "raw"


def test_means_of_ours_are_printed_once_all_tasks_are_run():
    benchmarks, tables, this = module("aoft2025.benchmarks"), module("aoft2025.tables"), study("aoft2025")
    about = this.about["benchmarks"]
    by_group = {"natural": 70.0, "specialised": 80.0, "structured": 60.0}  # 19 tasks: 67.9; groups: 70
    tasks = [variant for variant in this.groups("full")["vtab"] if variant["method"] == "melo"]
    group_of = {task: group for group, names in about["groups"].items() for task in names}
    results = {variant: {"accuracy_percent": by_group[group_of[variant["task"]]]} for variant in tasks}
    parts = tables.sections(this, "full", results)
    assert parts[-1].splitlines()[-1] == "| `melo` | 67.9 | 70.0 | – |"
    cifar = next(part for part in parts if part.startswith("| method | cifar100 "))
    assert cifar.splitlines()[-1].startswith("| `melo` | 70.0 ± 0.0 / 67.1 |")
    results.popitem()
    results = {variant: result for variant, result in results.items() if variant["task"] != "kitti"}
    assert benchmarks.own_means(about, benchmarks.scores_of(results)) == ""


def test_standins_stand_beside_means_of_groups_and_the_table_ends_with_its_sentence(monkeypatch):
    table, tables, this = module("table"), module("aoft2025.tables"), study("aoft2025")
    results = {
        variant: {"accuracy_percent": value}
        for variant in this.groups("large")["standins"]
        if variant["method"] == "hta_lora"
        for task, value in {"natural": 70.0, "specialised": 85.0, "structured": 40.0}.items()
        if variant["task"] == task
    }
    monkeypatch.setitem(this.about["closing"], "large", "Reproduced is nothing.\n")
    monkeypatch.setattr(type(this), "results", lambda *_: results)
    assert table.render(this, "large")["large.md"].endswith(b"\n\nReproduced is nothing.\n")
    parts = tables.sections(this, "large", results)
    row = next(part for part in parts if part.startswith("| method | natural ")).splitlines()[-1]
    # 576.7 / 7, 344.0 / 4 and 498.3 / 8
    assert row == "| `hta_lora` | 70.0 | 85.0 | 40.0 | 65.0 | 82.4 | 86.0 | 62.3 | 76.9 |"


def test_the_page_has_the_published_means():
    benchmarks, about = module("aoft2025.benchmarks"), study("aoft2025").about["benchmarks"]
    assert benchmarks.published_means(about) in (STUDIES / "aoft2025" / "README.md").read_text(encoding="utf-8")


def test_differences_are_told_apart_by_a_t_test():
    paper = module("paper")
    assert paper.told_apart([1.0, 1.1, 0.9])  # t = 17.3, and 4.30 is the limit for three values at 5 %
    assert not paper.told_apart([1.0, 3.0, -0.5])  # t = 1.15
    runs = [{"seed": seed, "accuracy_percent": value} for seed, value in enumerate((90.0, 91.0, 92.0))]
    assert paper.difference(runs, runs) == "0 in every run"
    assert paper.spread(runs) == "91.0 ± 1.0"


def test_rows_of_one_seed_have_no_deviation_and_are_compared_with_that_seed():
    paper = module("paper")
    runs = [{"seed": seed, "accuracy_percent": value} for seed, value in enumerate((90.0, 91.0, 92.0))]
    one = [{"seed": 1, "accuracy_percent": 81.0}]
    assert paper.spread(one) == "81.0"
    assert paper.difference(one, runs) == "-10.0"
    assert paper.difference(one, runs[:1]) == "–"


def test_what_no_attack_of_ours_fits_is_not_called_safe():
    """NeuraCrypt's encodings have been matched to images at 100 % (arXiv 2108.07256)."""
    text = (STUDIES / "ciphers" / "tiny.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    rows = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    attacks = lines[0][lines[0].index("weights") : lines[0].index("match")]
    assert {rows["neuracrypt"][attack] for attack in attacks} == {"not attacked"}
    assert rows["neuracrypt"]["match"] == "not attacked (published: 100)"
    assert rows["shuffle"]["jigsaw"] == "0"  # attacked, and nothing found
    assert rows["none"]["key bits"] == "0"


def test_cells_of_attacks_that_were_not_made():
    leak = module("ciphers.tables").leak
    old = {"cipher": "le", "pooled_ssim": 0.1, "pooled_key_recovered_percent": None, "pooled_strength_percent": 0.0}
    assert leak({**old, "ssim_of_ciphertext": 0.1}, "pooled") == "not attacked"
    assert leak({**old, "ssim_of_ciphertext": 0.2}, "pooled") == "0"
    assert leak({"cipher": "le", "pooled_strength_percent": None}, "pooled") == "not attacked"
    assert leak({"cipher": "le"}, "pooled") == "–"  # not run
    found = {"cipher": "neuracrypt", "matching_top1_percent": 3.0, "matching_ssim": 0.3, "ssim_of_ciphertext": 0.1}
    assert leak(found, "matching") == "3 (published: 100)"


def test_a_plot_shows_the_best_ciphertext_only_attack():
    best = module("ciphers.tables").ciphertext_leak_percent
    found = {"pooled": 12.0, "jigsaw": 40.0, "weights": 100.0, "chosen_plaintext": 100.0}
    assert best({f"{attack}_strength_percent": share for attack, share in found.items()}) == 40.0
    assert best({"weights_strength_percent": 100.0, "pooled_strength_percent": None}) is None


def shown(hits, images):
    """As many True as images withstood."""
    return np.arange(images) < hits


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
    found = np.array(module("loft.tables").difference_percent(shown(*first), shown(*second))) / 100
    assert found == pytest.approx(expected, abs=1e-4)


def test_only_what_is_told_apart_is_marked():
    def result(percent):
        return {"images": 50, "headline_accuracy_percent": percent}

    against = module("loft.tables").against
    assert against(result(80.0), result(40.0)).endswith("*")
    assert against(result(40.0), result(80.0)).startswith("-40 (")
    assert not against(result(44.0), result(40.0)).endswith("*")


def test_a_figure_that_fails_a_check_says_which():
    tables = module("loft.tables")
    checks = {"masking_vanishes": False, "masking_planted_found": True}
    result = {**checks, "curve": {"8.0": 70.0, "32.0": 12.0, "16.0": 50.0}}
    assert tables.failed_checks(result) == ["masking_vanishes"]
    line = tables.doubts(("vit", "rft", 10), result)
    assert "vit `rft`, 10 %" in line
    assert line.endswith("failed `masking_vanishes`; PGD-20 leaves 12 % at eps 32.")


def test_headline_is_the_strongest_attacker():
    results = study("keyed_defence").results("tiny")
    assert results
    for result in results.values():
        figures = [result.get(f"{name}_accuracy_percent", 100) for name in module("keyed_defence.tables").ATTACKERS]
        assert result["headline_accuracy_percent"] == min(figures)


# --- the sweep over backbones


@pytest.mark.parametrize(
    ("name", "way", "loads"),
    [("test_vit3", "tables", "loads"), ("test_convnext", "order", "stops"), ("mambaout_femto", "refused", "")],
)
def test_the_sweep_over_backbones_measures(name, way, loads):
    found = module("backbones").row(name, True)
    assert (found.name, found.way, found.timm) == (name, way, loads)
    assert (found.difference < 1e-9 < 1e-7 < found.matters) if loads else found.reason.startswith("its stem is")


def test_the_page_on_backbones_names_every_architecture_once():
    """Of the timm that is installed, if it is the one that the page was made with."""
    import timm

    text = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
    exact, _, rest = text.partition("## Every architecture that is refused")
    rows = re.findall(r"^\| (\w+) \| \w+ \| \d+ \| (tables|order) \|", exact, re.M)
    refused = [
        name for names in re.findall(r"^\*\*\w+\*\*: .*?\. ([\w, ]+)\.$", rest, re.M) for name in names.split(", ")
    ]
    others = re.findall(r"^(\w+): ", rest.partition("## Not run")[2], re.M)
    named = [*(name for name, _ in rows), *refused, *others]
    assert len(named) == len(set(named))
    if f"with timm {timm.__version__}" in text:
        assert set(named) == set(module("backbones").architectures())
    total = int(re.search(r"\| \*\*exact\*\* \| ([\d,]+) \|", text)[1].replace(",", ""))
    assert total == len(rows) >= 350


def test_the_page_on_backbones_is_of_what_was_found():
    page = module("backbones_page")
    rows = [
        page.Row("a", "Plain", True, "tables", 16, 1e-15, 0.1, "loads", how="96 px"),
        page.Row("b", "Windowed", False, "order", 4, 2e-15, 0.1, "stops", how="32 px"),
        page.Row("c", "Mixed", True, "refused", reason="its patches overlap"),
        page.Row("d", "", True, "not run", reason="2.0 billion parameters"),
    ]
    text = page.page(rows)
    assert "2 (1) of timm's 4 (3) architectures" in text
    assert "| Windowed | order | stops | 4 | 1 | 0 | 2e-15 |" in text
    assert "**Mixed**: its patches overlap. c." in text
    assert "d: 2.0 billion parameters." in text


def test_pairs_of_digits(tmp_path, monkeypatch):
    """Classes are what the pictures show, and no test picture is made of a digit of the training pictures."""
    pairs = module("pairs")
    monkeypatch.setattr(pairs, "COUNTS", {"train": 2, "test": 1})
    pairs.make(tmp_path / "pairs")
    assert len(list((tmp_path / "pairs").glob("*/*/*.png"))) == 300
    images, labels = load_digits(return_X_y=True)
    known = np.rint(images.reshape(-1, 8, 8) * (255 / 16))
    seen: dict[str, set[int]] = {}
    for path in (tmp_path / "pairs").glob("*/[37]5/*.png"):
        picture = np.asarray(Image.open(path))[8:24, :, 0]
        for digit, half in zip(path.parent.name, (picture[:, :16], picture[:, 16:]), strict=True):
            small = np.asarray(Image.fromarray(half).resize((8, 8), Image.Resampling.BOX), float)
            nearest = int(np.abs(known - small).sum((1, 2)).argmin())
            assert labels[nearest] == int(digit)
            seen.setdefault(path.parent.parent.name, set()).add(nearest)
    assert not seen["train"] & seen["test"]
