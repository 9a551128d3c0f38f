"""Processes that share work: SEAL holds the interpreter lock, so threads gain nothing; keys are inherited, not sent."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ppvit.errors import PpvitError
from ppvit.parallel import available_cpus, requested_workers

Answer = Callable[[Any], Any]


def process_count(tasks: int) -> int:
    """Processes for that many tasks: ``$PPVIT_WORKERS`` or all processors; one where forking is unsafe (macOS)."""
    return max(1, min(requested_workers() or available_cpus(), tasks)) if sys.platform == "linux" else 1


class Forks:
    """Copies of this process that each keep a share of the work until the block ends.

    Args:
        make: called once in every copy with its number; returns the function that answers messages there.
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
            process = context.Process(target=_answer, args=(self._make, number, theirs), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, ours))
        return self

    def __exit__(self, *error: object) -> None:
        for process, pipe in self._running:
            pipe.close()
            process.terminate()
            process.join()

    def ask(self, messages: Sequence[Any]) -> list[Any]:
        """Send one message to every process and wait for all answers; both must be picklable.

        Raises:
            PpvitError: what an answer raised, or a process was killed.
        """
        if self._local is not None:
            return [self._local(message) for message in messages]
        try:
            for (_, pipe), message in zip(self._running, messages, strict=True):
                pipe.send(message)
            answers = [pipe.recv() for _, pipe in self._running]
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise PpvitError(
                "a working process was killed, most likely for its memory; lower he.batch_images"
            ) from None
        for done, value in answers:
            if not done:
                raise PpvitError(value)
        return [value for _, value in answers]


def _answer(make: Callable[[int], Answer], number: int, pipe: Any) -> None:
    try:
        answer = make(number)
        while True:
            pipe.send((True, answer(pipe.recv())))
    except PpvitError as error:
        pipe.send((False, str(error)))
    except (EOFError, KeyboardInterrupt):
        return
