"""Work that several processes of one stage share, such as torchrun starts: who does what, and what all of them know.

What a batch gives depends on the batch alone, so whoever computes it, all get what one process would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.workers import training_hosts, training_processes

Item = TypeVar("Item")
Result = TypeVar("Result")

# where launchers write how many processes they start: torchrun and Kubernetes, Open MPI, MPICH, MVAPICH
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def join() -> tuple[int, int]:
    """Rank of this process and number of all that share the work, once they have met; (0, 1) alone."""
    if _said("WORLD_SIZE") < 2:
        return 0, 1
    from accelerate import PartialState  # training goes on with the same state

    from ppvit.core.device import device

    if cpu := device().type == "cpu":  # unless it is told so, accelerate lets each of them work for itself
        os.environ["ACCELERATE_USE_CPU"] = "1"
    state = PartialState(cpu=cpu)
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this is the process that writes."""
    return join()[0] == 0


def require_as_asked(processes: int) -> None:
    """Refuse to work in another number of processes than whoever started them asked for.

    Raises:
        UsageError: says who asked for how many.
    """
    asked = {name: _said(name) for name in _SIZES}
    if (each := training_processes()) is not None:
        asked["PPVIT_PROCESSES"] = each * training_hosts()
    if (tasks := _said("SLURM_STEP_NUM_TASKS")) != training_hosts():  # else srun starts one on every host, as is right
        asked["srun"] = tasks
    for who, number in asked.items():
        if number > 0 and number != processes and (number > 1 or who == "PPVIT_PROCESSES"):
            _refuse(f"{who} asks for {number} processes", processes)
    # `accelerate launch` on a CPU tells where to meet, and starts one process whatever it was asked for
    told = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ
    if processes == 1 and told:
        _refuse("accelerate launch was asked for several processes", processes)


def require_alone(stage: str) -> None:
    """Refuse to run what is not shared in several processes, which would write the same files.

    Raises:
        UsageError: names the stage.
    """
    if max(map(_said, _SIZES)) > 1:
        raise UsageError(f"{stage} shares no work with other processes of torchrun or mpirun; start it without them")


def _said(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 9 else 0


def _refuse(asked: str, processes: int) -> None:
    worked = "1 works" if processes == 1 else f"{processes} work"
    raise UsageError(
        f"{asked}, and {worked} here; start the stage alone with PPVIT_PROCESSES set, or with torchrun "
        "--nproc-per-node (docs/clusters.md)"
    )


def by_all(items: Sequence[Item], compute: Callable[[Iterable[Item]], Iterator[Result]]) -> Iterator[Result]:
    """What ``compute`` gives for all items in their order; process r of n computes each n-th of them from r on.

    Args:
        items: the same in all processes.
        compute: gives one result an item, one after another, on the CPU; results go from process to process.
    """
    rank, world = join()
    own = compute(items[rank::world])
    if world == 1:
        yield from own
        return
    from torch.distributed import all_gather_object

    for start in range(0, len(items), world):
        gathered: list[Any] = [None] * world
        all_gather_object(gathered, next(own) if start + rank < len(items) else None)
        yield from gathered[: len(items) - start]


def from_main(value: Result) -> Result:
    """The main process's value, in all of them."""
    _, world = join()
    if world == 1:
        return value
    from torch.distributed import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def require_alike(value: object, told: str) -> None:
    """Refuse to go on where the processes are not at one.

    Raises:
        PpvitError: what is told, in all of them.
    """
    _, world = join()
    if len(set(by_all(range(world), lambda own: (value for _ in own)))) > 1:
        raise PpvitError(told)


def leave() -> None:
    """Part from the other processes, where there were any; what is not parted from complains at its end."""
    torch = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        torch.destroy_process_group()
