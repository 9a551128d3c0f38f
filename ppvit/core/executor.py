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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cache
from importlib.metadata import version
from itertools import islice
from typing import Any, Self, TypeVar

import cloudpickle

from ppvit.core.engines import Backend, Dask, Here, Ray
from ppvit.core.errors import PpvitError
from ppvit.core.workers import clustered

Result = TypeVar("Result")

_TRIES = 3  # of a task whose worker is killed
_DECISIVE = ("ppvit", "numpy", "pillow", "scipy", "torchvision")  # packages whose versions can change what a task gives


class Executor:
    """Processes that work at tasks.

    Args:
        processes: on this machine; with one the work is done in this very process. A cluster is asked for as many tasks
            at a time as it has processors, or ``$PPVIT_WORKERS``.

    They start with the first task and end with the block.

    Raises:
        UsageError: an engine that there is not, or no address of it.
        PpvitError: it is not installed, does not answer, or has no worker.
    """

    def __init__(self, processes: int) -> None:
        self._engine, self._processes = clustered(), processes
        self._backend: Backend | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._backend is not None:
            self._backend.close(kind is not None)

    def each(self, function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """The function's value for the arguments of every task, in their order.

        Tasks are taken as they are needed, in this thread: at most twice as many as there are processes are under way.
        A task whose worker is killed is done again, so doing it twice must do no harm.

        Raises:
            PpvitError: what the function raises; workers are killed again and again, or have other packages.
        """
        if not self._engine and self._processes < 2:
            yield from (function(*arguments) for arguments in tasks)
            return
        if self._backend is None:
            self._backend = {"": Here, "dask": Dask, "ray": Ray}[self._engine](self._processes)
        remaining, under_way = iter(tasks), deque[_Window]()
        try:
            while window := list(islice(remaining, self._backend.at_once)):
                under_way.append(_Window(self._backend, [Task(function, arguments) for arguments in window]))
                if len(under_way) == 2:
                    yield from under_way[0].results()
                    under_way.popleft()
            for each in under_way:
                yield from each.results()
        finally:
            for each in under_way:
                each.close()


class _Window:
    """Tasks that are under way together, of which the results of the first have been taken."""

    def __init__(self, backend: Backend, tasks: list[Task]) -> None:
        self._backend, self._tasks = backend, tasks
        self._results = self._begin()

    def _begin(self) -> Iterator[Any]:
        try:
            return self._backend.begin(self._tasks)
        except self._backend.killed as error:  # while an earlier window is under way, whose results come first
            return _raising(error)

    def results(self) -> Iterator[Any]:
        tries = 1
        while self._tasks:
            try:
                result = next(self._results)
            except self._backend.killed as error:
                if tries == _TRIES:
                    raise PpvitError(
                        f"workers were killed {_TRIES} times, probably since memory is short; lower PPVIT_WORKERS"
                    ) from error
                tries += 1
                self._results = self._begin()
                continue
            tries = 1
            del self._tasks[0]
            yield result.value()

    def close(self) -> None:
        """Give up what has not been taken; here, since joblib minds in which thread that is."""
        if isinstance(self._results, Generator):
            self._results.close()


def _raising(error: Exception) -> Iterator[Any]:
    yield from ()
    raise error


class Task:
    """A function and its arguments as bytes, which are opened where they are called.

    The call gives the function's value, or the error that it ended in, as :class:`Outcome`: engines would put an error
    into the text of a traceback.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._name, self._versions = function.__name__, _versions()
        self._call: bytes = cloudpickle.dumps((function, arguments))

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __call__(self) -> Outcome:
        try:
            _require_same(self._versions)
            function, arguments = cloudpickle.loads(self._call)
            return Outcome(function(*arguments))
        except Exception as error:
            if not isinstance(error, PpvitError):
                error.add_note("".join(traceback.format_exception(error)))
            return Outcome(error, failed=True)


class Outcome:
    """What a task came to, as bytes: what an attack finds can be a key, too."""

    def __init__(self, value: Any, failed: bool = False) -> None:
        self._value: bytes = cloudpickle.dumps(value)
        self._failed = failed

    def value(self) -> Any:
        """The value, or its error raised."""
        value = cloudpickle.loads(self._value)
        if self._failed:
            raise value
        return value


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in _DECISIVE}


def _require_same(wanted: dict[str, str]) -> None:
    if wanted != (own := _versions()):
        apart = ", ".join(
            f"{name} {own[name]} in place of {wanted[name]}" for name in wanted if own[name] != wanted[name]
        )
        raise PpvitError(f"worker {os.uname().nodename} has {apart}; install the same on all machines")
