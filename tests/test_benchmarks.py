"""Every benchmark runs: on its smallest input and once, all in this process, so that libraries are loaded once."""

from __future__ import annotations

import os
import runpy
import sys

import pytest
import torch
from imports import ROOT

FOLDER = ROOT / "benchmarks"
SHARED = {"inputs", "timing"}  # what they import
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Benchmarks choose processors, threads and environment for a process of their own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    environment, threads = dict(os.environ), torch.get_num_threads()
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    torch.set_num_threads(threads)
    if processors:
        os.sched_setaffinity(0, processors)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_runs(name, monkeypatch, capsys):
    if name == "he":
        pytest.importorskip("tenseal", reason="needs the extra 'he'")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--smoke"])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert "revision" in capsys.readouterr().out


def test_table_names_every_benchmark():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"python benchmarks/{name}.py" not in table] == []
