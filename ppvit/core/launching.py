"""Starting a stage in several processes by torch's elastic agent, which `torchrun` runs too, and one line at its end.

``PPVIT_PROCESSES=2 dvc repro`` and ``PPVIT_PROCESSES=2 ppvit finetune`` start the command again, once a process; this
one waits. On several hosts each runs the same command with ``PPVIT_NODES`` and ``PPVIT_RENDEZVOUS``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppvit.core.children import environment_of_child
from ppvit.core.errors import PpvitError, UsageError, told
from ppvit.core.temporary import temporary_folder
from ppvit.core.workers import available_cpus, training_hosts, training_processes

_STARTED = "_STARTED_BY_PPVIT"  # nobody sets it but this module
_MEET_SECONDS = 900  # that hosts wait for each other
_TOGETHER_SECONDS = 5  # failures less apart have one cause
_LOST = re.compile(r"peer|gloo|nccl|socket|store", re.IGNORECASE)  # what processes say when another has ended
_SIGNALLED = 128  # and the number of the signal: how a process of ours ends by one that it heard


def started_here() -> bool:
    """Whether :func:`launch` has started this process; says so once, since what it starts itself is none of them."""
    return os.environ.pop(_STARTED, "") == "1"


def launch(again: str) -> bool:
    """Run this very command in as many processes as ``$PPVIT_PROCESSES`` says, and wait for them.

    Args:
        again: the command that goes on, for messages.

    Returns:
        False where nothing was started, as this process is to do the work.

    Raises:
        UsageError: a variable that cannot be used.
        PpvitError: a process ended otherwise than it should; the others were ended too.
        SystemExit: a process said itself what was wrong.
    """
    processes, hosts = training_processes() or 1, training_hosts()
    if processes * hosts == 1 or "RANK" in os.environ:
        return False
    meeting = _meeting_point(hosts)
    _require_devices(processes)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the agent tells at length what is told here in a line
    os.environ |= {**environment_of_child(), _STARTED: "1"}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with temporary_folder("ppvit-processes-") as folder:
        config = LaunchConfig(
            min_nodes=hosts,
            max_nodes=hosts,
            nproc_per_node=processes,
            # the first process alone speaks; what all have to say would stand there as often as there are processes
            logs_specs=DefaultLogsSpecs(str(folder), redirects={rank: Std.ALL for rank in range(1, processes)}),
            run_id="ppvit",
            rdzv_backend="c10d",
            rdzv_endpoint=meeting,
            rdzv_configs={"timeout": _MEET_SECONDS},
            max_restarts=0,
            local_addr="localhost" if hosts == 1 else None,
            signals_to_handle="",  # ours stay, see ppvit.core.stopping
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as error:
            raise _failure(error.failures, processes * hosts, again) from None
        except RendezvousError as error:
            raise PpvitError(
                f"{hosts} hosts did not meet at {meeting} ({' '.join(str(error).split()) or type(error).__name__}); "
                "start the same command on all of them, with the same PPVIT_RENDEZVOUS"
            ) from None
    return True


def _meeting_point(hosts: int) -> str:
    point = os.environ.get("PPVIT_RENDEZVOUS", "")
    if hosts == 1:
        return "localhost:0"
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", point):
        raise UsageError(
            f"PPVIT_NODES={hosts} needs PPVIT_RENDEZVOUS=HOST:PORT, a port of one of the hosts, the same on all; it "
            f"is '{point[:100]}'"
        )
    return point


def _require_devices(processes: int) -> None:
    import torch

    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    cards = 0 if cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if 0 < cards < processes:
        raise UsageError(
            f"PPVIT_PROCESSES={processes}, and this host has {cards} GPU{'s'[: cards - 1]}; set it lower, or "
            "ACCELERATE_USE_CPU=1"
        )


@contextmanager
def errors_to_launcher() -> Iterator[None]:
    """In a process that :func:`launch` has started: write down what went wrong, for the launcher to tell."""
    try:
        yield
    except Exception as error:
        line = told(error)
        found = {
            "message": line or f"{type(error).__name__}: {error}",
            "trace": "".join(traceback.format_exception(error)),
            "timestamp": int(time.time()),
            "told": line is not None,
            "code": error.exit_code if isinstance(error, PpvitError) else 1,
        }
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(found), encoding="utf-8")
        raise SystemExit(found["code"]) from None


def _failure(failures: Mapping[int, Any], world: int, again: str) -> BaseException:
    """The error to raise for what torch calls ProcessFailure, by rank: that of the process which failed first."""
    first = min(failure.timestamp for failure in failures.values())
    causes = [each for each in failures.items() if each[1].timestamp <= first + _TOGETHER_SECONDS]
    rank, failure = min(causes, key=lambda cause: _distance(cause[1]))
    who, written = f"process {rank} of {world}", _written(failure)
    if os.environ.get("PPVIT_DEBUG") == "1":
        sys.stderr.write(written.get("trace", ""))
    if written.get("told"):
        return (UsageError if written["code"] == UsageError.exit_code else PpvitError)(failure.message)
    if (number := _signal(failure.exitcode)) is not None:
        why = "; it may be that memory is short" if number == signal.SIGKILL else ""
        name = signal.Signals(number).name
        return PpvitError(f"{who} was ended by {name}, and the others with it{why}; to go on, run again: {again}")
    if _LOST.search(failure.message):
        return PpvitError(f"{who} has lost another one, whose host says why; to go on, run again: {again}")
    sys.stderr.write(written.get("trace", ""))  # a defect of ours
    return SystemExit(failure.exitcode)


def _distance(failure: Any) -> int:
    """How far a failure is from the cause: it was told, killed, a defect; it lost its peers, it was ended by us."""
    if _written(failure).get("told"):
        return 0
    if (number := _signal(failure.exitcode)) is not None:
        return 4 if number == signal.SIGTERM else 1
    return 3 if _LOST.search(failure.message) else 2


def _written(failure: Any) -> dict[str, Any]:
    """What :func:`errors_to_launcher` wrote in that process; empty where it was killed."""
    return failure.error_file_data if isinstance(failure.error_file_data, dict) else {}


def _signal(exitcode: int) -> int | None:
    """The signal that ended a process, heard by it or not."""
    if exitcode < 0:
        return -exitcode
    return exitcode - _SIGNALLED if exitcode > _SIGNALLED else None
