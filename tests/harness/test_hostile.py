"""Hostile files, the same each time, and that their judge sees what it must; ``hostile.py`` reads as many as asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import arena
import pytest

HERE = Path(__file__).parent

CASES = 100  # in two to five minutes


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_hostile_files_end_in_one_line_or_change_nothing():
    """In a process of its own, which forks: nothing may have computed with torch in it."""
    command = [sys.executable, str(HERE / "hostile.py"), "--cases", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert f"{CASES} cases" in done.stdout


def _opens_elsewhere():
    with open("/tmp/ppvit-elsewhere", "w"):
        raise SystemExit(1)


def _leaves_a_process():
    if os.fork() == 0:
        import time

        time.sleep(60)
        os._exit(0)
    raise SystemExit(0)


def _connects():
    import socket

    socket.create_connection(("127.0.0.1", 9), timeout=1)


def _unpickles():
    import pickle

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {arena.CANARY}",)

    pickle.loads(pickle.dumps(Payload()))
    raise SystemExit(0)


def _says(*lines: str, code: int = 1):
    def says():
        print(*lines, sep="\n", file=sys.stderr)
        raise SystemExit(code)

    return says


def _works_without_end():
    while True:
        pass


def _takes_memory():
    held = bytearray(2 * arena.MEMORY)
    raise SystemExit(len(held))


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        (_opens_elsewhere, "did write /tmp/ppvit-elsewhere"),
        (_leaves_a_process, "did leave a process"),
        (_connects, "did socket.connect"),
        (_unpickles, "did run a payload"),
        (_says("Traceback", "error: x"), "not one line"),
        (_says("error: x", code=3), "exit code 3"),
        (_says("error: x", code=0), "an error and exit code 0"),
        (_says("error: \x1b[1m"), "printed '\\x1b'"),
        (_says(), "not one line"),
        (_works_without_end, "killed by SIGKILL"),
        (_takes_memory, "traceback: MemoryError"),
    ],
)
def test_the_judge_sees(what, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(arena, "CPU_SECONDS", 1)
    monkeypatch.setattr(arena, "LEAVE_SECONDS", 0.5)
    assert any(fault in each for each in arena.run([], tmp_path, what).faults(())), fault


def test_the_judge_has_nothing_against_one_line(tmp_path):
    assert arena.run([], tmp_path, _says("usual", "error: x")).faults(("usual",)) == []
