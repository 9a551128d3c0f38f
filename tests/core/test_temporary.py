"""Temporary folders that go with their run, or at the next start; files in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from ppvit.core.temporary import memory_file, temporary_folder

HOLD = (
    "import os, sys; from ppvit.core.temporary import temporary_folder\n"
    "with temporary_folder('trial-') as folder:\n"
    "    (folder / 'a').write_text('b'); print(folder, flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def holding() -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], text=True, stdin=-1, stdout=-1)
    return process, process.stdout.readline().strip()


def test_what_a_killed_run_left_goes_at_the_next_start_and_a_living_runs_stays(tmp_path):
    dead, left = holding()
    dead.kill()
    dead.communicate()
    living, kept = holding()  # has removed it
    assert not os.path.exists(left)
    (tmp_path / "trial-link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").touch()
    (tmp_path / "other").mkdir()
    with temporary_folder("trial-") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert os.path.exists(kept)
        assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("trial-")) == [
            "mine", "other",
        ]  # fmt: skip
        assert (tmp_path / "mine" / "photo").exists()  # links are not followed
    assert not folder.exists()
    living.communicate("")
    assert not os.path.exists(kept)


def test_a_folder_goes_also_when_its_block_fails():
    with pytest.raises(ValueError, match="x"), temporary_folder("trial-") as folder:
        (folder / "deep").mkdir()
        raise ValueError("x")
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
def test_a_file_in_memory_is_for_those_who_inherit_it():
    with memory_file("trial") as path:
        path.write_bytes(b"long secret")
        path.write_bytes(b"secret")
        read = ["-c", f"print(open('{path}').read())"]
        told = subprocess.run([sys.executable, *read], pass_fds=[int(path.name)], text=True, stdout=-1, check=True)
        assert told.stdout == "secret\n"
        assert subprocess.run([sys.executable, *read], stderr=-1, check=False).returncode == 1
    assert not path.exists()
