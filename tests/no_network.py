"""No test reaches another machine, nor does what it starts: a plugin of pytest; see `network/sitecustomize.py`."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent / "network"
_TRIES = Path(tempfile.gettempdir(), f"ppvit-tests-network-{os.getpid()}")  # one for each process of xdist

_given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(_FOLDER)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(_FOLDER), *_given])
os.environ["PPVIT_TESTS_NETWORK_TRIES"] = str(_TRIES)
_watch = importlib.util.spec_from_file_location("ppvit_tests_network", _FOLDER / "sitecustomize.py")
_watch.loader.exec_module(importlib.util.module_from_spec(_watch))


def network_tries() -> list[str]:
    """The tries to reach another machine, by this process and those it started, since the last call."""
    try:
        tries = _TRIES.read_text(encoding="utf-8").splitlines()
        _TRIES.unlink()
    except FileNotFoundError:
        return []
    return tries


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """A test in which anything reached for another machine fails, even if an ``except`` swallowed the error."""
    yield
    tries = network_tries()
    assert not tries, f"the network was tried: {tries}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tries of what ends after the last test."""
    if tries := network_tries():
        print(f"\nthe network was tried: {tries}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
