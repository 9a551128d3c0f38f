"""What a verb says at its end: text for people, or with ``--json`` one JSON document on standard output.

A verb returns an :class:`Answer`; :func:`answering` gives it the option. All else that is printed while ``--json`` is
given, by ppvit, libraries and processes that it starts, goes to standard error.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from ppvit.core.errors import UsageError, printable, told

_GAP = 2  # spaces between the columns of a table off a terminal


@dataclass(frozen=True)
class Table:
    """Rows under titles; drawn by rich on a terminal, aligned text elsewhere, which tools read line by line.

    Attributes:
        titles: of the columns; shown on a terminal alone.
        rows: texts, as many as titles in each.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Aligned text, a line a row, without titles."""
        rows = [[printable(cell) for cell in row] for row in self.rows]
        widths = [max((len(cell) for cell in column), default=0) + _GAP for column in zip(*rows, strict=True)]
        return ["".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

    def draw(self) -> None:
        """Print it as rich does; on a narrow terminal cells are folded."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in self.titles:
            drawn.add_column(title, overflow="fold")
        for row in self.rows:
            drawn.add_row(*(Text(printable(cell)) for cell in row))  # Text: what others wrote is no markup
        Console(highlight=False).print(drawn)


@dataclass(frozen=True)
class Answer:
    """What a verb has to say at its end.

    Attributes:
        document: for ``--json``: made of what JSON has, paths and dataclasses.
        lines: for people.
        table: for people at a terminal, in place of the lines; without lines it is text elsewhere.
        told: lines below the table.
        code: exit code of the command.
    """

    document: Any
    lines: Sequence[str] = ()
    table: Table | None = None
    told: Sequence[str] = ()
    code: int = 0

    def show(self) -> None:
        """Print it for people."""
        if self.table is not None and self.table.rows and sys.stdout.isatty():
            self.table.draw()
            lines = self.told
        else:
            lines = self.lines or (self.table.lines() if self.table is not None else ())
        if lines:
            print("\n".join(lines))


_JSON = "--json"
AsJson = Annotated[bool, typer.Option(_JSON, help="Print one JSON document, and all else on standard error.")]


def answering(verb: Callable[..., Any]) -> Callable[..., None]:
    """The verb with the option ``--json``, behind its own options, and its answer printed.

    Args:
        verb: returns an :class:`Answer`, or None where it has printed all there is to say.
    """

    @functools.wraps(verb)
    def answers(*args: Any, as_json: bool, **given: Any) -> None:
        context = next((each for each in (*args, *given.values()) if hasattr(each, "invoked_subcommand")), None)
        if context is not None and context.invoked_subcommand:  # a verb of its own, which will answer
            if as_json:
                wrong = f"write options after the verb: {context.command_path} {context.invoked_subcommand}"
                _write(sys.stdout, {"error": wrong})
                raise UsageError(wrong)
            verb(*args, **given)
            return
        answer = _in_json(functools.partial(verb, *args, **given)) if as_json else verb(*args, **given)
        if not isinstance(answer, Answer):
            return
        if not as_json:
            answer.show()
        if answer.code:
            raise typer.Exit(answer.code)

    own = inspect.signature(verb, eval_str=True)
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    signature = own.replace(parameters=[*own.parameters.values(), option], return_annotation=None)
    answers.__signature__ = signature  # type: ignore[attr-defined]  # what typer makes options of
    answers.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return answers


def run_command(app: typer.Typer) -> None:
    """Run the command as its own process; with ``--json`` a wrong option or argument is told in a document as well."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        raise SystemExit(1) from None
    except Exception as error:
        # an error of click, or of what typer has in place of it, by what such errors have
        show, message = getattr(error, "show", None), getattr(error, "format_message", None)
        if show is None or message is None:
            raise
        _tell_where_options_belong(error)
        if _JSON in sys.argv[1:]:
            _write(sys.stdout, {"error": message()})
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _tell_where_options_belong(error: Any) -> None:
    """Have click's error say that an option of verbs stands in front of the verb, where that is what is wrong."""
    context: Any = getattr(error, "ctx", None)
    option = getattr(error, "option_name", "")
    verbs = getattr(getattr(context, "command", None), "commands", {}).values()
    if any(option in parameter.opts for verb in verbs for parameter in verb.params):
        error.message = f"{option} stands before the verb; write options after it: {context.command_path} VERB {option}"
        error.possibilities = []


def _in_json(verb: Callable[[], Any]) -> Any:
    """Run a verb and print its document, or why there is none, which is an object with ``error`` alone."""
    output = sys.stdout
    try:
        with _output_on_stderr():
            answer = verb()
    except Exception as error:
        _write(output, {"error": told(error) or f"{type(error).__name__}: {error}"})
        raise
    except SystemExit as ending:  # of a process that was started, which has said why
        if ending.code:
            _write(output, {"error": f"ended with exit code {ending.code}; standard error says why"})
        raise
    _write(output, answer.document if isinstance(answer, Answer) else {})
    return answer


def _write(output: TextIO, document: Any) -> None:
    if _speaks():
        output.write(json.dumps(document, indent=2, ensure_ascii=False, default=_plain) + "\n")
        output.flush()


def _speaks() -> bool:
    """Whether this process is not one of several that share a stage, of which the first alone answers."""
    return os.environ.get("RANK", "0") == "0" and os.environ.get("TORCHELASTIC_RUN_ID") != "ppvit"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


@contextmanager
def _output_on_stderr() -> Iterator[None]:
    """While this lasts standard output is standard error, for this process and those that it starts."""
    try:
        sys.stdout.flush()
        output, kept = sys.stdout.fileno(), os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), output)
    except (OSError, io.UnsupportedOperation):  # no files, as where tests run the command, or one of them is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, output)
        os.close(kept)
