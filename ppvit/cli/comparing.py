"""``ppvit compare``: experiments, commits and folders side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ppvit.cli.answers import Answer, Table
from ppvit.cli.base import app
from ppvit.core.errors import PpvitError, say
from ppvit.core.files import atomic_output

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
    format: Annotated[Literal["table", "csv", "html"], typer.Option("--format", help="How to show them.")] = "table",
    out: Annotated[
        Path | None,
        typer.Option(help=f"File to write, instead of the terminal; html is always a file.  [default: {PAGE}]"),
    ] = None,
) -> Answer:
    """Compare runs: the parameters that differ, the figures, accuracy against leak."""
    from ppvit.report.comparison import compare
    from ppvit.report.experiments import gather

    runs = gather(what or [])
    for run in runs:
        for remark in run.remarks:
            say(remark)
    if not any(run.figures for run in runs) and not what:
        raise PpvitError(
            "there is nothing to compare yet: no run here has figures; begin with dvc repro or dvc exp run"
        )
    comparison = compare(runs, sort, reverse)
    if not what and not any(run.kind == "experiment" for run in runs):
        say("there are no experiments yet; make one: dvc exp run -S finetune.rank=4")
    document = comparison.document()
    rows = comparison.rows(every)
    if format == "table" and out is None:
        star = ["* no other run is at least as accurate, leaks at most as much, and is better in one of these"]
        told = star if any(row[-1] for row in rows[1:]) else []
        return Answer(document, [*_plain(rows), *told], Table(rows[0], rows[1:]), told)
    text = "\n".join([*_plain(rows), ""])
    if format != "table":
        text = comparison.as_csv() if format == "csv" else comparison.as_page()
        if out is None and format == "csv":
            return Answer(document, text.splitlines())
    path = out or PAGE
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Answer({**document, "written": path}, [str(path)])


def _plain(rows: list[tuple[str, ...]]) -> list[str]:
    """The table as lines with its titles, columns apart by two spaces."""
    return Table((), rows).lines()
