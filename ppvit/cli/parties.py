"""``ppvit he``: the parties of homomorphic training, each verb a process of its own with files between them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.answers import Answer
from ppvit.cli.base import PARAMS, Overrides, Params, app, load_fitting
from ppvit.cli.stages import StageGroup, places_of, results_apart, run_stage, stage_answer, with_places
from ppvit.core.errors import UsageError
from ppvit.core.process import sigterm_exits
from ppvit.pipeline import STAGES
from ppvit.places import Places

_STAGE = STAGES["he"]
he = typer.Typer(cls=StageGroup, invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(he, name="he", help=f"{_STAGE.does[:-1]} (owner and trainer).")

Owner = Annotated[Path, typer.Option(help="The owner's folder: secret key, whitening. Never leaves.")]
Trainer = Annotated[Path, typer.Option(help="The trainer's folder: all that it gets and gives back.")]
OWNER, TRAINER = Path("he/owner"), Path("he/trainer")


def parties(
    ctx: typer.Context, overrides: Overrides = None, params: Params = PARAMS, **places: Path | None
) -> Answer | None:
    ctx.with_resource(sigterm_exits())
    if not ctx.invoked_subcommand:
        return run_stage(_STAGE, params, overrides, places)
    if overrides or params != PARAMS or any(places.values()):
        raise UsageError(f"write options after the verb: ppvit he {ctx.invoked_subcommand} -S name=value")
    return None


he.callback()(with_places(parties, *_STAGE.inputs, *_STAGE.outputs, out="he"))


def keys(
    overrides: Overrides = None,
    params: Params = PARAMS,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
    train_here: Annotated[
        bool, typer.Option("--train-here", help="Refuse what this machine's memory is too small for.")
    ] = False,
    **places: Path | None,
) -> Answer:
    """Plan the run and make the keys: the secret one for the owner, evaluation keys for the trainer (owner)."""
    config = _STAGE.narrowed(load_fitting(params, overrides))
    from ppvit.he.ckks.memory import available_bytes
    from ppvit.he.parties import folders
    from ppvit.he.parties import owner as owners

    memory = available_bytes() if train_here else None
    owners.make_keys(config, places_of(config, places), folders.OwnersFiles(owner), trainer, memory)
    return _folders(owner, trainer)


def encrypt(
    overrides: Overrides = None,
    params: Params = PARAMS,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
    **places: Path | None,
) -> Answer:
    """Extract features, whiten (tiles), pack and encrypt them with the labels (owner)."""
    config = _STAGE.narrowed(load_fitting(params, overrides))
    from ppvit.he.parties import folders
    from ppvit.he.parties import owner as owners

    owners.encrypt(config, places_of(config, places), folders.OwnersFiles(owner), trainer)
    return _folders(owner, trainer)


def train(trainer: Trainer = TRAINER) -> Answer:
    """Train on ciphertexts; needs neither secret key nor parameters (trainer)."""
    from ppvit.he.parties import trainer as trainers

    trainers.run(trainer)
    return Answer({"trainer": trainer})


def refresh(owner: Owner = OWNER, trainer: Trainer = TRAINER) -> Answer:
    """With he.mode=refresh: renew the weights that the trainer asks for, until it is done (owner)."""
    from ppvit.he.parties import folders
    from ppvit.he.parties import owner as owners

    answered = owners.refresh(folders.OwnersFiles(owner), trainer)
    told = "nothing was refreshed: with he.mode=levelled, or one iteration, the trainer asks for nothing"
    return Answer(_folders(owner, trainer).document, [] if answered else [told])


def decrypt(
    overrides: Overrides = None,
    params: Params = PARAMS,
    owner: Owner = OWNER,
    trainer: Trainer = TRAINER,
    **places: Path | None,
) -> Answer:
    """Decrypt the head, fold the whitening into it where there is one, measure it (owner)."""
    config = _STAGE.narrowed(load_fitting(params, overrides))
    from ppvit.he.parties import folders, head

    apart = results_apart(_STAGE, places_of(config, places), Places.of(config))
    head.run(config, apart, folders.OwnersFiles(owner), trainer)
    return stage_answer(_STAGE, apart)


def _folders(owner: Path, trainer: Path) -> Answer:
    return Answer({"owner": owner, "trainer": trainer})


he.command()(with_places(keys, *_STAGE.inputs))
he.command()(with_places(encrypt, *_STAGE.inputs))
he.command()(train)
he.command()(refresh)
he.command()(with_places(decrypt, *_STAGE.inputs, *_STAGE.outputs, out="he"))
