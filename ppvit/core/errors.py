"""The one kind of error a user sees: a single line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ppvit.core.shortages import shortage


class PpvitError(Exception):
    """Something the user can put right. Its message is one line: what was wrong, where, and the remedy."""

    exit_code = 1


class UsageError(PpvitError):
    """A parameter, option or argument that cannot be used; exit code 2."""

    exit_code = 2


class MissingPackage(PpvitError):
    """What would read a file is not installed, which says nothing of the file: it is never passed over as a bad one."""


_PIPE_CLOSED = 141  # of the shell, for a tool that SIGPIPE ended


def printable(text: str) -> str:
    """``text`` in one line without control characters: what others wrote must not steer the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


_ADDRESS = re.compile(r" ?<[\w.]+(?: object)? at 0x[0-9a-f]+>")
_DAMAGED = (
    LookupError,
    AttributeError,
    struct.error,
)  # what readers stumble over: their words are of code, not of files


def brief(error: BaseException) -> str:
    """Why another library did not read a file, in one line of at most 200 characters that a person can use."""
    text = _ADDRESS.sub("", " ".join(str(error).split()))
    if isinstance(error, _DAMAGED) or not re.search(r"[^\W\d_]{3}", text):
        return "it is damaged or cut short"
    return text if len(text) < 200 else text[:200] + " ..."


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can put right into one line on stderr and an exit code.

    ``PPVIT_DEBUG=1`` prints the traceback as well. Anything that is neither a :class:`PpvitError`, nor an unusable
    file, nor something that the machine has run out of is a defect of ours and keeps its traceback. Where nobody reads
    what is printed any more (``ppvit list ciphers | head -1``), the process ends quietly.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except Exception as error:
        unread = isinstance(error, BrokenPipeError) and _nobody_reads()
        _discard_unwritable()
        if unread:
            raise SystemExit(_PIPE_CLOSED) from None
        if (line := told(error)) is None:
            raise
        if os.environ.get("PPVIT_DEBUG") == "1":
            traceback.print_exc()
        say(f"error: {line}")
        if shortage(error) is not None:  # what libraries have half made for want of it would complain at its end
            sys.unraisablehook = _silent
        raise SystemExit(error.exit_code if isinstance(error, PpvitError) else 1) from None


def _silent(_: object) -> None:
    """In place of what prints exceptions that nothing can catch."""


def say(line: str) -> None:
    """Print one line on stderr, if anybody is there to read it."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def told(error: Exception) -> str | None:
    """What a user is told of an error, in one line; None where it is a defect of ours."""
    if isinstance(error, PpvitError):
        return str(error)
    reason = shortage(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {reason or f'{error.strerror}; check it and run again'}"
    return reason


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed, and not some other pipe was meant."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _discard_unwritable() -> None:
    """Give up what standard output does not take: at its end the interpreter would try again, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
