"""Work done by several processes side by side: of this machine by joblib, or of a cluster by Dask or Ray.

``PPVIT_ENGINE=dask`` or ``ray`` with ``PPVIT_ENGINE_ADDRESS`` sends tasks to a cluster that runs, through joblib's own
backends. Tasks name files by their paths, so all machines need the same folders and packages. Whatever does the work,
results are the same and come in the order of their tasks.

A task travels as bytes that say nothing where a dashboard or a log shows them. No key is among them on the way to a
cluster: :class:`ppvit.ciphers.keys.Key` goes as its id, and every worker finds it in its own key ring.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import Any, Generic, Self, TypeVar

import cloudpickle
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ppvit.core.children import end_with_parent
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.stopping import unheard_by_children
from ppvit.core.workers import clustered, requested_workers

Result = TypeVar("Result")

_TRIES = 3  # of a task whose worker is killed
_CONNECT_SECONDS = 30
_DECISIVE = ("ppvit", "numpy", "pillow", "scipy")  # packages whose versions can change what a task gives


class Executor:
    """Processes that work at tasks.

    Args:
        processes: on this machine; a cluster has as many as it has, but no more than ``$PPVIT_WORKERS``, are asked at a
            time. With one the work is done here.

    They start with the first task and end with the block.

    Raises:
        UsageError: an engine that there is not, or no address of it.
        PpvitError: it is not installed, does not answer, or has no worker.
    """

    def __init__(self, processes: int) -> None:
        self._engine, self._processes = clustered(), processes
        self._stack = ExitStack()
        self._backend: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._backend and not self._engine:
            _shut_down(kill=True)  # nobody waits for what they are at
        self._stack.close()

    def each(self, function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """The function's value for the arguments of every task, in their order.

        Tasks are taken as they are needed, in this thread: twice as many as there are processes are under way. A task
        whose worker is killed is done again, so doing it twice must do no harm.

        Raises:
            PpvitError: what the function raises; workers are killed again and again, or have other packages.
        """
        if not self._engine and self._processes < 2:
            yield from (function(*arguments) for arguments in tasks)
            return
        self._start()
        remaining, under_way = iter(tasks), deque[_Window[Result]]()
        while window := list(islice(remaining, self._processes)):
            under_way.append(_Window(self, [Task(function, arguments) for arguments in window]))
            if len(under_way) == 2:
                yield from under_way.popleft().results()
        while under_way:
            yield from under_way.popleft().results()

    def _start(self) -> None:
        if self._backend:
            return
        if not self._engine:
            # processes of joblib would wait for five minutes for one that was killed
            self._backend = {"backend": "loky", "initializer": end_with_parent, "initargs": (os.getpid(),)}
            self._stack.callback(_shut_down)
            return
        self._backend = {"dask": _dask, "ray": _ray}[self._engine](self._stack)
        with parallel_config(**self._backend):
            self._processes = effective_n_jobs(-1)
        self._processes = min(self._processes, requested_workers() or self._processes)

    def parallel(self) -> Parallel:
        """joblib's, which takes all tasks at once."""
        lazily = "list" if self._engine == "ray" else "generator"  # Ray's backend has no other way
        # arrays go through a pipe, not through files
        options: dict[str, Any] = {"n_jobs": self._processes, "batch_size": 1, "pre_dispatch": "all"}
        with parallel_config(**self._backend, **({} if self._engine else {"max_nbytes": None})):
            return Parallel(**options, return_as=lazily)


class _Window(Generic[Result]):
    """Tasks that are under way together, and what was got of them so far."""

    def __init__(self, executor: Executor, tasks: list[Task]) -> None:
        self._executor, self._tasks = executor, tasks
        self._results: Iterator[Any] = self._begin()

    def _begin(self) -> Iterator[Any]:
        with unheard_by_children():
            return iter(self._executor.parallel()(delayed(task)() for task in self._tasks))

    def results(self) -> Iterator[Result]:
        tries = 1
        while self._tasks:
            try:
                result = next(self._results)
            except TerminatedWorkerError:
                if tries == _TRIES:
                    raise
                tries += 1
                self._results = self._begin()
                continue
            del self._tasks[0]
            if isinstance(result, Failed):
                raise result.error
            yield result


class Task:
    """A function and its arguments as bytes, which are opened where they are called.

    The call gives the function's value, or :class:`Failed`: engines would put an error into the text of a traceback.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._name, self._versions = function.__name__, _versions()
        self._call: bytes = cloudpickle.dumps((function, arguments))

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __call__(self) -> Any:
        try:
            _require_same(self._versions)
            function, arguments = cloudpickle.loads(self._call)
            return function(*arguments)
        except Exception as error:
            if not isinstance(error, PpvitError):
                error.add_note("".join(traceback.format_exception(error)))
            return Failed(error)


class Failed:
    """What a task ended in."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in _DECISIVE}


def _require_same(wanted: dict[str, str]) -> None:
    if wanted != (own := _versions()):
        apart = ", ".join(
            f"{name} {own[name]} in place of {wanted[name]}" for name in wanted if own[name] != wanted[name]
        )
        raise PpvitError(f"worker {os.uname().nodename} has {apart}; install the same on all machines")


def _shut_down(kill: bool = False) -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(kill_workers=kill)


def _address(engine: str, example: str) -> str:
    if not (address := os.environ.get("PPVIT_ENGINE_ADDRESS", "")):
        raise UsageError(f"PPVIT_ENGINE={engine} needs PPVIT_ENGINE_ADDRESS, such as {example}")
    return address


def _dask(stack: ExitStack) -> dict[str, Any]:
    address = _address("dask", "tcp://HOST:8786 or the scheduler's file")
    try:
        from distributed import Client
    except ImportError:
        raise PpvitError("PPVIT_ENGINE=dask needs Dask; pip install 'ppvit[dask]'") from None
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # of images, which are as large as they are
    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = Client(**where, set_as_default=False, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise _silent("dask", address, error) from None
    stack.callback(client.close)
    return {"backend": "dask", "client": client, "wait_for_workers_timeout": _CONNECT_SECONDS}


def _ray(stack: ExitStack) -> dict[str, Any]:
    address = _address("ray", "HOST:6379")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise PpvitError("PPVIT_ENGINE=ray needs Ray; pip install 'ppvit[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, ValueError, RuntimeError) as error:
        raise _silent("ray", address, error) from None
    stack.callback(ray.shutdown)
    register_ray()
    return {"backend": "ray"}


def _silent(engine: str, address: str, error: Exception) -> PpvitError:
    why = " ".join(str(error).split())[:200]
    return PpvitError(
        f"no {engine} cluster answers at PPVIT_ENGINE_ADDRESS={address} ({why}); start it and its workers"
    )
