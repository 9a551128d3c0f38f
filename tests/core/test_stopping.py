"""SIGTERM and Ctrl-C end a process in one line, wherever it is; nothing that it has started goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOLD = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP"}
PREPARED = "import os, signal, sys, time\nfrom ppvit.core.process import prepared_process\nwith prepared_process():\n"


def run(body: str, by: signal.Signals, *arguments: str) -> subprocess.CompletedProcess:
    """A process that ends itself by a signal somewhere in ``body``."""
    lines = "".join(f"    {line}\n" for line in body.format(me=f"os.kill(os.getpid(), {int(by)})").splitlines())
    command = [sys.executable, "-c", PREPARED + lines, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


WHERE = {
    "at work": "{me}\ntime.sleep(60)",
    "in a destructor, where exceptions are swallowed": (
        "class Thing:\n    def __del__(self):\n        {me}\n        time.sleep(0.01)\ndel Thing().x\n"
    ).replace("del Thing().x", "Thing()\ntime.sleep(60)"),
    "swallowed by a library": ("try:\n    {me}\n    time.sleep(60)\nexcept BaseException:\n    pass\ntime.sleep(60)"),
    "turned into another error": (
        "try:\n    {me}\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('half loaded') from None"
    ),
    "in another thread's time": ("import threading\nthreading.Thread(target=lambda: {me}).start()\ntime.sleep(60)"),
    "in numbers": "import threading\nthreading.Timer(0.2, lambda: {me}).start()\nfor _ in range(10**9): sum(range(9))",
}


@pytest.mark.parametrize("by", TOLD)
@pytest.mark.parametrize("where", WHERE)
def test_one_line_and_the_exit_code_of_the_signal(where, by):
    done = run(WHERE[where], by, "word", "two words")
    assert done.returncode == 128 + by
    assert done.stderr == f"stopped by {TOLD[by]}; to go on, run again: -c word 'two words'\n"


IMPORT = """
import importlib, os, sys
from ppvit.core.process import prepared_process
with prepared_process():
    count, at = 0, int(sys.argv[2])
    def hook(event, _):
        global count
        if event == "open":
            count += 1
            if count == at:
                os.kill(os.getpid(), 2)
    sys.addaudithook(hook)
    importlib.import_module(sys.argv[1])
    print(count)
"""


@pytest.mark.parametrize("module", ["numpy", "pydantic", "PIL.Image", "joblib"])
def test_while_libraries_are_loaded(module):
    """At four moments of an import, found by the files that it opens."""

    def load(at: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", IMPORT, module, str(at)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    opened = int(load(0).stdout)
    assert opened > 4
    for part in range(4):
        at = 1 + part * (opened - 1) // 4
        done = load(at)
        assert (done.returncode, done.stderr) == (130, f"stopped by Ctrl-C; to go on, run again: -c {module} {at}\n")


def test_what_is_underway_is_cleaned_up_and_a_second_signal_does_not_disturb_that(tmp_path):
    body = (
        "from pathlib import Path\nfrom ppvit.core.files import atomic_output\n"
        "with atomic_output(Path(sys.argv[1]) / 'out', known_by='a') as folder:\n"
        "    try:\n"
        "        for name in range(1000): (folder / str(name)).touch()\n"
        "        {me}\n"
        "    finally:\n"
        "        {me}\n"
        "        time.sleep(0.5)\n"
    )
    done = run(body, signal.SIGTERM, str(tmp_path))
    assert done.returncode == 143
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_what_libraries_have_started_is_ended():
    body = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "{me}\ntime.sleep(60)"
    )
    done = run(body, signal.SIGTERM)  # which waits for the child too, since that has our streams open
    assert done.returncode == 143
    until = time.monotonic() + 10
    while _lives(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _lives(int(done.stdout))


def test_what_is_ignored_stays_ignored():
    """As by nohup, and for Ctrl-C in the background of a script."""
    code = PREPARED + "    os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGINT); print('whole')"
    ignore = "trap '' HUP INT; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", ignore, "sh", sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_nobody_reads_on(lines):
    code = PREPARED + f"    for number in range({lines}): print(number)"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PREPARED + "    print(1)"],
            check=False, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: the disk is full; free some space and run again\n")


# stands for DVC: it starts a stage as DVC does, through a shell, and waits
DVC = """
import os, subprocess, sys
command = [sys.argv[1], "-c", sys.argv[2] + "; true"] if sys.argv[3] == "stays" else [sys.argv[1], "-c", sys.argv[2]]
environment = {**os.environ, "DVC_STAGE": "encrypt"} if sys.argv[4] == "dvc" else dict(os.environ)
sys.exit(subprocess.run(command, env=environment).returncode)
"""


@pytest.mark.parametrize("shell", ["stays", "goes"])
@pytest.mark.parametrize("runner", ["dvc", "hand"])
def test_a_stage_ends_with_dvc_and_a_verb_by_hand_goes_on(tmp_path, runner, shell):
    """Also where the shell that DVC has started stays between the two, and would go on without DVC."""
    alive = tmp_path / "alive"
    code = f"open({str(alive)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)"
    script = tmp_path / "stage.py"
    script.write_text(PREPARED + "    " + code)
    dvc = subprocess.Popen(
        [sys.executable, "-c", DVC, "/bin/sh", f"{sys.executable} {script}", shell, runner],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 30
    while not (alive.exists() and alive.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    stage = int(alive.read_text())
    dvc.kill()
    dvc.wait()
    until = time.monotonic() + (20 if runner == "dvc" else 1)
    while _lives(stage) and time.monotonic() < until:
        time.sleep(0.02)
    try:
        assert _lives(stage) == (runner == "hand")
    finally:
        if _lives(stage):
            os.kill(stage, signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
