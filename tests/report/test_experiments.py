"""Experiments of real DVC, commits, tags and folders side by side, in a repository with a tiny pipeline."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ppvit.core.errors import PpvitError, UsageError
from ppvit.report import experiments
from ppvit.report.comparison import compare
from ppvit.report.experiments import gather

# stages that take no time: what they read, and figures that follow from it
STAGE = """
import hashlib, json, pathlib, sys
settings = {}
for line in pathlib.Path("params.yaml").read_text().splitlines():
    name, _, value = line.strip().partition(":")
    if value:
        value = value.strip(' "')
        settings[section][name] = int(value) if value.isdecimal() else value
    else:
        section = name
        settings[section] = {}
rank, method = settings["finetune"]["rank"], settings["finetune"]["method"]
if sys.argv[1] == "settings":
    if method == "linear":
        del settings["finetune"]["rank"]
    pathlib.Path("settings.json").write_text(json.dumps({"finetune": settings}))
    sys.exit()
if rank == 13:
    sys.exit("this rank brings bad luck")
values = {"evaluate": {"accuracy_percent": 90.0 + rank, "images": 100},
          "audit": {"key_percent_of_strongest": 10.0 * rank, "ssim_of_strongest": rank / 10, "verdict": "So."}}
compared = {"evaluate": ["accuracy_percent"], "audit": ["key_percent_of_strongest", "ssim_of_strongest"]}
for stage, figures in values.items():
    results = pathlib.Path("results")
    for folder in (results / "metrics", results / "times" / "kept"):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures)
    (results / f"{stage}.json").write_text(text)
    few = {stage: {name: figures[name] for name in compared[stage]}}
    (results / "metrics" / f"{stage}.json").write_text(json.dumps(few))
    md5 = hashlib.md5(text.encode()).hexdigest()
    times = {"wall_seconds": rank * 1.5, "peak_memory_bytes": 1, "device": "cpu", "git_revision": "x", "versions": "y"}
    times["result_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (results / "times" / "kept" / f"{md5}.json").write_text(json.dumps({stage: times}))
"""
PIPELINE = """
stages:
  settings:
    cmd: python3 -S stage.py settings
    params: [params.yaml: ]
    outs: [settings.json: {cache: false, persist: true}]
  measure:
    cmd: python3 -S stage.py measure
    params: [settings.json: ]
    outs: [results/evaluate.json, results/audit.json]
    metrics: [results/metrics/evaluate.json, results/metrics/audit.json]
"""
PARAMS = 'finetune:\n  method: "lora"\n  rank: 2\ncipher:\n  name: "block"\n'


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def dvc(*arguments: str, code: int = 0) -> None:
    from dvc.cli import main

    logging.disable(logging.CRITICAL)  # DVC sets its own handlers up anew in every call
    try:
        assert main([*arguments]) == code, arguments
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One run that is committed and tagged; then two experiments, a failed one and a later commit."""
    root = tmp_path_factory.mktemp("project")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text(PARAMS)
    (root / ".gitignore").write_text("/results\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{name}_NAME", "test")
            patch.setenv(f"GIT_{name}_EMAIL", "test@example.com")
        git(root, "init", "-q", "-b", "main")
        dvc("init", "-q")
        (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "code")
        dvc("repro", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "run")
        git(root, "tag", "first")
        dvc("exp", "run", "-q", "-n", "wide", "-S", "finetune.rank=8")
        dvc("exp", "run", "-q", "-n", "head-only", "-S", "finetune.method=linear", "-S", "finetune.rank=3")
        dvc("exp", "run", "-q", "-n", "unlucky", "-S", "finetune.method=lora", "-S", "finetune.rank=13", code=255)
        git(root, "checkout", "-q", ".")
        dvc("checkout", "-q")
        git(root, "commit", "-q", "--allow-empty", "-m", "later")
    return root


@pytest.fixture
def here(project, monkeypatch) -> Path:
    monkeypatch.chdir(project)
    return project


def by_name(runs) -> dict:
    return {run.name: run for run in runs}


def test_all_experiments_are_found_whatever_commit_they_started_from(here):
    runs = by_name(gather([]))
    assert {"workspace", "main", "first", "wide", "head-only"} == set(runs)
    wide = runs["wide"]
    assert (wide.kind, wide.state) == ("experiment", "")
    assert wide.parameters == {"finetune.method": "lora", "finetune.rank": 8, "cipher.name": "block"}
    assert wide.figures == {
        "evaluate.accuracy_percent": 98.0,
        "audit.key_percent_of_strongest": 80.0,
        "audit.ssim_of_strongest": 0.8,
        "seconds.evaluate": 12.0,
        "seconds.audit": 12.0,
    }
    assert runs["workspace"].figures["evaluate.accuracy_percent"] == 92.0


def test_parameters_that_differ_are_those_that_stages_read(here):
    comparison = compare(gather(["first", "wide", "head-only"]))
    assert comparison.parameters == ("finetune.method", "finetune.rank")
    rows = comparison.rows()
    assert rows[0][:3] == ("run", "finetune.method", "finetune.rank")
    assert [row[:3] for row in rows[1:]] == [("first", "lora", "2"), ("wide", "lora", "8"), ("head-only", "linear", "")]


def test_commits_tags_branches_and_folders_stand_side_by_side(here, tmp_path):
    shutil.copytree(here / "results", tmp_path / "kept")
    runs = gather(["first", "main", "HEAD~2", str(tmp_path / "kept"), "workspace"])
    assert [run.kind for run in runs] == ["commit", "commit", "commit", "folder", "workspace"]
    assert runs[2].figures == {}  # before anything ran
    assert [run.figures.get("evaluate.accuracy_percent") for run in (*runs[:2], *runs[3:])] == [92.0] * 4


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("widr", "'widr' is no folder, experiment, commit, tag or branch; did you mean 'wide'?"),
        ("0123456789", "'0123456789' is no folder, experiment, commit, tag or branch"),
        ("stage.py", "'stage.py' is no folder"),
        (".dvc", "holds no result such as evaluate.json"),
    ],
)
def test_what_there_is_not_is_told_in_one_line(here, name, told):
    with pytest.raises(UsageError) as error:
        gather(["first", name])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_figures_that_the_cache_has_lost_are_said(here):
    (md5,) = [
        line.split()[-1]
        for line in (here / "dvc.lock").read_text().splitlines()
        if line.strip().startswith("md5") and line.split()[-1] in cached(here, "accuracy_percent", "evaluate")
    ]
    cached_file = here / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    shutil.move(cached_file, here / "away")
    shutil.rmtree(here / ".dvc" / "tmp" / "exps" / "cache", ignore_errors=True)  # DVC's own memory of earlier listings
    try:
        (run,) = gather(["first"])
    finally:
        shutil.move(here / "away", cached_file)
    assert run.remarks == ("first has no figures of evaluate in DVC's cache; run dvc pull, or that stage",)
    assert run.figures["audit.ssim_of_strongest"] == 0.2


@pytest.mark.parametrize("text", ["{", "", "[1]", '{"evaluate": [1]}', '{"evaluate": {"accuracy_percent": 1e999}}'])
def test_a_commit_with_damaged_figures_does_not_hide_the_others(here, monkeypatch, text):
    (first,) = {run.name: run for run in gather(["first"])}.values()
    (md5,) = {
        line.split()[-1]
        for line in (here / "dvc.lock").read_text().splitlines()
        if line.strip().startswith("md5") and line.split()[-1] in cached(here, "accuracy_percent", '"evaluate": {')
    }
    file = here / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept = file.read_text()
    file.chmod(0o644)
    file.write_text(text)
    shutil.rmtree(here / ".dvc" / "tmp" / "exps" / "cache", ignore_errors=True)
    try:
        damaged, other = gather(["first", "wide"])
    finally:
        file.write_text(kept)
    assert other.figures["evaluate.accuracy_percent"] == 98.0
    assert damaged.figures == {
        name: value for name, value in first.figures.items() if name != "evaluate.accuracy_percent"
    }
    (remark,) = damaged.remarks
    assert "first, results/metrics/evaluate.json" in remark
    assert remark.endswith("make it again: dvc repro --force evaluate in a checkout of first")


def test_damaged_times_hide_no_run(here):
    for file in (here / "results/times/kept").iterdir():
        file.rename(file.with_suffix(".whole"))
        file.write_text("{")
    try:
        (run,) = gather(["wide"])
    finally:
        for file in (here / "results/times/kept").glob("*.whole"):
            file.rename(file.with_suffix(".json"))
    assert run.figures["evaluate.accuracy_percent"] == 98.0
    assert not any(name.startswith("seconds.") for name in run.figures)


def cached(root: Path, *words: str) -> set[str]:
    """MD5 of what DVC's cache holds and these words stand in."""
    files = (path for path in (root / ".dvc/cache/files/md5").glob("*/*") if path.is_file())
    return {path.parent.name + path.name for path in files if all(word in path.read_text() for word in words)}


def test_outside_of_a_project_folders_can_still_be_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="in no DVC project; name folders"):
        gather([])
    for name, accuracy in (("a", 50.0), ("b", 60.0)):
        (tmp_path / "grid" / name).mkdir(parents=True)
        (tmp_path / "grid" / name / "evaluate.json").write_text(json.dumps({"accuracy_percent": accuracy}))
    assert [run.figures["evaluate.accuracy_percent"] for run in gather(["grid"])] == [50.0, 60.0]
    (tmp_path / "grid" / "a" / "evaluate.json").write_text(json.dumps({"accuracy_percent": 101.0}))
    damaged, whole = gather(["grid"])
    assert damaged.remarks[0].startswith("grid/a/evaluate.json: 'accuracy_percent'")
    assert whole.figures["evaluate.accuracy_percent"] == 60.0
    assert gather(["grid/a", "grid/b"])[1] == whole
    with pytest.raises(PpvitError, match="grid/a/evaluate.json: 'accuracy_percent'"):
        gather(["grid/a"])
    with pytest.raises(UsageError, match="'nowhere' is no folder|in no DVC project"):
        gather(["nowhere"])


def test_an_experiment_that_failed_has_what_was_asked_for_and_no_figures_of_its_commit():
    """As DVC's queue leaves it: params.yaml is its own, results and settings.json are those it started from."""
    metrics = {"results/metrics/evaluate.json": {"data": {"evaluate": {"accuracy_percent": 92.0}}}}
    params = {
        "params.yaml": {"data": {"finetune": {"method": "lora", "rank": 13, "unread": 1}}},
        "settings.json": {"data": {"finetune": {"finetune": {"method": "lora", "rank": 2}}}},
    }
    data = SimpleNamespace(params=params, metrics=metrics, outs={})
    state = SimpleNamespace(rev="0123456789", data=data, error=None)
    run = experiments._run(None, state, "bad", "experiment", "failed")
    assert (run.state, run.figures) == ("failed", {})
    assert run.parameters == {"finetune.method": "lora", "finetune.rank": 13}
