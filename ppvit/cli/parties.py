"""``ppvit he``: the parties of homomorphic training, each verb a process of its own with files between them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.base import PARAMS, Overrides, Params, Place, app, load
from ppvit.cli.stages import StageGroup
from ppvit.errors import UsageError

he = typer.Typer(cls=StageGroup, invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(he, name="he")

Owner = Annotated[Path, typer.Option(help="The owner's folder: secret key, whitening. Never leaves.")]
Trainer = Annotated[Path, typer.Option(help="The trainer's folder: all that it gets and gives back.")]
OWNER, TRAINER = Path("he/owner"), Path("he/trainer")


@he.callback()
def parties(ctx: typer.Context, overrides: Overrides = None, params: Params = PARAMS) -> None:
    """Train a linear head on CKKS ciphertexts: all parties, or one of them by its own verb."""
    from ppvit import he

    ctx.with_resource(he.sigterm_exits())
    if ctx.invoked_subcommand:
        if overrides or params != PARAMS:
            raise UsageError(f"write -S and --params after the verb: ppvit he {ctx.invoked_subcommand} -S name=value")
        return
    config = load(params, overrides)
    from ppvit import paths

    he.run(config, paths.raw(config), paths.PRETRAINED, paths.HE, paths.result("he"))


@he.command()
def keys(
    overrides: Overrides = None,
    params: Params = PARAMS,
    raw: Place = None,
    embedded: Place = None,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
    train_here: Annotated[
        bool, typer.Option("--train-here", help="Refuse what this machine's memory is too small for.")
    ] = False,
) -> None:
    """Plan the run and make the keys: the secret one for the owner, evaluation keys for the trainer (owner)."""
    config = load(params, overrides)
    from ppvit import paths
    from ppvit.he import owner as owners

    owners.make_keys(config, raw or paths.raw(config), embedded or paths.PRETRAINED, owner, trainer, train_here)


@he.command()
def encrypt(
    overrides: Overrides = None,
    params: Params = PARAMS,
    raw: Place = None,
    embedded: Place = None,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
) -> None:
    """Extract features, whiten (tiles), pack and encrypt them with the labels (owner)."""
    config = load(params, overrides)
    from ppvit import paths
    from ppvit.he import owner as owners

    owners.encrypt(config, raw or paths.raw(config), embedded or paths.PRETRAINED, owner, trainer)


@he.command()
def train(trainer: Trainer = TRAINER) -> None:
    """Train on ciphertexts; needs neither secret key nor parameters (trainer)."""
    from ppvit.he import train

    train.run(trainer)


@he.command()
def refresh(owner: Owner = OWNER, trainer: Trainer = TRAINER) -> None:
    """With he.mode=refresh: renew the weights that the trainer asks for, until it is done (owner)."""
    from ppvit.he import owner as owners

    owners.refresh(owner, trainer)


@he.command()
def decrypt(
    overrides: Overrides = None,
    params: Params = PARAMS,
    raw: Place = None,
    embedded: Place = None,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
    out: Place = None,
    result: Place = None,
) -> None:
    """Decrypt the head, fold the whitening into it where there is one, measure it (owner)."""
    config = load(params, overrides)
    from ppvit import paths
    from ppvit.he import head

    places = (raw or paths.raw(config), embedded or paths.PRETRAINED, owner, trainer)
    head.run(config, *places, out or paths.HE, result or paths.result("he"))
