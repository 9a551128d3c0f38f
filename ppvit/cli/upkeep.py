"""What a person does by hand with a project: fetch, look at parameters and names, back up, ask how things stand."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli import completion
from ppvit.cli.answers import Answer, Table
from ppvit.cli.base import PARAMS, Overrides, Params, app, load
from ppvit.pipeline.settings import SETTINGS, write_settings


@app.command()
def pull(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages or outputs; all that were pushed by default.",
            metavar="[TARGET]...",
            autocompletion=completion.stage,
        ),
    ] = None,
) -> Answer:
    """Fetch what the other party pushed, as `dvc pull` does, but write nothing elsewhere (owner or trainer)."""
    from ppvit.cli.pulling import pull

    pull(targets or [])
    return Answer({"pulled": targets or "all that was pushed"})


@app.command()
def settings(overrides: Overrides = None, params: Params = PARAMS, out: Path = SETTINGS) -> Answer:
    """Write the parameters that every stage reads under the chosen cipher, method and attacks, for DVC to track."""
    write_settings(load(params, overrides), out)
    return Answer({"settings": out})


@app.command()
def params() -> Answer:
    """Print a params.yaml with every parameter at its default."""
    from ppvit.config import default_yaml, parameters

    document = {name: {"default": default, "says": says} for name, default, says in parameters()}
    return Answer(document, [default_yaml().rstrip("\n")])


@app.command()
def schema() -> Answer:
    """Print the JSON schema of params.yaml, from which editors complete and check it."""
    from ppvit.config.schema import schema, schema_json

    return Answer(schema(), [schema_json().rstrip("\n")])


@app.command()
def recipe(
    name: Annotated[
        str,
        typer.Argument(help="As `ppvit list recipes` has it.", metavar="NAME", autocompletion=completion.recipe),
    ],
) -> Answer:
    """Print a published set-up as overrides, to run it with changes: ``ppvit finetune $(ppvit recipe NAME) -S ...``.

    What the paper does not state, and what is no matter of training, is told beside.
    """
    from ppvit.config import recipes

    found, overrides = recipes.recipe_named(name), list(recipes.overrides(name))
    open_ones = ", ".join(found.unstated) or "nothing"
    several = "; ".join(f"{parameter} {', '.join(map(str, of))}" for parameter, of in found.choices.items())
    for line in (f"source: {found.source}", f"not stated: {open_ones}", f"several: {several or 'none'}"):
        typer.echo(line, err=True)
    typer.echo(f"not here: {found.lacks}", err=True)
    document = {
        **{"recipe": name, "overrides": overrides, "source": found.source, "not_stated": list(found.unstated)},
        **{"several": {parameter: list(of) for parameter, of in found.choices.items()}, "not_here": found.lacks},
    }
    return Answer(document, [" ".join(f"-S {override}" for override in overrides)])


@app.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="ciphers, methods, recipes, attacks (of audit), datasets, augmentations or algorithms (of he).",
            metavar="KIND",
            autocompletion=completion.kind,
        ),
    ],
) -> Answer:
    """Print the names that a parameter takes, with a sentence on each."""
    from ppvit.cli.names import described

    rows = described(kind)
    width = max(len(names) for names, _ in rows if len(names) <= 24)
    indent = " " * (width + 2)
    text = []
    for names, sentence in rows:
        lines = textwrap.wrap(sentence, 120, initial_indent=indent, subsequent_indent=indent)
        if len(names) > width:  # many data sets of one kind
            text += textwrap.wrap(names, 120)
        else:
            lines[0] = f"{names:<{width}}  {lines[0].strip()}"
        text += lines
    document = [{"name": name, "says": sentence} for names, sentence in rows for name in names.split(", ")]
    return Answer(document, text, Table((kind, ""), rows))


@app.command()
def backup(
    remote: Annotated[
        str,
        typer.Argument(
            help="Name of a DVC remote that only you read; not the default one.", autocompletion=completion.remote
        ),
    ],
) -> Answer:
    """Send what `dvc push` leaves here, data/raw above all, to a private remote of DVC (owner)."""
    from ppvit.cli.backup import back_up

    sent, missing = back_up(remote)
    if missing:
        typer.echo(f"left out, since DVC's cache does not hold them: {', '.join(missing)}", err=True)
    typer.echo(f"to have them back in a clone: dvc pull -r {shlex.quote(remote)} download audit report", err=True)
    return Answer({"remote": remote, "sent": sent, "left_out": missing}, sent)


@app.command()
def status(
    stages: Annotated[
        list[str] | None,
        typer.Argument(help="Stages; all by default.", metavar="[STAGE]...", autocompletion=completion.stage),
    ] = None,
    params: Params = PARAMS,
) -> Answer:
    """Tell which stages are current, and of the others why not; nothing is run."""
    config = load(params, None)
    from ppvit.cli.status import stages_now

    found = stages_now(config, stages or [])
    rows = [(each.stage, each.state, "; ".join(each.reasons)) for each in found]
    stale = [each.stage for each in found if each.state != "current"]
    lines = [*Table((), rows).lines(), f"next: dvc repro {' '.join(stages or [])}".rstrip() if stale else "all current"]
    return Answer(
        {"stages": found, "current": not stale}, lines, Table(("stage", "state", "why"), rows), told=lines[-1:]
    )


@app.command()
def doctor(params: Params = PARAMS) -> Answer:
    """Check what a run needs: versions, device, threads, keys, remotes, disk, weights, extras; with remedies.

    Nothing is changed and no other machine is asked. The exit code is 1 where something must be put right.
    """
    from ppvit.cli.doctor import examine

    found = examine(params)
    rows = [(each.verdict, each.check, each.found, each.remedy) for each in found]
    lines = []
    for row, each in zip(Table((), [row[:3] for row in rows]).lines(), found, strict=True):
        lines += [row, *([f"    remedy: {each.remedy}"] if each.remedy else [])]
    problems = [each.check for each in found if each.verdict == "problem"]
    end = f"to put right: {', '.join(problems)}" if problems else "nothing to put right"
    table = Table(("verdict", "check", "found", "remedy"), rows)
    return Answer({"checks": found, "problems": problems}, [*lines, end], table, told=[end], code=int(bool(problems)))
