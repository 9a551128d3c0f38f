"""The verb that begins a project of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.answers import Answer
from ppvit.cli.base import app
from ppvit.core.errors import UsageError, say


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The folder, which need not exist.", metavar="FOLDER")],
) -> Answer:
    """Begin a project: dvc.yaml, params.yaml, stages, the embedded weights, in a folder of git and DVC."""
    from ppvit.cli.template import make_project

    if not name.strip():  # as of an unset variable of the shell; a path would take it for the working folder
        raise UsageError("the name of the folder is empty; give one, such as my-project, or . for the working folder")
    folder = Path(name)
    make_project(folder)
    there = shlex.quote(f"./{folder}" if name.startswith("-") else str(folder))
    say(f'next: cd {there} && git add -A && git commit -m "ppvit init" && dvc repro')
    return Answer({"folder": folder}, [str(folder)])
