"""Killed at changes of files and by every signal, each stage is put right by a rerun; ``kill.py`` is the long form."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import kill
import kill_world
import pytest
import warm_python
from imports import ROOT


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> kill_world.World:
    return kill_world.World(tmp_path_factory.mktemp("kill") / "world", kill_world.ORDER, warm_python.python())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_stage_killed_once_and_run_again(world):
    """At a change of a file in the later half, where outputs take their places, by each signal in turn."""
    draw, wrong = random.Random(0), {}
    for number, stage in enumerate(kill_world.ORDER):
        by, changes = kill.SIGNALS[number % 3], world.changes[stage]
        at = draw.randint(changes // 2, changes)
        found = kill.case(world, stage, by, removed=number % 2 == 0, KILL_AT=str(at))
        wrong |= {f"{stage} at change {at} of {changes} by {by.name}": found} if found else {}
    assert wrong == {}


@pytest.mark.long
def test_two_that_encrypt_at_eight_offsets(world):
    """The second waits; both succeed, and what is there is whole."""
    for number in range(8):
        with ThreadPoolExecutor() as pool:
            first = pool.submit(world.run, "encrypt")
            time.sleep(number / 8 * world.seconds["encrypt"])
            second = pool.submit(world.run, "encrypt")
            ended = [first.result(), second.result()]
        assert [each.code for each in ended] == [0, 0], ended
        told = [line for each in ended for line in each.errors.splitlines()]
        assert all(line.startswith(("warning: the public demo key", "waiting: ")) for line in told), told
        assert world.snapshot() == world.whole
        assert world.left(world.project) == []


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


@pytest.mark.parametrize(("stage", "limit"), [("encrypt", "-f 40"), ("adapt", "-v 600000")])
def test_limits_of_a_stage(project, stage, limit):
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", sys.executable, str(ROOT / "stages" / f"{stage}.py")],
        cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("warning: the public demo key"))
    assert line.startswith("error: ")
    assert "ulimit" in line
    assert sorted(path.name for path in project.iterdir()) == ["data", "params.yaml"]
    assert not [path for path in project.rglob("*") if path.name.endswith((".partial", ".lock"))]


DVC_YAML = """
stages:
  encrypt:
    cmd: {python} {root}/stages/encrypt.py
    deps: [data/raw/digits]
    outs: [data/encrypted/digits/train, data/encrypted/digits/val, data/encrypted/digits/test]
"""
SLOW = "import time, ppvit.core.files as files\nold = files._put_in_place\n"
SLOW += "files._put_in_place = lambda *both: (both[0].is_dir() and time.sleep({seconds}), old(*both))\n"


def dvc(project: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project, env={**clean, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def repository(project) -> Path:
    """A project of DVC with one stage, which takes a minute where ``site`` is on the path."""
    assert dvc(project, "init", "--no-scm", "--quiet").wait() == 0
    (project / "dvc.yaml").write_text(DVC_YAML.format(python=sys.executable, root=ROOT))
    (project / "site").mkdir()
    (project / "site" / "sitecustomize.py").write_text(
        "import sys\nif any(word.endswith('stages/encrypt.py') for word in sys.orig_argv):\n"
        + "".join(f"    {line}\n" for line in SLOW.format(seconds=60).splitlines())
    )
    return project


def wait_for(found: Callable[[], object]) -> bool:
    until = time.monotonic() + 60
    while not (result := found()) and time.monotonic() < until:
        time.sleep(0.02)
    return bool(result)


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_dvc_and_a_rerun_is_whole(repository, by):
    place = repository / "data" / "encrypted"
    slow = {"PYTHONPATH": f"{ROOT}{os.pathsep}{repository / 'site'}", kill_world.MARK: str(repository)}
    first = dvc(repository, "repro", **slow)
    assert wait_for(lambda: list(place.glob(".digits.*.partial/train/000001.tar")))
    second = dvc(repository, "repro", **slow)
    told = second.communicate()[0]
    assert second.returncode != 0
    assert str(first.pid) in told  # DVC says who is at it
    first.send_signal(by)
    first.wait()
    assert wait_for(lambda: not marked(repository))
    assert not list(place.glob(".digits.*"))  # told by SIGTERM, the stage has cleaned up
    again = dvc(repository, "repro")
    assert again.communicate()[0].count("Running stage") == 1
    assert again.returncode == 0
    assert {"train", "val", "test"} < set(os.listdir(place / "digits"))
    assert sorted(os.listdir(place)) == ["digits"]


def marked(folder: Path) -> list[str]:
    """Processes that were started for this test."""
    mark = f"{kill_world.MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found
