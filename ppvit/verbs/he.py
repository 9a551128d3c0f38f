"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The stage is the owner. It starts the trainer as a process of its own, ``python -m ppvit.he.parties``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ppvit.config import Config
from ppvit.core.children import environment_of_child
from ppvit.core.errors import PpvitError
from ppvit.core.process import sigterm_exits
from ppvit.core.temporary import memory_file, temporary_folder
from ppvit.he.ckks.forks import Forks
from ppvit.he.ckks.memory import available_bytes
from ppvit.he.ckks.scheme import sealapi
from ppvit.he.parties import head, owner
from ppvit.he.parties.folders import OwnersFiles
from ppvit.places import Places

# bytes of the owner beside the trainer; it had 658 and 981 MiB of its own with torch, and 266 without
_WITH_TORCH, _WITHOUT = 1200 * 2**20, 400 * 2**20
_TERM_SECONDS = 5  # that the trainer has to end by itself; SEAL may be at something that takes long


def run(config: Config, places: Places) -> None:
    """Be the owner, with the trainer as another process, in a scratch folder.

    The secret key, and the plain features and labels that the owner keeps for the end, are in files in memory that
    the trainer does not inherit: whatever ends this process, no disk has them.

    Args:
        config: ``dataset``, ``encrypt``, ``model`` and ``he`` are used.
        places: ``raw`` and ``embedded`` are read; ``he`` (see :func:`ppvit.he.parties.head.run`) and the result are
            written.

    Raises:
        PpvitError: TenSEAL is not installed, or the trainer was killed.
        SystemExit: the trainer failed, with its exit code, and has said why; or SIGTERM came.
    """
    sealapi()
    with sigterm_exits(), ExitStack() as stack:
        scratch = stack.enter_context(temporary_folder("ppvit-he-"))
        secrets = [stack.enter_context(memory_file(name)) for name in ("secret.key", "kept.safetensors")]
        owners, trainers = OwnersFiles(scratch / "owner", *(path for path in secrets if path)), scratch / "trainer"
        with Forks(lambda _: _KeyMaker(config, places, owners, trainers), 1, apart=True) as forks:
            forks.each("make", None)
        owner.encrypt(config, places, owners, trainers)
        with _trainer(trainers, scratch) as process:
            if config.he.mode == "refresh":
                owner.refresh(owners, trainers, lambda: _require_no_failure(process))
            process.wait()
            _require_no_failure(process)
        head.run(config, places, owners, trainers)


@dataclass(frozen=True)
class _KeyMaker:
    config: Config
    places: Places
    owners: OwnersFiles
    trainers: Path

    def make(self, *_: object) -> None:
        held = _WITH_TORCH if self.config.he.features == "backbone" else _WITHOUT
        owner.make_keys(self.config, self.places, self.owners, self.trainers, max(0, available_bytes() - held))


@contextmanager
def _trainer(folder: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The trainer's process, given its folder and nothing else; it does not outlive the block.

    Its own scratch files are in ours, which goes even where it is killed.
    """
    command = [sys.executable, "-m", "ppvit.he.parties", str(folder)]
    environment = environment_of_child({**os.environ, "TMPDIR": str(scratch)})
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TERM_SECONDS)
            process.kill()


def _require_no_failure(trainer: subprocess.Popen[bytes]) -> None:
    code = trainer.poll() or 0
    if code < 0 or code > 128:  # a shell's way to say it, and ours where the signal could be heard
        signal = -code if code < 0 else code - 128
        raise PpvitError(f"the trainer was ended by signal {signal}; if that was for its memory, lower he.train_images")
    if code:
        raise SystemExit(code)  # it has told its one line already
