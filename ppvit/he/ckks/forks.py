"""Copies of this process that share work: SEAL holds Python's lock, so threads gain nothing.

Copies are forked because they then have the keys, which are the largest thing in memory and stay shared, and which no
pickle could bring them: SEAL's objects have none.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ppvit.core.children import end_with_parent
from ppvit.core.errors import PpvitError
from ppvit.core.workers import available_cpus, requested_workers

Report = Callable[[Any], None]
_REPORT_SECONDS = 0.1  # at most this passes before progress is told

# in a copy: the object that works there, its number, where progress goes, and where all copies meet
_here: tuple[object, int, Any, Any]


def process_count(tasks: int) -> int:
    """Processes for that many tasks: ``$PPVIT_WORKERS`` or all processors; one where forking is unsafe (macOS)."""
    return max(1, min(requested_workers() or available_cpus(), tasks)) if sys.platform == "linux" else 1


class Forks:
    """Copies of this process, made when the block begins, in each of which an object does a part of the work.

    Methods of that object are called by name, ``method(message, report)``, where ``report`` takes what is done on the
    way. Messages, reports and answers must be picklable.

    Args:
        make: called in every copy with its number, from 0; returns the object.
        processes: how many copies; 1 works in this process.
        apart: also where it is one, unless forking is unsafe (macOS). SEAL's pools give no memory back while a process
            lasts, and no signal ends what SEAL is at.
    """

    def __init__(self, make: Callable[[int], object], processes: int, apart: bool = False) -> None:
        self._make, self._processes = make, processes
        self._local = make(0) if processes == 1 and not (apart and sys.platform == "linux") else None

    def __enter__(self) -> Forks:
        if self._local is not None:
            return self
        context = multiprocessing.get_context("fork")
        self._reports, numbers = context.SimpleQueue(), context.SimpleQueue()
        for number in range(self._processes):
            numbers.put(number)
        start = (os.getpid(), self._make, numbers, self._reports, context.Barrier(self._processes))
        self._pool = ProcessPoolExecutor(self._processes, context, _start, start)
        others = multiprocessing.active_children()
        self._pool.submit(int)  # the first task, whatever it is, starts all processes
        self._copies = [each for each in multiprocessing.active_children() if each not in others]
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._local is None:
            if kind is not None:  # nobody waits for what they are at
                for each in self._copies:
                    each.terminate()
            self._pool.shutdown()

    def each(self, method: str, message: Any, report: Report = lambda done: None) -> list[Any]:
        """The answers of all copies to one message, in order of their numbers.

        Args:
            method: name of the method that answers.
            message: what it is given.
            report: called here with what the copies report.

        Raises:
            PpvitError: what an answer raised, in one line, or a process ended without one.
        """
        if self._local is not None:
            return [_told(lambda: getattr(self._local, method)(message, report))]
        futures = [self._pool.submit(_answer_once, method, message) for _ in range(self._processes)]
        return [answer for _, answer in sorted(self._results(futures, report), key=lambda numbered: numbered[0])]

    def map(self, method: str, messages: Sequence[Any], report: Report = lambda done: None) -> list[Any]:
        """The answer to every message, from whichever copy is free; otherwise like :meth:`each`."""
        if self._local is not None:
            return [_told(lambda: getattr(self._local, method)(each, report)) for each in messages]  # noqa: B023
        return self._results([self._pool.submit(_answer, method, each) for each in messages], report)

    def _results(self, futures: list[Future[Any]], report: Report) -> list[Any]:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, _REPORT_SECONDS, FIRST_EXCEPTION)
            while not self._reports.empty():
                report(self._reports.get())
            for future in done:
                try:
                    _told(future.result)
                except BrokenProcessPool:
                    raise self._death() from None
        return [future.result() for future in futures]

    def _death(self) -> PpvitError:
        """What to say of a process that ended; the pool has sent SIGTERM to the others."""
        self._pool.shutdown()
        codes = [each.exitcode for each in self._copies if each.exitcode not in (0, None, -signal.SIGTERM)]
        if codes and codes[0] > 0:
            return PpvitError(f"a working process ended without an answer, exit code {codes[0]}; run again")
        # a signal; the kernel's, where memory ran out
        return PpvitError("a working process was killed, most likely for its memory; lower he.batch_images")


def _told(work: Callable[[], Any]) -> Any:
    """The result; whatever goes wrong is told in one line."""
    try:
        return work()
    except (PpvitError, BrokenProcessPool):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        remedy = "; lower he.batch_images" if isinstance(error, MemoryError) else ""
        raise PpvitError(f"{type(error).__name__} while working on ciphertexts: {text}{remedy}") from error


def _start(first: int, make: Callable[[int], object], numbers: Any, reports: Any, meeting: Any) -> None:
    """In a copy, first."""
    end_with_parent(first)  # it would wait for work for ever
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # end at once, whatever the copied process would have done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the first process alone ends the others
    global _here
    number = numbers.get()
    _here = make(number), number, reports, meeting


def _answer(method: str, message: Any) -> Any:
    worker, _, reports, _ = _here
    return getattr(worker, method)(message, reports.put)


def _answer_once(method: str, message: Any) -> tuple[int, Any]:
    """Number and answer; waits until each copy has taken one such task, so that none takes two."""
    _, number, _, meeting = _here
    meeting.wait()
    return number, _answer(method, message)
