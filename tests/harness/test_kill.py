"""Killed at changes of files and by every signal, each stage is put right by a rerun; the long form is ``kill.py``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kill
import pytest
from imports import ROOT
from warm_python import WarmPython


@pytest.mark.timeout(600)
def test_every_stage_killed_once_and_run_again(tmp_path):
    """At a change of a file in the later half, where outputs take their places, by each signal in turn."""
    with tempfile.TemporaryDirectory() as folder:
        warm = WarmPython(Path(folder))
        warm.wait()
        try:
            world = kill.World(tmp_path / "world", kill.ORDER, warm)
            draw, wrong = random.Random(0), {}
            for number, stage in enumerate(kill.ORDER):
                by, changes = kill.SIGNALS[number % 3], world.changes[stage]
                at = draw.randint(changes // 2, changes)
                found = kill.case(world, stage, by, removed=number % 2 == 0, KILL_AT=str(at))
                wrong |= {f"{stage} at change {at} of {changes} by {by.name}": found} if found else {}
        finally:
            warm.close()
    assert wrong == {}


def stage_process(folder: Path, stage: str, **environment: str) -> subprocess.Popen:
    """A stage in an interpreter of its own, in a project of its own with nothing but parameters."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "stages" / f"{stage}.py")],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with parameters and the digits as plain shards."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    download = stage_process(tmp_path, "download")
    assert download.wait() == 0, download.stderr.read()
    return tmp_path


def digests(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_that_encrypt_at_eight_offsets(project):
    """The second waits; both succeed, and what is there is whole."""
    assert stage_process(project, "encrypt").wait() == 0
    encrypted = project / "data" / "encrypted"
    whole = digests(encrypted)
    for offset in range(8):
        first = stage_process(project, "encrypt")
        time.sleep(0.12 * offset)
        second = stage_process(project, "encrypt")
        codes = [each.wait() for each in (first, second)]
        assert codes == [0, 0], offset
        assert digests(encrypted) == whole, offset
        told = [line for each in (first, second) for line in each.stderr.read().splitlines()]
        assert all(line.startswith(("warning: the public demo key", "waiting: ")) for line in told), told


def test_an_orphan_beside_a_rerun(project):
    """One that was stopped, so that it goes on later, and one that does not wait for it."""
    first = stage_process(project, "encrypt")
    place = project / "data" / "encrypted"
    until = time.monotonic() + 60
    while not list(place.glob(".digits.*.partial")) and time.monotonic() < until:
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    second = stage_process(project, "encrypt")
    waiting = second.stderr.readline() + second.stderr.readline()
    assert f"waiting: {place / 'digits'} is being written by process {first.pid}" in waiting
    first.kill()
    assert second.wait() == 0
    assert sorted(os.listdir(place)) == ["digits"]


@pytest.mark.parametrize("limit", ["-f 40", "-v 600000"])
def test_limits_of_a_stage(project, limit):
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", sys.executable, str(ROOT / "stages" / "adapt.py")],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "ulimit" in last
    assert "Traceback" not in done.stderr
    assert not [
        path for path in project.rglob("*") if path.name.endswith((".partial", ".lock")) or "adapted" in str(path)
    ]
