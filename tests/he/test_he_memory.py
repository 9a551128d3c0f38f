"""Memory of the trainer: the estimate's parts against what SEAL takes, and the whole against a small training.

Larger sizes, `ppvit he train` on two processors, proportional set size summed over processes every 50 ms, largest
against the estimate, MiB: 1024 x 64 x 10 T=2 653, 739; 128 x 401 T=2 787, 896; 256 x 64 T=3 1310, 1435; 512 x 64 T=4
2373, 2562; 512 x 64 T=5 5920, 7483; 60 x 8 T=5, one process, 3443, 3647; refresh, 512 x 64 T=6 522, 553; 4096 x 64 in
batches of 512 468, 489; the published algorithm, 16 x 65 x 3 T=1, 773, 854.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ppvit.core.errors import PpvitError
from ppvit.he.ckks import memory
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.parties import owner
from ppvit.he.parties.folders import write_manifest, write_plan
from ppvit.he.tiles import Tiles
from ppvit.he.tiles.plan import make_plan
from ppvit.he.volley_revolver import plan as published

pytest.importorskip("tenseal")
MIB = 2**20


def pss(process: psutil.Process) -> int:
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def test_estimate_holds_for_the_largest_sizes_that_were_measured():
    """MiB, see above; too low would end in a killed process, far too high would refuse what fits."""
    for sizes, processes, measured in [
        ((1024, 64, 10, 2), 2, 653), ((128, 401, 10, 2), 2, 787), ((256, 64, 10, 3), 2, 1310),
        ((512, 64, 10, 4), 2, 2373), ((512, 64, 10, 5), 2, 5920), ((60, 8, 10, 5), 1, 3443),
        ((512, 64, 10, 6, "refresh"), 2, 522), ((4096, 64, 10, 4, "refresh", 4.0, 0.0, 512), 2, 468),
    ]:  # fmt: skip
        assert measured <= make_plan(*sizes).memory_bytes(processes) / MIB <= 1.3 * measured, sizes


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="proportional set size is Linux's")
def test_tables_of_a_session_are_estimated():
    code = """
import psutil
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.session import Session
Session(Parameters(1024 * 4, (30, 30, 49), 30))  # all that is loaded once
before = psutil.Process().memory_full_info().uss
session = Session(Parameters(32768, (60, *[50] * 14, 60), 50))
print(psutil.Process().memory_full_info().uss - before)
"""
    taken = int(subprocess.run([sys.executable, "-c", code], text=True, check=True, capture_output=True).stdout)
    assert 0.9 < Parameters(32768, (60, *[50] * 14, 60), 50).table_bytes() / taken < 1.15


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="proportional set size is Linux's")
@pytest.mark.parametrize("processes", [1, 2])
def test_training_takes_what_was_estimated(tmp_path, processes):
    plan = make_plan(200, 24, 10, 2)
    session = SecretSession(plan.parameters)
    keys, data = tmp_path / "keys", tmp_path / "data"
    keys.mkdir()
    data.mkdir()
    session.save(session.seeded_relinearisation(), keys / "relinearisation.key")
    session.save(session.seeded_rotation(plan.rotations()), keys / "rotation.key")
    write_manifest(keys, "he-0000000000000000")
    write_plan(tmp_path, Tiles(plan), "he-0000000000000000")
    features = np.random.default_rng(0).uniform(-3, 3, (200, 24))
    owner.encrypt_data(session, Tiles(plan), features, np.arange(200) % 10, data)
    write_manifest(data, "he-0000000000000000")
    command = [sys.executable, "-m", "ppvit.cli", "he", "train", "--trainer", str(tmp_path)]
    trainer = subprocess.Popen(command, env={**os.environ, "PPVIT_WORKERS": str(processes)}, stderr=subprocess.DEVNULL)
    largest = 0
    while trainer.poll() is None:
        try:
            largest = max(largest, pss(psutil.Process(trainer.pid)))
        except psutil.Error:
            continue
        time.sleep(0.02)
    assert trainer.returncode == 0
    assert largest <= plan.memory_bytes(processes) <= 1.6 * largest  # what loads at first weighs much in so small a run


def test_control_groups_with_less_than_the_machine_count(tmp_path):
    """Version 2 with a limit on a parent, version 1, and none at all."""
    second = tmp_path / "second"
    for name, limit, usage in (("a", 100 * MIB, 70 * MIB), ("a/b", "max", 10 * MIB)):
        (second / name).mkdir(parents=True)
        (second / name / "memory.max").write_text(f"{limit}\n")
        (second / name / "memory.current").write_text(f"{usage}\n")
        (second / name / "memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\n")
    groups = tmp_path / "groups"
    groups.write_text("0::/a/b\n")
    assert min(memory.left_in_groups(second, groups)) == 50 * MIB
    first = tmp_path / "first"
    (first / "memory" / "a").mkdir(parents=True)
    (first / "memory" / "a" / "memory.limit_in_bytes").write_text(f"{9 * MIB}\n")
    (first / "memory" / "a" / "memory.usage_in_bytes").write_text(f"{5 * MIB}\n")
    (first / "memory" / "a" / "memory.stat").write_text("total_inactive_file 0\n")
    groups.write_text("4:memory:/a\n3:cpuset:/\n")
    assert min(memory.left_in_groups(first, groups)) == 4 * MIB
    assert min(memory.left_in_groups(tmp_path, tmp_path / "none")) == float("inf")
    assert 0 < memory.available_bytes() <= psutil.virtual_memory().total


def test_the_published_algorithm_takes_what_was_measured_too():
    assert 773 <= published.make_plan(16, 65, 3, 1).memory_bytes() / MIB <= 1.3 * 773


def test_what_does_not_fit_is_refused():
    tiles = Tiles(make_plan(60_000, 512, 10, 2))
    with pytest.raises(PpvitError, match="lower he.batch_images"):
        tiles.require_memory(4 * 2**30)
    Tiles(make_plan(60_000, 64, 10, 2, batch=1024)).require_memory(4 * 2**30)
