"""Processes that share work: answers, progress on the way, and what is told when one of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ppvit.core.errors import PpvitError
from ppvit.he.parties.forks import Forks


def make(number):
    def answer(message):
        yield f"half of {message}"
        if message == "fail":
            raise PpvitError(f"worker {number} failed")
        if message == "defect":
            raise RuntimeError("encrypted is not valid\nfor parameters")
        if message == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if message == "exit":
            os._exit(9)
        return number, message

    return answer


@pytest.mark.parametrize("processes", [1, 2])
def test_forks_answer_report_and_tell_what_went_wrong(processes):
    with Forks(make, processes) as forks:
        done = []
        assert forks.ask(["a", "b"][:processes], done.append) == [(0, "a"), (1, "b")][:processes]
        assert sorted(done) == ["half of a", "half of b"][:processes]
        with pytest.raises(PpvitError, match="worker 0 failed"):
            forks.ask(["fail", "b"][:processes])
    with Forks(make, processes) as forks, pytest.raises(PpvitError) as told:
        forks.ask(["defect"] * processes)
    assert str(told.value) == "RuntimeError while working on ciphertexts: encrypted is not valid for parameters"


@pytest.mark.parametrize(
    ("end", "told"), [("killed", "was killed, most likely for its memory"), ("exit", "exit code 9")]
)
def test_the_memory_is_named_only_where_a_signal_ended_a_process(end, told):
    with Forks(make, 2) as forks, pytest.raises(PpvitError, match=told):
        forks.ask(["a", end])


def test_no_process_outlives_the_one_that_asks():
    """Also where that one was killed and had no time to end them."""
    code = """
import os, signal
from ppvit.he.forks import Forks

def answer(message):
    yield
    return os.getpid()

with Forks(lambda number: answer, 2) as forks:
    print(*forks.ask(["a", "b"]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    told = subprocess.run([sys.executable, "-c", code], text=True, check=False, capture_output=True, timeout=60)
    deadline = time.monotonic() + 20
    while any(
        psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie" for pid in told.stdout.split()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(told.stdout.split()) == 2
