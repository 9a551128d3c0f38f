"""The verb that begins a project of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.answers import Answer
from ppvit.cli.base import app


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder, which need not exist.", metavar="FOLDER")],
) -> Answer:
    """Begin a project: dvc.yaml, params.yaml, stages, the embedded weights, in a folder of git and DVC."""
    from ppvit.cli.template import make_project

    make_project(folder)
    typer.echo(f'next: cd {folder} && git add -A && git commit -m "ppvit init" && dvc repro', err=True)
    return Answer({"folder": folder}, [str(folder)])
