"""Every benchmark runs: on its smallest input and once, all in this process, so that libraries are loaded once."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import time

import pytest
import timm
import torch
from imports import ROOT

FOLDER = ROOT / "benchmarks"
SHARED = {"inputs", "lin_rows", "peaks", "steps", "timing"}  # what they import
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Benchmarks choose processors, threads and environment for a process of their own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    environment, threads = dict(os.environ), torch.get_num_threads()
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    torch.set_num_threads(threads)
    if processors:
        os.sched_setaffinity(0, processors)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.long
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


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_share_of_peak_counts_what_the_method_computes():
    """By hand: a linear layer of a x b takes 2ab of each token, attention 4 T D; backward twice that, where needed."""
    from peaks import flops_per_image, peak_flops

    tokens, width, depth, classes = 17, 32, 2, 10
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": depth, "num_heads": 2}

    def network() -> torch.nn.Module:
        return timm.create_model("vit_tiny_patch16_224", num_classes=classes, **arguments)

    blocks = depth * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
    patches, head = 2 * 16 * width * 3 * 8**2, 2 * width * classes
    assert flops_per_image(network(), 32) == pytest.approx(3 * blocks + 2 * patches + 3 * head, rel=0.02)
    frozen = network().requires_grad_(False)
    frozen.get_classifier().requires_grad_(True)
    assert flops_per_image(frozen, 32) == pytest.approx(blocks + patches + 2 * head, rel=0.01)
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989.4e12
    assert [peak_flops(name) for name in ("NVIDIA A100-SXM4-40GB", "NVIDIA L4", "Tesla V100")] == [312e12, 121e12, None]


@pytest.mark.parametrize("method", ["full", "lora", "melo"])
def test_the_bare_loop_trains_as_many_parameters(method):
    from steps import with_stock_adapters

    from ppvit.config import Finetune
    from ppvit.tuners import make_tuner

    networks = [timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2) for _ in range(2)]
    tuned = with_stock_adapters(networks[0], method), make_tuner(Finetune(method=method)).attach(networks[1])
    counts = [sum(each.numel() for each in model.parameters() if each.requires_grad) for model in tuned]
    # melo has queries and values in two adapters, the loop all three in one
    assert counts[0] == counts[1] if method != "melo" else 0 < counts[0] < counts[1]


def test_a_part_begins_only_while_there_is_time_and_says_what_it_left_out(tmp_path):
    from gpu import Report, wanted
    from lin_rows import SETS, plan
    from peaks import Budget
    from study import Study

    clock = Clock()
    budget, report = Budget(100.0, clock), Report(tmp_path / "out", {"device": "cpu"})
    assert wanted(report, budget, "speed", ("ViT-Ti/16", {}, 16, "lora"))
    clock.now = 41.0
    assert not wanted(report, budget, "speed", ("ViT-Ti/16", {}, 16, "lora"))
    assert wanted(report, budget, "readers", ("readers",))
    kept = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert kept["left_out"] == ["ViT-Ti/16 lora"]
    assert set(SETS) <= set(Study(ROOT / "studies" / "lin2025").sizes)
    # nine rows of five epochs at 1,000 images/s, 0.6 of 450 s: 6,000 images each
    assert plan("large", 450.0, 1000.0, 5)[0] == f"dataset.train_fraction={6000 / 50_000:.6f}"
    assert plan("large", 1e9, 1000.0, 5)[0] == "dataset.train_fraction=1.000000"
    assert plan("large", 1.0, 1.0, 5)[0] == f"dataset.train_fraction={500 / 50_000:.6f}"


def test_a_script_that_runs_out_of_time_is_stopped_and_goes_on_to_its_tables():
    from gpu import TimeUp, stopped_after

    with pytest.raises(TimeUp), stopped_after(0.01):
        time.sleep(20)
    with stopped_after(0.01), contextlib.suppress(TimeUp):
        time.sleep(20)
    time.sleep(0.05)  # nothing comes afterwards


def test_no_gpu_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^error: torch sees no GPU; use --device cpu"):
        runpy.run_path(str(FOLDER / "gpu.py"), run_name="__main__")
