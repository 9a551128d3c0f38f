"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ppvit.core import children

CHILD = "from ppvit.core.children import end_with_parent; end_with_parent(); print('up', flush=True); {then}"
PARENT = """
import os, subprocess, sys, time
from ppvit.core.children import environment_of_child
child = subprocess.Popen([sys.executable, "-c", {child!r}], env=environment_of_child(), stdout=subprocess.PIPE)
assert child.stdout.readline() == b"up\\n"
print(child.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int, seconds: float = 10) -> bool:
    """Whether a process is gone, or only waits to be fetched, within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


# a child that never gives Python's lock back, as a long call of SEAL, ends too
@pytest.mark.parametrize("then", ["import time; time.sleep(60)", "import re; re.match('(a+)+$', 'a' * 60 + 'b')"])
def test_a_child_ends_when_its_parent_is_killed(then):
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child=CHILD.format(then=then))], stdout=-1)
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(child)


def test_a_child_whose_parent_has_ended_before_ends_at_once():
    environment = {**os.environ, "_PARENT_OF_PPVIT": "1" if os.getpid() != 1 else "2"}
    done = subprocess.run([sys.executable, "-c", CHILD.format(then="")], env=environment, check=False, stdout=-1)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_without_a_parent_that_told_nothing_happens_and_grandchildren_do_not_inherit_it(monkeypatch):
    monkeypatch.delenv("_PARENT_OF_PPVIT", raising=False)
    children.end_with_parent()
    then = "import os; print('_PARENT_OF_PPVIT' in os.environ)"
    command = [sys.executable, "-c", CHILD.format(then=then)]
    done = subprocess.run(command, env=children.environment_of_child(), check=True, stdout=-1)
    assert done.stdout.split() == [b"up", b"False"]


def test_where_the_system_sends_no_signal_a_thread_looks():
    watched = "import sys; sys.platform = 'other'; " + CHILD.format(then="import time; time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(child=watched)], stdout=-1)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(child)
