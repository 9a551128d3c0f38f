"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The parties are separate processes with files between them: ``ppvit he keys | encrypt | train | refresh | decrypt``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from ppvit.config import Config
from ppvit.errors import PpvitError
from ppvit.he.ckks import sealapi


def run(config: Config, raw: Path, embedded: Path, out: Path, result: Path) -> None:
    """Run all parties, each as a process of its own, in a scratch folder.

    Args:
        config: ``dataset``, ``encrypt``, ``model`` and ``he`` are used.
        raw: folder that `download` wrote.
        embedded: weights of the embedded backbone.
        out: folder of the decrypted head, see :func:`ppvit.he.head.run`.
        result: JSON of the figures.

    Raises:
        PpvitError: TenSEAL is not installed, or a party failed; its own message stands above.
    """
    sealapi()
    with tempfile.TemporaryDirectory(prefix="ppvit-he-") as scratch:
        owner, trainer = Path(scratch) / "owner", Path(scratch) / "trainer"
        params = Path(scratch) / "params.yaml"
        params.write_text(yaml.safe_dump(config.model_dump()))
        mine = ["--params", params, "--raw", raw, "--owner", owner, "--trainer", trainer]
        _call("keys", *mine)
        _call("encrypt", *mine, "--embedded", embedded)
        helper = _start("refresh", "--owner", owner, "--trainer", trainer) if config.he.mode == "refresh" else None
        try:
            _call("train", "--trainer", trainer)
        finally:
            if helper is not None:
                helper.terminate()
                helper.wait()
        _call("decrypt", *mine, "--embedded", embedded, "--out", out, "--result", result)


def _start(verb: str, *arguments: str | Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ppvit.cli", "he", verb, *map(str, arguments)])


def _call(verb: str, *arguments: str | Path) -> None:
    if code := _start(verb, *arguments).wait():
        raise PpvitError(f"ppvit he {verb} ended with exit code {code}; its message stands above")
