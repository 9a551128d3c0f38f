"""What every result file records about its own run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from ppvit.core.reading import sha256_of
from ppvit.core.results import Stopwatch, peak_memory_bytes, read_times, write_result


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
    headline = ("accuracy_percent", "not_measured_percent")
    write_result(path, VALUES | changes, Stopwatch(), headline=headline, passing=("overhead",))
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
