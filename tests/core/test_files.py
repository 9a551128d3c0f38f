"""Outputs are whole or absent, whatever happens in between; errors are one line."""

import errno
import os
import signal
import subprocess
import sys

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
