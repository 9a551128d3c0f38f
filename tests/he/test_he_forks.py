"""Processes that share work: answers, progress on the way, and what is told when one of them ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ppvit.core.errors import PpvitError
from ppvit.he.ckks.forks import Forks


class Worker:
    def __init__(self, number):
        self.number, self.asked = number, 0

    def answer(self, message, report):
        report(f"half of {message}")
        if message == "fail":
            raise PpvitError("worker failed")
        if message == "defect":
            raise RuntimeError("encrypted is not valid\nfor parameters")
        if message == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if message == "exit":
            os._exit(9)
        return message

    def remember(self, message, report):
        self.asked += 1
        if message == self.number:
            time.sleep(0.2)  # the other one is long free before this one is
        return self.number, self.asked, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_forks_answer_report_and_tell_what_went_wrong(processes):
    with Forks(Worker, processes) as forks:
        done = []
        assert forks.map("answer", ["a", "b"], done.append) == ["a", "b"]
        assert sorted(done) == ["half of a", "half of b"]
        with pytest.raises(PpvitError, match="worker failed"):
            forks.map("answer", ["fail", "b"])
        assert forks.map("answer", ["c"]) == ["c"]  # a failed task ends no process
    with Forks(Worker, processes) as forks, pytest.raises(PpvitError) as told:
        forks.each("answer", "defect")
    assert str(told.value) == "RuntimeError while working on ciphertexts: encrypted is not valid for parameters"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_process_answers_once_and_keeps_what_it_has(processes):
    with Forks(Worker, processes) as forks:
        answers = [forks.each("remember", message) for message in range(4)]
    for asked, each in enumerate(answers, 1):
        assert [answer[:2] for answer in each] == [(number, asked) for number in range(processes)]
    assert all([answer[2] for answer in each] == [answer[2] for answer in answers[0]] for each in answers)
    assert len({answer[2] for answer in answers[0]}) == processes


@pytest.mark.parametrize(
    ("end", "told"), [("killed", "was killed, most likely for its memory"), ("exit", "exit code 9")]
)
def test_the_memory_is_named_only_where_a_signal_ended_a_process(end, told):
    with Forks(Worker, 2) as forks, pytest.raises(PpvitError, match=told):
        forks.map("answer", ["a", end])


def test_no_process_outlives_the_one_that_asks():
    """Also where that one was killed and had no time to end them."""
    code = """
import os, signal
from ppvit.he.ckks.forks import Forks

class Worker:
    def answer(self, message, report):
        return os.getpid()

with Forks(lambda number: Worker(), 2) as forks:
    print(*forks.each("answer", None), flush=True)
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


@pytest.mark.skipif(sys.platform != "linux", reason="forking is unsafe there")
def test_work_under_way_is_not_waited_for_when_the_block_fails():
    under_way = multiprocessing.get_context("fork").Event()

    class Slow:
        def work(self, message, report):
            if message == "fail":
                assert under_way.wait(60)
                raise PpvitError("failed")
            report(os.getpid())
            under_way.set()
            time.sleep(600)

    started = []
    with pytest.raises(PpvitError, match="failed"), Forks(lambda number: Slow(), 2) as forks:
        forks.map("work", ["slow", "fail"], started.append)
    assert len(started) == 1
    assert not psutil.pid_exists(started[0])


@pytest.mark.skipif(sys.platform != "linux", reason="forking is unsafe there")
def test_one_process_works_apart_where_that_is_wanted():
    with Forks(Worker, 1, apart=True) as forks:
        ((number, _, process),) = forks.each("remember", 1)
        assert (number, psutil.Process(process).ppid()) == (0, os.getpid())
    assert not psutil.pid_exists(process)
    with Forks(Worker, 1) as forks:
        assert forks.each("remember", 1)[0][2] == os.getpid()
