"""What every result file records about its own run."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from ppvit.core.reading import sha256_of
from ppvit.core.results import (
    Stopwatch,
    peak_memory_bytes,
    read_parameters,
    read_times,
    seconds_of,
    write_parameters,
    write_result,
)


def test_peak_memory_is_that_of_this_process_alone():
    held = np.ones(2**28, np.uint8)  # 256 MiB that are resident here
    here = peak_memory_bytes()
    code = "from ppvit.core.results import peak_memory_bytes; print(peak_memory_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert here > held.nbytes
    assert 2**22 < child < held.nbytes  # an interpreter needs some megabytes, and none of its parent's


VALUES = {
    "accuracy_percent": 97.5,
    "train_seconds": 12.0,
    "images_per_second": 100.0,
    "trainer_memory_bytes": 2**20,
    "verdict": "Fine.",
    "overhead": 1.02,
}


def measured(path: Path, **changes) -> tuple[dict, dict, dict]:
    write_result(path, VALUES | changes, Stopwatch(), passing=("overhead",))
    files = (path, path.parent / "metrics" / path.name, path.parent / "times" / path.name)
    return tuple(json.loads(file.read_text()) for file in files)


def test_what_a_rerun_repeats_stands_apart_from_what_it_does_not(tmp_path):
    path = tmp_path / "results" / "evaluate.json"
    values, metrics, times = measured(path)
    assert values == {"accuracy_percent": 97.5, "verdict": "Fine."}
    assert metrics == {"evaluate": {"accuracy_percent": 97.5}}
    passing = {"train_seconds": 12.0, "images_per_second": 100.0, "trainer_memory_bytes": 2**20, "overhead": 1.02}
    assert passing.items() <= times["evaluate"].items()
    expected = {"wall_seconds", "peak_memory_bytes", "device", "git_revision", "versions", "result_sha256"}
    assert set(times["evaluate"]) == expected | set(passing)
    assert read_times(path) == times["evaluate"]


def test_a_rerun_with_equal_results_changes_neither_result_nor_metrics(tmp_path):
    path = tmp_path / "evaluate.json"
    digests = []
    for seconds in (1.0, 2.0):
        measured(path, train_seconds=seconds)
        digests.append([sha256_of(path), sha256_of(tmp_path / "metrics" / path.name)])
    assert digests[0] == digests[1]
    assert read_times(path)["train_seconds"] == 2.0


def test_times_of_another_result_do_not_count(tmp_path):
    path = tmp_path / "evaluate.json"
    measured(path)
    path.write_text("{}")  # as DVC checks out an earlier one
    assert read_times(path) == {}
    assert read_times(tmp_path / "finetune.json") == {}


def test_times_come_back_with_the_result_that_dvc_brings_back(tmp_path):
    path = tmp_path / "evaluate.json"
    measured(path, train_seconds=1.0)
    first = path.read_bytes()
    measured(path, train_seconds=2.0, accuracy_percent=50.0)
    path.write_bytes(first)
    assert read_times(path)["train_seconds"] == 1.0
    (kept,) = [each for each in (tmp_path / "times/kept").iterdir() if each.stem == hashlib.md5(first).hexdigest()]
    assert json.loads(kept.read_text())["evaluate"]["train_seconds"] == 1.0


def test_seconds_of_all_stages_stand_in_one_file_for_dvc(tmp_path):
    for stage in ("adapt", "evaluate"):
        measured(tmp_path / f"{stage}.json")
    (tmp_path / "times" / "adapt.json").write_text("{")  # damaged: the result of the next stage is not lost for it
    for kept in (tmp_path / "times" / "kept").iterdir():
        kept.unlink()
    _, _, times = measured(tmp_path / "finetune.json")
    shown = json.loads((tmp_path / "times" / "seconds.json").read_text())
    assert shown["seconds"].keys() == {"evaluate", "finetune"}
    assert shown["seconds"]["finetune"] == times["finetune"]["wall_seconds"]
    assert shown["seconds"] == seconds_of(tmp_path)


def test_parameters_belong_to_the_result_that_they_made(tmp_path):
    path = tmp_path / "finetune.json"
    measured(path)
    write_parameters(path, {"finetune": {"rank": 4, "target_modules": ["attn.qkv"]}})
    assert read_parameters(path) == {"finetune": {"rank": 4, "target_modules": ["attn.qkv"]}}
    assert read_parameters(tmp_path / "evaluate.json") is None
    path.write_text("{}")  # another result
    assert read_parameters(path) is None
