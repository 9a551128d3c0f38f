"""One writer at a time, however many there are and however they end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppvit.core.errors import PpvitError
from ppvit.core.files import atomic_output
from ppvit.core.locks import sole_writer

WRITER = """
import os, sys, time
from pathlib import Path
from ppvit.core.files import atomic_output
folder, name = Path(sys.argv[1]), sys.argv[2]
for number in range(int(sys.argv[3])):
    with atomic_output(folder / "out", known_by="0") as out:
        with open(folder / "log", "a") as log:  # each line in one write
            log.write(f"{name} in\\n")
        for part in range(5):
            (out / str(part)).write_text(name)
        time.sleep(0.002)
        with open(folder / "log", "a") as log:
            log.write(f"{name} out\\n")
"""


def start(folder: Path, name: str, times: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name, str(times)], stderr=subprocess.PIPE)


@pytest.mark.parametrize("writers", [2, 8])
def test_writers_at_once_come_one_after_another_and_all_succeed(tmp_path, writers):
    started = [start(tmp_path, str(number), 40 // writers) for number in range(writers)]
    assert [each.wait(60) for each in started] == [0] * writers
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert len(lines) == 2 * writers * (40 // writers)
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert (entered.split()[1], left.split()[1]) == ("in", "out")
        assert entered.split()[0] == left.split()[0]
    assert len({(tmp_path / "out" / str(part)).read_text() for part in range(5)}) == 1  # all of one writer
    assert sorted(os.listdir(tmp_path)) == ["log", "out"]


def test_the_killed_leave_the_lock_to_others(tmp_path):
    for number in range(6):
        writer = start(tmp_path, "killed", 1000)
        until = time.monotonic() + 30
        while not (tmp_path / "log").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.003 * number)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        (tmp_path / "log").unlink()
        with atomic_output(tmp_path / "out", known_by="0") as out:
            (out / "0").touch()
        assert os.listdir(tmp_path) == ["out"]


def test_the_second_waits_and_says_for_whom(tmp_path):
    with sole_writer(tmp_path / "out"):
        second = start(tmp_path, "second", 1)
        line = second.stderr.readline().decode()
        assert line == f"waiting: {tmp_path}/out is being written by process {os.getpid()}\n"
        assert not (tmp_path / "log").exists()
    assert second.wait(30) == 0
    assert sorted(os.listdir(tmp_path)) == ["log", "out"]


def test_a_lock_that_is_removed_while_one_waits_for_it_holds_nobody(tmp_path):
    """The one who waits has opened a file that is gone, while a third has made a new one."""
    first = sole_writer(tmp_path / "out")
    first.__enter__()
    second = start(tmp_path, "second", 1)
    assert second.stderr.readline().startswith(b"waiting")
    (tmp_path / ".out.lock").unlink()
    with sole_writer(tmp_path / "out"):  # a new file under the old name
        first.__exit__(None, None, None)  # frees the file that the second has open
        time.sleep(0.3)
        assert not (tmp_path / "log").exists()
    assert second.wait(30) == 0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_temporaries_of_others_are_left_alone(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".out.0123abcd.partial").write_text("of another writer, perhaps alive")
    with atomic_output(tmp_path / "out") as path:
        path.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".out.0123abcd.partial", "out"]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "socket"])
def test_what_somebody_has_put_in_the_place_of_the_lock(tmp_path, monkeypatch, kind):
    place, other = tmp_path / ".out.lock", tmp_path / "other"
    other.write_text("precious")
    if kind == "link":
        place.symlink_to(other)
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        monkeypatch.chdir(tmp_path)  # addresses of sockets are short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(place.name)
    before = place.lstat()
    told = f"^{place} is in the way of the lock of {tmp_path}/out; remove it and run again$"
    with pytest.raises(PpvitError, match=told), atomic_output(tmp_path / "out") as path:
        path.write_text("whole")
    assert os.path.samestat(place.lstat(), before)
    assert sorted(os.listdir(tmp_path)) == [".out.lock", "other"]
    assert other.read_text() == "precious"
