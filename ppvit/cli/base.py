"""The command itself, and the options that its verbs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppvit import __version__
from ppvit.cli import completion

if TYPE_CHECKING:
    from ppvit.config import Config

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fine-tune pretrained Vision Transformers on images encrypted with a secret key.

    `dvc repro` runs all stages and caches them; the verbs here run one stage as it stands, whatever the cache says.
    """
    if debug:
        os.environ["PPVIT_DEBUG"] = "1"
    if version:
        print(f"ppvit {__version__}")
        raise typer.Exit


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-S", metavar="NAME=VALUE", help="Override a parameter.", autocompletion=completion.override),
]
Params = Annotated[Path, typer.Option("--params", help="The parameter file.")]
PARAMS = Path("params.yaml")


def load(params: Path, overrides: list[str] | None) -> Config:
    """The checked parameters."""
    from ppvit import config

    return config.load(params, overrides or [])


def load_fitting(params: Path, overrides: list[str] | None) -> Config:
    """The same, and values go with the cipher, as stages of the owner have it checked before they begin."""
    from ppvit.config.fitting import require_encryptable

    config = load(params, overrides)
    require_encryptable(config)
    return config
