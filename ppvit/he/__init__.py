"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The parties are separate processes with files between them: ``ppvit he keys | encrypt | train | refresh | decrypt``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import yaml

from ppvit.config import Config
from ppvit.he.scheme import sealapi

_POLL_SECONDS = 0.2  # at most this passes before a helper's failure is seen


def run(config: Config, raw: Path, embedded: Path, out: Path, result: Path) -> None:
    """Run all parties, each as a process of its own, in a scratch folder.

    Args:
        config: ``dataset``, ``encrypt``, ``model`` and ``he`` are used.
        raw: folder that `download` wrote.
        embedded: weights of the embedded backbone.
        out: folder of the decrypted head, see :func:`ppvit.he.head.run`.
        result: JSON of the figures.

    Raises:
        PpvitError: TenSEAL is not installed.
        SystemExit: a party failed, with its exit code, and has said why.
    """
    sealapi()
    with tempfile.TemporaryDirectory(prefix="ppvit-he-") as scratch:
        owner, trainer = Path(scratch) / "owner", Path(scratch) / "trainer"
        params = Path(scratch) / "params.yaml"
        params.write_text(yaml.safe_dump(config.model_dump()))
        mine = ["--params", params, "--raw", raw, "--owner", owner, "--trainer", trainer]
        _call("keys", *mine, "--embedded", embedded)
        _call("encrypt", *mine, "--embedded", embedded)
        helper = _start("refresh", "--owner", owner, "--trainer", trainer) if config.he.mode == "refresh" else None
        _wait(_start("train", "--trainer", trainer), helper)
        _call("decrypt", *mine, "--embedded", embedded, "--out", out, "--result", result)


def _start(verb: str, *arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ppvit.cli", "he", verb, *map(str, arguments)])


def _call(verb: str, *arguments: str | Path) -> None:
    _wait(_start(verb, *arguments))


def _wait(process: subprocess.Popen, helper: subprocess.Popen | None = None) -> None:
    """Wait until a party is done; it never outlives us, nor waits for a helper that has failed."""
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_POLL_SECONDS)
                break
            if helper is not None and (code := helper.poll()):
                break
    finally:
        for each in filter(None, (process, helper)):
            each.terminate()
            each.wait()
    if code:
        raise SystemExit(code)  # the party has told its one line already
