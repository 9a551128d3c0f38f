"""The verb that begins a project of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.base import app


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The folder, which need not exist.", metavar="FOLDER")],
) -> None:
    """Begin a project: dvc.yaml, params.yaml, stages, the embedded weights, in a folder of git and DVC.

    For example: ppvit init my-project && cd my-project && dvc repro
    """
    from ppvit.cli.project import make_project

    make_project(folder)
    print(folder)
    typer.echo(f'next: cd {folder} && git add -A && git commit -m "ppvit init" && dvc repro', err=True)
