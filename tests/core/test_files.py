"""Outputs are whole or absent, whatever happens in between; errors are one line."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppvit.core.errors import PpvitError, UsageError, one_line_errors
from ppvit.core.files import atomic_output, require_free_space, write_json
from ppvit.core.reading import read_json, sha256_of


@pytest.mark.parametrize("directory", [False, True])
def test_old_output_stays_until_the_new_one_is_whole(tmp_path, directory):
    target = tmp_path / "deep" / "out"

    def write(text: str, fail: bool) -> None:
        with atomic_output(target, known_by="file" if directory else "") as temporary:
            (temporary / "file" if directory else temporary).write_text(text)
            assert target.exists() == (text != "first")
            if fail:
                raise RuntimeError("interrupted")

    def content() -> str:
        return (target / "file" if directory else target).read_text()

    write("first", fail=False)
    with pytest.raises(RuntimeError):
        write("second", fail=True)
    assert content() == "first"
    write("third", fail=False)
    assert content() == "third"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_cleared(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from ppvit.core.files import atomic_output\n"
        "with atomic_output(Path(sys.argv[1]), known_by='whole') as folder:\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with atomic_output(tmp_path / "out", known_by="whole") as folder:
        (folder / "whole").write_text("x")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["whole"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "your quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only"),
    ],
)
def test_disk_that_takes_no_more(tmp_path, code, told):
    with (
        pytest.raises(PpvitError, match=f"out: .*{told}"),
        atomic_output(tmp_path / "out") as path,
    ):
        path.write_text("half")
        raise OSError(code, os.strerror(code))
    assert not list(tmp_path.iterdir())


def test_the_name_that_an_output_gets_is_told_not_a_temporary_one(tmp_path):
    with pytest.raises(PpvitError, match=f"^{tmp_path}/out: the disk is full"):  # noqa: SIM117
        with atomic_output(tmp_path / "out", known_by="a.json") as folder, atomic_output(folder / "a.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


KILL_BEFORE = """
import os, signal, sys
from pathlib import Path
import ppvit.core.files as files
if sys.argv[3] == "without":  # a file system that cannot exchange two names, as NFS
    class Libc: pass
    files.ctypes.CDLL = lambda *a, **k: Libc()
count, stop, process = 0, int(sys.argv[2]), os.getpid()
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open", "ctypes.dlsym")
def hook(event, arguments):
    global count
    if event in EVENTS and (event == "ctypes.dlsym" or sys.argv[1] in str(arguments[0])):
        count += 1
        if count == stop:
            os.kill(process, signal.SIGKILL)
sys.addaudithook(hook)
with files.atomic_output(Path(sys.argv[1]) / "out", known_by="a") as folder:
    (folder / "a").write_text("new")
    (folder / "b").write_text("new")
"""


def kill_before(folder, number: int, how: str) -> int:
    """Kill a writer before the ``number``-th thing that it does to files in ``folder``; returns its exit code."""
    command = [sys.executable, "-c", KILL_BEFORE, str(folder), str(number), how]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("how", ["with", "without"])
def test_killed_anywhere_a_folder_is_the_old_one_or_the_new_one(tmp_path, how):
    """Before each of its changes; where names cannot be exchanged at once, the next writer brings the old one back."""
    for number in range(1, 60):
        place = tmp_path / str(number)
        (place / "out").mkdir(parents=True)
        for name in ("a", "b"):
            (place / "out" / name).write_text("old")
        code = kill_before(place, number, how)
        with pytest.raises(ValueError, match="not this time"):  # noqa: SIM117  # a start that gets no further
            with atomic_output(place / "out", known_by="a"):
                raise ValueError("not this time")
        found = {path.name: path.read_text() for path in (place / "out").iterdir()}
        assert found in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), number
        assert os.listdir(place) == ["out"]
        if code == 0:
            break
    assert code == 0
    assert number > 8
    assert found["a"] == "new"


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    """Root could: `--out /dev/stdout` would leave a file in place of the device, for all programs to come."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for target in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null"), Path("/dev/new")):
        with pytest.raises(UsageError, match="is a device, pipe or socket"), atomic_output(target):
            pytest.fail("it was to be written")
    assert stat.S_ISFIFO(os.stat(tmp_path / "link").st_mode)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    """DVC's cache is behind such links, and a folder of data may be one."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "known").write_text("old")
    (tmp_path / "cached.json").write_text("old")
    (tmp_path / "out").symlink_to("cache")
    (tmp_path / "out.json").symlink_to("cached.json")
    with atomic_output(tmp_path / "out", known_by="known") as folder:
        (folder / "known").write_text("new")
    write_json(tmp_path / "out.json", 1)
    assert not (tmp_path / "out").is_symlink()
    assert not (tmp_path / "out.json").is_symlink()
    assert (tmp_path / "out" / "known").read_text() == "new"
    assert (tmp_path / "cache" / "known").read_text() == (tmp_path / "cached.json").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["cache", "cached.json", "out", "out.json"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "[a]*?{b}", "two words\n", "-rf", "a.partial.b"])
def test_names_of_any_kind(tmp_path, name):
    """The longest that a file system takes, and those that mean something in patterns."""
    (tmp_path / f".{name[:3]}.0123abcd.partial").write_text("half")  # of another output, whose name is a part of this
    for text in ("1", "2"):
        with atomic_output(tmp_path / name) as path:
            path.write_text(text)
    assert (tmp_path / name).read_text() == "2"
    assert len(os.listdir(tmp_path)) == 1 + (name[:3] != name)


def test_temporaries_of_an_output_with_a_longer_name_are_not_cleared(tmp_path):
    """`results/audit` and `results/audit.json` are written by one stage, perhaps at once by two."""
    with atomic_output(tmp_path / "audit.json") as longer:
        longer.write_text("1")
        with atomic_output(tmp_path / "audit") as path:
            path.write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["audit", "audit.json"]


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "out.json", 1)
        with atomic_output(tmp_path / "out", known_by="a") as folder:
            (folder / "a").touch()
    finally:
        os.umask(before)
    assert oct((tmp_path / "out.json").stat().st_mode & 0o777) == "0o640"
    assert oct((tmp_path / "out").stat().st_mode & 0o777) == "0o750"


def test_a_copy_of_the_process_that_leaves_the_block_takes_nothing_away(tmp_path):
    process = os.getpid()
    try:
        with atomic_output(tmp_path / "out") as path:
            path.write_text("whole")
            if child := os.fork():
                os.waitpid(child, 0)
                assert path.exists()
                assert (tmp_path / ".out.lock").exists()
            else:
                raise InterruptedError
    except InterruptedError:
        os._exit(0)
    finally:
        if os.getpid() != process:
            os._exit(1)
    assert (tmp_path / "out").read_text() == "whole"
    assert os.listdir(tmp_path) == ["out"]


WITHOUT_ROOT = """
import os, sys
from pathlib import Path
from ppvit.core.errors import one_line_errors
from ppvit.core.files import write_json
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with one_line_errors():
    write_json(Path(sys.argv[1]), 1)
"""


def test_read_only_folder_is_one_line(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", WITHOUT_ROOT, str(folder / "out.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    told = f"error: {folder}/out.json: Permission denied; see to it that {folder} can be written (it was not written)\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_free_space_is_asked_of_the_nearest_existing_folder(tmp_path):
    require_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(PpvitError, match="MiB are needed and"):
        require_free_space(tmp_path / "not" / "yet", 2**62)


def test_json_and_hash(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, "ü"]})
    assert read_json(tmp_path / "a.json", "adapt") == {"b": [1, "ü"]}
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (PpvitError("x is wrong; mend it"), 1, "error: x is wrong; mend it\n"),
        (UsageError("no such option"), 2, "error: no such option\n"),
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), 1, "error: some/file: Permission denied; "),
    ],
)
def test_errors_of_the_user_are_one_line(error, code, told, capsys, monkeypatch):
    monkeypatch.delenv("PPVIT_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == code
    shown = capsys.readouterr().err
    assert shown.startswith(told)
    assert shown.count("\n") == 1


def test_defects_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
