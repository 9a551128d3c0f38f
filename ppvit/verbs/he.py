"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The stage starts the parties one after another, each as a process of its own, ``python -m ppvit.he.parties``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from ppvit.config import Config
from ppvit.core.children import environment_of_child
from ppvit.core.errors import PpvitError
from ppvit.core.process import sigterm_exits
from ppvit.core.temporary import memory_file, temporary_folder
from ppvit.he.ckks.scheme import sealapi
from ppvit.he.parties.folders import OwnersFiles
from ppvit.places import Places

Process = subprocess.Popen[str]
_POLL_SECONDS = 0.2  # at most this passes before a helper's failure is seen
_TERM_SECONDS = 5  # that a party has to end by itself; SEAL may be at something that takes long


def run(config: Config, places: Places) -> None:
    """Run all parties, each as a process of its own, in a scratch folder.

    The secret key, and the plain features and labels that the owner keeps for the end, are in files in memory that the
    owner's processes alone inherit: whatever ends this process, no disk has them.

    Args:
        config: ``dataset``, ``encrypt``, ``model`` and ``he`` are used.
        places: ``raw`` and ``embedded`` are read; ``he`` (see :func:`ppvit.he.parties.head.run`) and the result are
            written.

    Raises:
        PpvitError: TenSEAL is not installed.
        SystemExit: a party failed, with its exit code, and has said why; or SIGTERM came.
    """
    sealapi()
    with sigterm_exits(), ExitStack() as stack:
        scratch = stack.enter_context(temporary_folder("ppvit-he-"))
        secrets = [stack.enter_context(memory_file(name)) for name in ("secret.key", "kept.safetensors")]
        trainer = scratch / "trainer"
        task = _task(config, places, OwnersFiles(scratch / "owner", *(path for path in secrets if path)), trainer)
        inherited = tuple(int(path.name) for path in secrets if path)
        # parties keep their own scratch files in ours, which goes even where one of them is killed
        environment = environment_of_child({**os.environ, "TMPDIR": str(scratch)})
        parties: list[Process] = []

        def start(verb: str, *paths: Path) -> Process:
            command = [sys.executable, "-m", "ppvit.he.parties", verb, *map(str, paths)]
            if paths:  # the trainer is given its folder and nothing else
                parties.append(subprocess.Popen(command, env=environment, text=True, stdin=subprocess.DEVNULL))
                return parties[-1]
            party = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, pass_fds=inherited)
            parties.append(party)
            assert party.stdin is not None
            with suppress(BrokenPipeError), party.stdin:  # it has failed already and said why
                party.stdin.write(task)
            return party

        try:
            _wait(start("keys"))
            _wait(start("encrypt"))
            helper = start("refresh") if config.he.mode == "refresh" else None
            _wait(start("train", trainer), helper)
            _wait(start("decrypt"))
        finally:  # no party outlives us, nor the folders that it works in
            for each in parties:
                _end(each)


def _task(config: Config, places: Places, owner: OwnersFiles, trainer: Path) -> str:
    """What the owner's parties read from their standard input, as JSON."""
    paths = {"places": asdict(places), "owner": asdict(owner), "trainer": trainer}
    return json.dumps({"config": config.model_dump(mode="json", exclude_unset=True), **paths}, default=str)


def _end(party: Process) -> None:
    party.terminate()
    try:
        party.wait(_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        party.kill()
        party.wait()


def _wait(process: Process, helper: Process | None = None) -> None:
    """Wait until a party is done, or the helper that it waits for has failed."""
    while (code := process.poll()) is None and not (helper is not None and (code := helper.poll())):
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    if code < 0:
        raise PpvitError(f"a party was killed by signal {-code}; if that was for its memory, lower he.train_images")
    if code:
        raise SystemExit(code)  # the party has told its one line already
