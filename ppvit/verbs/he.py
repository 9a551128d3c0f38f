"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The stage starts the parties one after another, each as a process of its own, ``python -m ppvit.he.parties``.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.process import sigterm_exits
from ppvit.he.ckks.scheme import sealapi
from ppvit.places import Places

Process = subprocess.Popen[bytes]
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
        owner, trainer, task = (Path(scratch) / name for name in ("owner", "trainer", "owners-task"))
        task.write_bytes(pickle.dumps((config, places, owner, trainer)))
        # parties keep their own scratch files in ours, which goes even where one of them is killed
        environment = {**os.environ, "TMPDIR": scratch}
        parties: list[Process] = []

        def start(verb: str, *paths: Path) -> Process:
            command = [sys.executable, "-m", "ppvit.he.parties", verb, *map(str, paths)]
            parties.append(subprocess.Popen(command, env=environment))
            return parties[-1]

        try:
            _wait(start("keys", task))
            _wait(start("encrypt", task))
            helper = start("refresh", owner, trainer) if config.he.mode == "refresh" else None
            _wait(start("train", trainer), helper)
            _wait(start("decrypt", task))
        finally:  # no party outlives us, nor the folders that it works in
            for each in parties:
                each.terminate()
                each.wait()


def _wait(process: Process, helper: Process | None = None) -> None:
    """Wait until a party is done, or the helper that it waits for has failed."""
    while (code := process.poll()) is None and not (helper is not None and (code := helper.poll())):
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    if code < 0:
        raise PpvitError(f"a party was killed by signal {-code}; if that was for its memory, lower he.train_images")
    if code:
        raise SystemExit(code)  # the party has told its one line already
