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

from ppvit.config import Config, complete
from ppvit.core.errors import PpvitError
from ppvit.he.ckks.scheme import sealapi
from ppvit.places import Places

_POLL_SECONDS = 0.2  # at most this passes before a helper's failure is seen


def run(config: Config, places: Places) -> None:
    """Run all parties, each as a process of its own, in a scratch folder.

    Args:
        config: ``dataset``, ``encrypt``, ``model`` and ``he`` are used.
        places: ``raw`` and ``embedded`` are read; ``he`` (see :func:`ppvit.he.parties.head.run`) and the result are
            written.

    Raises:
        PpvitError: TenSEAL is not installed.
        SystemExit: a party failed, with its exit code, and has said why; or SIGTERM came.
    """
    sealapi()
    with sigterm_exits(), tempfile.TemporaryDirectory(prefix="ppvit-he-") as scratch:
        owner, trainer = Path(scratch) / "owner", Path(scratch) / "trainer"
        params = Path(scratch) / "params.yaml"
        params.write_text(yaml.safe_dump(complete(config).model_dump()))
        mine = ["--params", params, "--raw", places.raw, "--embedded", places.embedded]
        mine += ["--owner", owner, "--trainer", trainer]
        # parties keep their own scratch files in ours, which goes even where one of them is killed
        environment = {**os.environ, "TMPDIR": scratch}
        parties: list[subprocess.Popen] = []

        def start(verb: str, *arguments: str | Path) -> subprocess.Popen:
            command = [sys.executable, "-m", "ppvit.cli", "he", verb, *map(str, arguments)]
            parties.append(subprocess.Popen(command, env=environment))
            return parties[-1]

        try:
            _wait(start("keys", *mine, "--train-here"))
            _wait(start("encrypt", *mine))
            helper = start("refresh", "--owner", owner, "--trainer", trainer) if config.he.mode == "refresh" else None
            _wait(start("train", "--trainer", trainer), helper)
            _wait(start("decrypt", *mine, "--he", places.he, "--results", places.results))
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
