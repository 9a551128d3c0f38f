"""The verb that opens the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.answers import Answer
from ppvit.cli.base import app


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of this machine.", min=1024, max=65535)] = 8080,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    weights: Annotated[Path | None, typer.Option(help="Weights of the embedded model.", show_default=False)] = None,
) -> Answer:
    """Open a local page: draw a digit, encrypt it, see what models say and what attackers recover (owner)."""
    from ppvit.config import load
    from ppvit.places import EMBEDDED, Places
    from ppvit.report.demo.page import serve

    own = Places.of(load(None)).embedded
    serve(weights or (own if own.exists() else EMBEDDED), port, browser)
    return Answer({"address": f"http://127.0.0.1:{port}"})
