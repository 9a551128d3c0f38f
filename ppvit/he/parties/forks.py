"""Processes that share work: SEAL holds the interpreter lock, so threads gain nothing; keys are inherited, not sent."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from ppvit.core.errors import PpvitError
from ppvit.core.workers import available_cpus, requested_workers

Answer = Callable[[Any], Iterator[Any]]  # a generator: yields what is done so far, returns the answer
Report = Callable[[Any], None]


def process_count(tasks: int) -> int:
    """Processes for that many tasks: ``$PPVIT_WORKERS`` or all processors; one where forking is unsafe (macOS)."""
    return max(1, min(requested_workers() or available_cpus(), tasks)) if sys.platform == "linux" else 1


class Forks:
    """Copies of this process that each keep a share of the work until the block ends.

    Args:
        make: called once in every copy with its number; returns the generator function that answers messages there.
        processes: how many; 1 works in this process.
    """

    def __init__(self, make: Callable[[int], Answer], processes: int) -> None:
        self._running: list[tuple[Any, Any]] = []
        self._local = make(0) if processes == 1 else None
        self._make, self._processes = make, processes

    def __enter__(self) -> Forks:
        context = multiprocessing.get_context("fork")
        for number in range(self._processes if self._local is None else 0):
            ours, theirs = context.Pipe()
            inherited = [ours, *(pipe for _, pipe in self._running)]
            process = context.Process(target=_answer, args=(self._make, number, theirs, inherited), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, ours))
        return self

    def __exit__(self, *error: object) -> None:
        for process, pipe in self._running:
            pipe.close()
            process.terminate()
            process.join()

    def ask(self, messages: Sequence[Any], report: Report = lambda done: None) -> list[Any]:
        """Send one message to every process and wait for all answers; both must be picklable.

        Args:
            messages: one for each process.
            report: called with everything that an answer yields on its way.

        Raises:
            PpvitError: what an answer raised, or a process ended without one.
        """
        if self._local is not None:
            return [_told(self._local, message, report) for message in messages]
        answers: dict[int, Any] = {}
        for (process, pipe), message in zip(self._running, messages, strict=True):
            try:
                pipe.send(message)
            except (BrokenPipeError, ConnectionResetError):
                raise _death(process) from None
        while len(answers) < len(messages):
            waiting = {pipe: number for number, (_, pipe) in enumerate(self._running) if number not in answers}
            for pipe in wait(list(waiting)):
                number = waiting[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise _death(self._running[number][0]) from None
                if kind == "error":
                    raise PpvitError(value)
                if kind == "done":
                    report(value)
                else:
                    answers[number] = value
        return [answers[number] for number in range(len(messages))]


def _death(process: Any) -> PpvitError:
    process.join()
    if process.exitcode < 0:  # a signal; the kernel's, where memory ran out
        return PpvitError("a working process was killed, most likely for its memory; lower he.batch_images")
    return PpvitError(f"a working process ended without an answer, exit code {process.exitcode}; run again")


def _told(answer: Answer, message: Any, report: Report) -> Any:
    """The answer to a message, what is done on its way reported; whatever goes wrong is told in one line."""
    work = answer(message)
    try:
        while True:
            try:
                done = next(work)
            except StopIteration as end:
                return end.value
            report(done)
    except PpvitError:
        raise
    except Exception as error:
        if os.environ.get("PPVIT_DEBUG") == "1":
            traceback.print_exc()
        text = " ".join(str(error).split())
        remedy = "; lower he.batch_images" if isinstance(error, MemoryError) else ""
        raise PpvitError(f"{type(error).__name__} while working on ciphertexts: {text}{remedy}") from error


def _answer(make: Callable[[int], Answer], number: int, pipe: Any, inherited: list[Any]) -> None:
    for ours in inherited:  # while a copy is open, nobody here learns that the process that asks has died
        ours.close()
    try:
        answer = make(number)
        while True:
            pipe.send(("answer", _told(answer, pipe.recv(), lambda done: pipe.send(("done", done)))))
    except PpvitError as error:
        pipe.send(("error", str(error)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
