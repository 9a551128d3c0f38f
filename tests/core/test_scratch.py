"""The folder of unfinished work is for its user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ppvit.core.scratch import scratch_folder


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_made_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_SCRATCH", str(tmp_path / "deep" / "scratch"))
    assert mode(scratch_folder()) == 0o700


def test_our_own_is_closed_where_an_earlier_version_left_it_open(tmp_path, monkeypatch):
    monkeypatch.delenv("PPVIT_SCRATCH")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    before = os.umask(0o022)
    try:
        (tmp_path / "ppvit" / "scratch").mkdir(parents=True)
    finally:
        os.umask(before)
    assert mode(tmp_path / "ppvit" / "scratch") == 0o755
    assert mode(scratch_folder()) == 0o700


@pytest.mark.parametrize("given", [0o755, 0o1777])
def test_a_folder_that_the_user_names_is_left_as_it_is(tmp_path, monkeypatch, given):
    tmp_path.chmod(given)
    monkeypatch.setenv("PPVIT_SCRATCH", str(tmp_path))
    assert mode(scratch_folder()) == given
