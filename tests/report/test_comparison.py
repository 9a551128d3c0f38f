"""The table of runs: what differs, what comes first, what no other run beats; as rows, CSV, JSON and a page."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppvit.core import reading
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.figures import COMPARED
from ppvit.report.comparison import FIGURES, compare
from ppvit.report.experiments import gather
from ppvit.report.runs import Run, runs_of_folder


def run(name: str, accuracy: float | None = None, key: float | None = None, ssim: float | None = None, **more) -> Run:
    figures = {
        "evaluate.accuracy_percent": accuracy,
        "audit.key_percent_of_strongest": key,
        "audit.ssim_of_strongest": ssim,
    }
    parameters = {f"finetune.{parameter}": value for parameter, value in more.pop("read", {}).items()}
    return Run(name, "experiment", parameters, {name: of for name, of in figures.items() if of is not None}, **more)


RUNS = [
    run("plain", 99.0, 100.0, 1.0, read={"method": "lora", "rank": 16, "epochs": 3}),
    run("weak", 95.0, 100.0, 1.0, read={"method": "lora", "rank": 2, "epochs": 3}),
    run("apart", 90.0, 0.0, 0.1, read={"method": "linear", "epochs": 3}),
    run("folder", 97.0),  # of which neither parameters nor a leak are known
    run("broken", read={"method": "lora", "rank": 9, "epochs": 3}, state="failed"),
]


def names(comparison) -> list[str]:
    return [row[0] for row in comparison.rows()[1:]]


def test_dvc_shows_at_most_25_figures():
    """In a run on images of one class each, with the seconds of the stages that write a result."""
    stages = COMPARED.keys() - {"pretrain"}
    several = {"val_auroc", "plain_auroc", "wrong_key_auroc", "auroc"}  # of other images, but evaluate has it always
    figures = [name for stage in stages for name in COMPARED[stage] if name not in several or stage == "evaluate"]
    assert len(figures) + len(stages) <= 25
    assert {f"{stage}.{name}" for stage in stages for name in COMPARED[stage]} <= {each.name for each in FIGURES}


def test_what_all_runs_share_is_left_out_and_what_is_not_read_stays_empty():
    comparison = compare(RUNS)
    assert comparison.parameters == ("finetune.method", "finetune.rank")
    rows = comparison.rows()
    assert rows[0][:4] == ("run", "state", "finetune.method", "finetune.rank")
    assert [row[1:4] for row in rows[1:]] == [
        ("", "lora", "16"),
        ("", "lora", "2"),
        ("", "linear", ""),
        ("", "", ""),
        ("failed", "lora", "9"),
    ]
    assert compare(RUNS[:1]).parameters == ()


def test_what_a_run_had_no_stage_for_is_no_difference():
    """One of all stages, and one of training alone."""
    whole = {"dataset.name": "digits", "cipher.name": "block", "finetune.method": "lora", "finetune.rank": 8}
    runs = [
        Run(name, "folder", parameters, {})
        for name, parameters in {
            "whole": whole, "trained": {"finetune.method": "linear"}, "unknown": {},
            "other": {**whole, "cipher.name": "etc"},
        }.items()
    ]  # fmt: skip
    assert compare(runs[:3]).parameters == ("finetune.method", "finetune.rank")
    assert compare(runs).parameters == ("cipher.name", "finetune.method", "finetune.rank")


def test_no_other_run_is_as_accurate_and_leaks_as_little():
    assert dict(zip([each.name for each in RUNS], compare(RUNS).unbeaten, strict=True)) == {
        "plain": True,  # the most accurate
        "weak": False,  # leaks as much as plain
        "apart": True,  # leaks least
        "folder": False,  # unknown
        "broken": False,
    }
    assert compare([RUNS[0], RUNS[0]]).unbeaten == (True, True)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("accuracy", ["plain", "folder", "weak", "apart", "broken"]),
        ("evaluate.accuracy_percent", ["plain", "folder", "weak", "apart", "broken"]),
        ("key", ["apart", "plain", "weak", "folder", "broken"]),  # less is better, and equal ones stay in order
        ("SSIM", ["apart", "plain", "weak", "folder", "broken"]),
        ("rank", ["weak", "broken", "plain", "apart", "folder"]),  # 2, 9, 16: as numbers
        ("finetune.method", ["apart", "plain", "weak", "broken", "folder"]),
    ],
)
def test_the_best_comes_first_and_what_is_unknown_last(sort, expected):
    assert names(compare(RUNS, sort)) == expected


def test_reversed_the_unknown_is_still_last():
    assert names(compare(RUNS, "accuracy", reverse=True)) == ["apart", "weak", "folder", "plain", "broken"]


@pytest.mark.parametrize(
    ("sort", "told"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("epochs", "there are evaluate.accuracy_percent"),  # the same in all runs, so no column
        ("finetune", "could be finetune.method, finetune.rank"),
        ("\x1b[2J", r"--sort \\x1b\[2J: there are"),
    ],
)
def test_a_column_that_there_is_not_is_told_in_one_line(sort, told):
    with pytest.raises(UsageError, match=told):
        compare(RUNS, sort)


def test_csv_has_all_digits_under_the_names_of_files():
    exact = 100 / 3
    rows = list(csv.DictReader(io.StringIO(compare([run("a, b", exact, 5.0, 0.5), *RUNS]).as_csv())))
    assert rows[0]["run"] == "a, b"
    assert float(rows[0]["evaluate.accuracy_percent"]) == exact
    assert [row["finetune.rank"] for row in rows] == ["", "16", "2", "", "", "9"]
    assert [row["unbeaten"] for row in rows] == ["false", "true", "false", "true", "false", "false"]


def test_json_has_all_parameters():
    read = json.loads(json.dumps(compare(RUNS).document()))
    assert read["differ"] == ["finetune.method", "finetune.rank"]
    assert read["runs"][0]["parameters"]["finetune.epochs"] == 3
    assert read["runs"][4]["state"] == "failed"


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_the_page_has_the_table_and_loads_nothing():
    evil = run("<script>alert(1)</script>", 50.0, 1.0, 0.2, remarks=("<b>bold\x1b[2J</b>",))
    page = compare([*RUNS, evil]).as_page()
    assert page.count("<script") == 1
    assert "<b>" not in page
    assert "\x1b" not in page
    cells = _Cells()
    cells.feed(page)
    assert cells.loads == []
    assert [row[1] for row in cells.rows[1:7]] == [each.name for each in (*RUNS, evil)]
    assert cells.rows[1][5:8] == ["99.00", "100.0", "1.00"]
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert len(re.findall(r"<use [^>]*href=\"#m", svg)) >= 4  # a dot for each run whose leak is known


def test_without_a_leak_there_is_no_drawing():
    assert "<svg" not in compare([RUNS[3]]).as_page()


def test_the_verb_writes_what_was_asked_for(tmp_path, monkeypatch):
    from ppvit.cli.command import app

    monkeypatch.chdir(tmp_path)
    for name, accuracy in (("a", 50.0), ("b", 60.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluate.json").write_text(json.dumps({"accuracy_percent": accuracy}))

    def printed(*options: str) -> str:
        done = CliRunner().invoke(app, ["compare", "a", "b", *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert [line.split() for line in printed("--sort", "accuracy").splitlines()[1:3]] == [
        ["b", "60.00"],
        ["a", "50.00"],
    ]
    assert printed("--format", "csv").splitlines()[1].startswith("a,folder,")
    assert json.loads(printed("--json"))["runs"][1]["name"] == "b"
    assert printed("--format", "html").strip() == "results/compare.html"
    assert "<table class=" in (tmp_path / "results/compare.html").read_text()
    printed("--format", "csv", "--out", "runs.csv")
    assert (tmp_path / "runs.csv").read_text() == printed("--format", "csv")


def test_a_folder_that_was_copied_has_its_parameters_and_seconds(tmp_path):
    from ppvit.core.results import Stopwatch, write_parameters, write_result

    place = tmp_path / "copied"
    write_result(place / "evaluate.json", {"accuracy_percent": 71.0, "images": 7}, Stopwatch())
    write_parameters(place / "evaluate.json", {"evaluate": {"batch_size": 7}})
    (found,) = runs_of_folder(place)
    assert found.parameters == {"evaluate.batch_size": 7}
    assert found.figures.keys() == {"evaluate.accuracy_percent", "seconds.evaluate"}
    project = place.rename(tmp_path / "results")
    later = {"evaluate": {"evaluate": {"batch_size": 8, "added": 1}}, "he": {"he": {"ring": 2}}}
    (tmp_path / "settings.json").write_text(json.dumps(later))  # params.yaml was changed since
    (found,) = runs_of_folder(tmp_path)
    assert found.parameters == {"evaluate.batch_size": 7, "he.ring": 2}
    place = project
    (place / "times" / "parameters" / "evaluate.json").write_text("{")
    (found,) = runs_of_folder(place)
    assert found.figures["evaluate.accuracy_percent"] == 71.0
    (remark,) = found.remarks
    assert "parameters/evaluate.json is not valid JSON" in remark


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ('{"accuracy_percent": 1e999}', "'accuracy_percent': input should be a finite number"),
        ('{"accuracy_percent": 101.0}', "'accuracy_percent': input should be less than or equal to 100"),
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("\x00\xff", "is not valid JSON"),
        ('[{"accuracy_percent": 50.0}]', "there are no names and values in it"),
        (PermissionError(13, "Permission denied", "cmp/b/evaluate.json"), "cmp/b/evaluate.json: Permission denied"),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(tmp_path, monkeypatch, damage, told):
    from ppvit.cli.command import app

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / "cmp" / name).mkdir(parents=True)
        (tmp_path / "cmp" / name / "evaluate.json").write_text('{"accuracy_percent": 50.0}')
    (tmp_path / "cmp/b/audit.json").write_text('{"ssim_of_strongest": 0.5}')
    if isinstance(damage, str):
        (tmp_path / "cmp/b/evaluate.json").write_bytes(damage.encode("latin-1"))
    else:
        refuse(monkeypatch, "b/evaluate.json", damage)
    a, b, c = runs_of_folder(tmp_path / "cmp")
    assert a.figures == c.figures == {"evaluate.accuracy_percent": 50.0}
    assert b.figures == {"audit.ssim_of_strongest": 0.5}  # what can be read of it
    assert told in b.remarks[0]
    for options, shows in (((), "cmp/a"), (("--json",), '"cmp/a"'), (("--format", "csv"), "cmp/a,folder")):
        done = CliRunner().invoke(app, ["compare", "cmp", *options])
        assert done.exit_code == 0
        assert shows in done.stdout
        assert told in done.stderr
    assert told in json.loads(CliRunner().invoke(app, ["compare", "cmp", "--json"]).stdout)["runs"][1]["remarks"][0]
    assert CliRunner().invoke(app, ["compare", "cmp", "--format", "html"]).exit_code == 0
    assert told in html.unescape((tmp_path / "results/compare.html").read_text())
    if isinstance(damage, str):  # of a folder that is none of this project's
        assert b.remarks[0].endswith("dvc repro --force evaluate in the project that it is of, or copy it again")


def refuse(monkeypatch, ending: str, error: OSError) -> None:
    """Have a file refused to us, as modes cannot where tests run as root."""
    opened = reading.open_regular

    def open_regular(path):
        if str(path).endswith(ending):
            raise error
        return opened(path)

    monkeypatch.setattr(reading, "open_regular", open_regular)


def test_where_all_are_damaged_it_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "cmp" / name).mkdir(parents=True)
        (tmp_path / "cmp" / name / "evaluate.json").write_text("[]")
    with pytest.raises(PpvitError, match=r"^cmp/a/evaluate\.json: .*; the other runs cannot be read either$"):
        gather(["cmp"])
    (tmp_path / "results").mkdir()
    (tmp_path / "results/evaluate.json").write_text("[]")
    with pytest.raises(PpvitError, match="make it again: dvc repro --force evaluate$"):  # it is this project's
        gather(["results"])
    assert gather(["workspace", str(saved(tmp_path))])[0].remarks


def saved(root):
    (root / "saved").mkdir()
    (root / "saved/evaluate.json").write_text('{"accuracy_percent": 50.0}')
    return root / "saved"


def test_a_folder_that_cannot_be_entered_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    saved(tmp_path)
    is_file, access = Path.is_file, os.access

    def refused(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    locked, other = runs_of_folder(tmp_path)
    assert locked.remarks == (f"{tmp_path / 'locked'} cannot be read; check its permissions",)
    assert other.figures == {"evaluate.accuracy_percent": 50.0}
