"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The parties are separate processes with files between them: ``ppvit he keys | encrypt | train | refresh | decrypt``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from ppvit.config import Config
from ppvit.errors import PpvitError
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
        SystemExit: a party failed, with its exit code, and has said why; or SIGTERM came.
    """
    sealapi()
    with sigterm_exits(), tempfile.TemporaryDirectory(prefix="ppvit-he-") as scratch:
        owner, trainer = Path(scratch) / "owner", Path(scratch) / "trainer"
        params = Path(scratch) / "params.yaml"
        params.write_text(yaml.safe_dump(config.model_dump()))
        mine = ["--params", params, "--raw", raw, "--owner", owner, "--trainer", trainer]
        # parties keep their own scratch files in ours, which goes even where one of them is killed
        environment = {**os.environ, "TMPDIR": scratch}
        parties: list[subprocess.Popen] = []

        def start(verb: str, *arguments: str | Path) -> subprocess.Popen:
            command = [sys.executable, "-m", "ppvit.cli", "he", verb, *map(str, arguments)]
            parties.append(subprocess.Popen(command, env=environment))
            return parties[-1]

        try:
            _wait(start("keys", *mine, "--embedded", embedded, "--train-here"))
            _wait(start("encrypt", *mine, "--embedded", embedded))
            helper = start("refresh", "--owner", owner, "--trainer", trainer) if config.he.mode == "refresh" else None
            _wait(start("train", "--trainer", trainer), helper)
            _wait(start("decrypt", *mine, "--embedded", embedded, "--out", out, "--result", result))
        finally:  # no party outlives us, nor the folders that it works in
            for each in parties:
                each.terminate()
                each.wait()


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """While this lasts SIGTERM ends the process as an error does: folders of secrets are removed, processes ended."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(process: subprocess.Popen, helper: subprocess.Popen | None = None) -> None:
    """Wait until a party is done, or the helper that it waits for has failed."""
    while (code := process.poll()) is None and not (helper is not None and (code := helper.poll())):
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    if code < 0:
        raise PpvitError(f"a party was killed by signal {-code}; if that was for its memory, lower he.train_images")
    if code:
        raise SystemExit(code)  # the party has told its one line already
