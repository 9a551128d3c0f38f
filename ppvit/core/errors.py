"""The one kind of error a user sees: a single line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class PpvitError(Exception):
    """Something the user can put right. Its message is one line: what was wrong, where, and the remedy."""

    exit_code = 1


class UsageError(PpvitError):
    """A parameter, option or argument that cannot be used; exit code 2."""

    exit_code = 2


def printable(text: str) -> str:
    """``text`` in one line without control characters: what others wrote must not steer the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can put right into one line on stderr and an exit code.

    ``PPVIT_DEBUG=1`` prints the traceback as well. Anything that is neither a :class:`PpvitError` nor an unusable file
    is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except (PpvitError, OSError) as error:
        if isinstance(error, PpvitError):
            told, exit_code = str(error), error.exit_code
        elif error.filename is not None:
            told, exit_code = f"{error.filename}: {error.strerror}; check it and run again", 1
        else:  # names no file, so that the user cannot put it right
            raise
        if os.environ.get("PPVIT_DEBUG") == "1":
            traceback.print_exc()
        print(f"error: {printable(told)}", file=sys.stderr)
        raise SystemExit(exit_code) from None
    except KeyboardInterrupt:
        print("stopped by the user", file=sys.stderr)
        raise SystemExit(130) from None
