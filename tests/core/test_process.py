"""What processes of ppvit do before their libraries are loaded."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys

import pytest

from ppvit.core.process import share_processors, without_collecting


def test_waiting_threads_sleep_unless_the_user_chose_otherwise(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone afterwards
        monkeypatch.delenv(name)
    share_processors()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "4000")
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7")):
        monkeypatch.delenv("OMP_WAIT_POLICY")
        monkeypatch.delenv("GOMP_SPINCOUNT")
        monkeypatch.setenv(name, value)
        share_processors()
        assert os.environ[name] == value
        monkeypatch.setenv("OMP_WAIT_POLICY", "")
        monkeypatch.setenv("GOMP_SPINCOUNT", "")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_looked_for_afterwards_as_before(enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        with contextlib.suppress(ImportError), without_collecting():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, which torch brings on Linux")
def test_it_is_early_enough_for_stages_and_verbs():
    """GNU's library says when it is loaded how often a waiting thread looks again before it sleeps."""
    code = """
import sys
import ppvit.cli.script, ppvit.pipeline  # what the command and stages/*.py import first
from ppvit.core.process import prepared_process
assert not {"numpy", "torch"} & sys.modules.keys()
with prepared_process():
    import torch
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "GOMP_SPINCOUNT = '4000'" in done.stderr
