"""``ppvit compare``: experiments, commits and folders side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ppvit.cli.base import app
from ppvit.core.errors import PpvitError, printable, say

PAGE = Path("results/compare.html")


@app.command()
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of results, experiments, commits, tags, branches, or `workspace`. By default the workspace, "
            "HEAD, and every experiment.",
            metavar="[WHAT]...",
            show_default=False,
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="NAME", help="Figure or parameter; the best comes first.")
    ] = "",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All figures in the table, not the main ones.")] = False,
    format: Annotated[
        Literal["table", "csv", "html", "json"], typer.Option("--format", help="How to show them.")
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help=f"File to write, instead of the terminal; html is always a file.  [default: {PAGE}]"),
    ] = None,
) -> None:
    """Compare runs: the parameters that differ, the figures, accuracy against leak.

    ppvit compare --sort accuracy;  ppvit compare main my-branch exp-a1b2c;  ppvit compare grid/*
    """
    from ppvit.report.comparison import compare
    from ppvit.report.experiments import gather

    runs = gather(what or [])
    if not any(run.figures for run in runs) and not what:
        raise PpvitError(
            "there is nothing to compare yet: no run here has figures; begin with dvc repro or dvc exp run"
        )
    comparison = compare(runs, sort, reverse)
    for run in runs:
        for remark in run.remarks:
            say(remark)
    kind = "json" if as_json else format
    if kind == "table" and out is None:
        _print_table(comparison.rows(every))
    else:
        texts = {"csv": comparison.as_csv, "json": comparison.as_json, "html": comparison.as_page}
        text = texts[kind]() if kind != "table" else _plain(comparison.rows(every))
        if out is None and kind != "html":
            print(text, end="")
        else:
            _write(out or PAGE, text)
    if not what and not any(run.kind == "experiment" for run in runs):
        say("there are no experiments yet; make one: dvc exp run -S finetune.rank=4")


def _write(path: Path, text: str) -> None:
    from ppvit.core.files import atomic_output

    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(path)


def _plain(rows: list[tuple[str, ...]]) -> str:
    """The table as lines, columns apart by two spaces."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """On a terminal a table that folds where it is too wide; elsewhere one line a run."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        print(_plain(rows), end="")
    else:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in rows[0]:
            table.add_column(Text(title), overflow="fold")
        for row in rows[1:]:
            table.add_row(*map(Text, map(printable, row)))
        console.print(table)
    if any(row[-1] for row in rows[1:]):
        print("* no other run is at least as accurate, leaks at most as much, and is better in one of these")
