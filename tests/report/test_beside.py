"""Other runs in the report: the table of `ppvit compare`, accuracy against leak, and why there is none."""

import pytest

from ppvit.core.errors import PpvitError
from ppvit.places import Places
from ppvit.report import beside
from ppvit.report.comparison import compare
from ppvit.report.runs import Run

FIGURES = {"evaluate.accuracy_percent": 90.0, "audit.key_percent_of_strongest": 100.0, "audit.ssim_of_strongest": 1.0}


def runs():
    other = FIGURES | {"evaluate.accuracy_percent": 80.0, "audit.ssim_of_strongest": 0.25}
    return [
        Run("one", "workspace", {"cipher.name": "block"}, FIGURES),
        Run("<b>two", "experiment", {"cipher.name": "np"}, other),
        Run("three", "experiment", {"cipher.name": "le"}, {}, "failed"),
    ]


def test_runs_are_a_table_and_points_of_accuracy_against_leak():
    shown = beside.of(compare(runs()))
    assert [row[0] for row in shown.rows] == ["run", "one", "<b>two", "three"]
    assert "cipher.name" in shown.rows[0]
    assert shown.plot.rows == [("one", "1.00", "90", "100.0"), ("<b>two", "0.25", "80", "100.0")]
    assert shown.plot.spec["data"]["values"][1] == {"run": "<b>two", "ssim": 0.25, "accuracy": 80.0, "key": 100.0}
    assert beside.of(compare(runs()[:1])).plot is None


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_cannot_be_compared_is_no_reason_to_lose_the_report(project, monkeypatch):
    def refused(names):
        raise PpvitError("HEAD cannot be read")

    places = Places(**{name: project / name for name in Places.__dataclass_fields__})
    monkeypatch.setattr(beside, "gather", refused)
    assert beside.beside(places) == beside.Beside(missing="HEAD cannot be read")
    monkeypatch.setattr(beside, "gather", lambda names: runs()[:1])
    assert "dvc exp run" in beside.beside(places).missing
    monkeypatch.setattr(beside, "gather", lambda names: runs())
    assert len(beside.beside(places).rows) == 4
    monkeypatch.chdir("/")
    assert "not those of a project" in beside.beside(places).missing
