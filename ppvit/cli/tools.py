"""What a person does by hand: pictures, predictions, export, parameters, names, keys."""

from __future__ import annotations

import json
import shlex
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.base import PARAMS, Overrides, Params, app, load
from ppvit.cli.stages import places_of, with_places
from ppvit.core.errors import printable
from ppvit.core.git import keep_out_of_git
from ppvit.pipeline import SETTINGS, STAGES, write_settings
from ppvit.places import Places


def show(
    overrides: Overrides = None,
    params: Params = PARAMS,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("show.png"),
    count: Annotated[int, typer.Option(help="Number of images.")] = 4,
    ciphers: Annotated[bool, typer.Option("--ciphers", help="One image under every cipher instead.")] = False,
    findings: Annotated[
        bool, typer.Option("--findings", help="Print what download found: bad files, duplicates, two labels; as CSV.")
    ] = False,
    **places: Path | None,
) -> None:
    """Draw images plain, encrypted and decrypted side by side, as a PNG (owner)."""
    config = load(params, overrides)
    from ppvit.verbs import show

    if findings:
        print(show.findings(config, places_of(config, places)), end="")
        return
    here = places_of(config, places)
    show.run(config, here, out, count, ciphers)
    if told := show.encrypted_sizes(here):
        print(told)
    print(out)


def predict(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, of any kind and size.", metavar="IMAGE...", readable=False)
    ],
    overrides: Overrides = None,
    params: Params = PARAMS,
    top: Annotated[
        int | None, typer.Option(help="Number of classes to print; by default 3, of several labels all.", min=1)
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which one of several labels is printed; by default 0.5.", min=0, max=1),
    ] = None,
    **places: Path | None,
) -> None:
    """Encrypt images with the key and classify them with the fine-tuned model (owner)."""
    config = load(params, overrides)
    from ppvit.verbs import predict

    answers = predict.run(config, places_of(config, places), images, top, threshold)
    for image, predictions in zip(images, answers, strict=True):
        told = ", ".join(f"{each.name} {each.percent:.1f} %" for each in predictions)
        print(printable(f"{image}: {told or 'no label above the threshold'}"))


def export(
    out: Annotated[Path, typer.Argument(help="The folder to write.", metavar="OUT")],
    overrides: Overrides = None,
    params: Params = PARAMS,
    as_lora: Annotated[
        bool,
        typer.Option("--as-lora", help="Write the adapter as stock LoRA, where that is exact; loads without ppvit."),
    ] = False,
    with_key_material: Annotated[
        bool, typer.Option("--with-key-material", help="Export tensors that reveal the key too; refused otherwise.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    **places: Path | None,
) -> None:
    """Write the fine-tuned model and its card as a folder for the Hugging Face Hub (owner or trainer)."""
    config = STAGES["report"].narrowed(load(params, overrides))  # what the run read, as the model records it
    from ppvit.export import export

    revealing = export(
        config,
        places_of(config, places),
        out,
        as_lora=as_lora,
        with_key_material=with_key_material,
        force=force,
    )
    print(out)
    if revealing:
        keep_out_of_git(out)
        told = f"warning: {out} reveals the secret key to whoever has the public checkpoint; do not publish it"
        typer.echo(told, err=True)


def rekey(
    old: Annotated[str, typer.Argument(help="Id of their key, in your key ring.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="Id of the key that they are to have, in your key ring.", metavar="NEW")],
    overrides: Overrides = None,
    params: Params = PARAMS,
    out: Annotated[Path | None, typer.Option(help="Write them into this folder, and leave the old ones.")] = None,
    **places: Path | None,
) -> None:
    """Bring shards, adapted and fine-tuned model to another key, exactly, without raw data (owner)."""
    from ppvit.ciphers.keys import require_id

    for key_id in (old, new):
        require_id(key_id)
    config = load(params, overrides)
    from ppvit.verbs import rekey

    written = rekey.run(places_of(config, places), old, new, out)
    print("\n".join(map(str, written)) or f"all is of key {new} already")
    if out is None:
        told = (
            f"set cipher.key_id to {new}, then: dvc repro settings && dvc commit -f encrypt adapt finetune; what is of "
            "the old key stays in DVC's cache and in remotes until `dvc gc` removes it"
        )
        typer.echo(told, err=True)


def tune(
    ranges: Annotated[
        list[str],
        typer.Argument(help="Such as finetune.learning_rate=1e-4..1e-1, or finetune.rank=[4, 8].", metavar="RANGE..."),
    ],
    trials: Annotated[int, typer.Option(help="Trainings, earlier ones of the same search among them.", min=1)] = 20,
    overrides: Overrides = None,
    params: Params = PARAMS,
    **places: Path | None,
) -> None:
    """Search parameters of training, by the validation images alone; needs no key (trainer)."""
    config = load(params, overrides)
    from ppvit.verbs import tune

    found = tune.run(params, overrides or [], places_of(config, places), ranges, trials)
    given = [*(overrides or []), *tune.as_overrides(found.best)]
    best = " ".join(f"-S {shlex.quote(override)}" for override in given)  # lists hold blanks and brackets
    own = "" if found.own is None else f"; with the values as they are {found.own:.4g}"
    print(f"best of {len(found.trials)}: {found.figure} {found.score:.4g}{own}")
    print(f"dvc exp run {best}")


app.command()(with_places(show, "raw", "encrypted"))
app.command()(with_places(tune, "encrypted", "adapted"))
app.command()(with_places(predict, "raw", "adapted", "finetuned"))
app.command()(with_places(rekey, "encrypted", "adapted", "finetuned"))
app.command()(with_places(export, "encrypted", "adapted", "finetuned", "results"))


@app.command()
def pull(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages or outputs; all that were pushed by default.", metavar="[TARGET]..."),
    ] = None,
) -> None:
    """Fetch what the other party pushed, as `dvc pull` does, but write nothing elsewhere (owner or trainer)."""
    from ppvit.cli.pulling import pull

    pull(targets or [])


@app.command()
def settings(overrides: Overrides = None, params: Params = PARAMS, out: Path = SETTINGS) -> None:
    """Write the parameters that every stage reads under the chosen cipher, method and attacks, for DVC to track."""
    write_settings(load(params, overrides), out)


@app.command()
def params() -> None:
    """Print a params.yaml with every parameter at its default."""
    from ppvit.config import default_yaml

    print(default_yaml(), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of params.yaml, from which editors complete and check it."""
    from ppvit.config.schema import schema_json

    print(schema_json(), end="")


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="As `ppvit list recipes` has it.", metavar="NAME")]) -> None:
    """Print a published set-up as overrides, to run it with changes: ``ppvit finetune $(ppvit recipe NAME) -S ...``.

    What the paper does not state, and what is no matter of training, is told beside.
    """
    from ppvit.config import recipes

    found = recipes.recipe_named(name)
    print(" ".join(f"-S {override}" for override in recipes.overrides(name)))
    open_ones = ", ".join(found.unstated) or "nothing"
    several = "; ".join(f"{parameter} {', '.join(map(str, of))}" for parameter, of in found.choices.items())
    for line in (f"source: {found.source}", f"not stated: {open_ones}", f"several: {several or 'none'}"):
        typer.echo(line, err=True)
    typer.echo(f"not here: {found.lacks}", err=True)


@app.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="ciphers, methods, recipes, attacks (of audit), datasets or algorithms (of he).", metavar="KIND"
        ),
    ],
) -> None:
    """Print the names that a parameter takes, with a sentence on each."""
    from ppvit.cli.names import described

    rows = described(kind)
    width = max(len(names) for names, _ in rows if len(names) <= 24)
    indent = " " * (width + 2)
    for names, sentence in rows:
        lines = textwrap.wrap(sentence, 120, initial_indent=indent, subsequent_indent=indent)
        if len(names) > width:  # many data sets of one kind
            print("\n".join(textwrap.wrap(names, 120)))
        else:
            lines[0] = f"{names:<{width}}  {lines[0].strip()}"
        print("\n".join(lines))


@app.command()
def keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    params: Params = PARAMS,
    keyring: Annotated[
        Path | None, typer.Option(help="Default: $PPVIT_KEYRING or the user's config folder.", show_default=False)
    ] = None,
) -> None:
    """List keys by their ids: labels, how each is kept, what in this project is of it. No secret is shown."""
    from ppvit import config
    from ppvit.verbs import keys

    chosen = config.load(params) if params.exists() else None
    listed = keys.run(chosen, Places.of(chosen or config.load(None)), keyring)
    if as_json:
        print(json.dumps([asdict(each) for each in listed], indent=2))
        return
    for each in listed:
        print("  ".join(filter(None, (each.key_id, printable(each.label), each.kept))))
        for name, told in (("problem", each.problem), ("used", ", ".join(each.used))):
            if told:
                print(f"    {name}: {printable(told)}")


@app.command()
def backup(
    remote: Annotated[str, typer.Argument(help="Name of a DVC remote that only you read; not the default one.")],
) -> None:
    """Send what `dvc push` leaves here, data/raw above all, to a private remote of DVC (owner)."""
    from ppvit.cli.backup import back_up

    sent, missing = back_up(remote)
    print("\n".join(sent))
    if missing:
        typer.echo(f"left out, since DVC's cache does not hold them: {', '.join(missing)}", err=True)
    typer.echo(f"to have them back in a clone: dvc pull -r {remote} download audit report", err=True)


@app.command()
def keygen(
    label: Annotated[str, typer.Option(help="A note for you, kept beside the key file.")] = "",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Lock it; $PPVIT_PASSPHRASE_FILE, or you at the terminal, open it.")
    ] = False,
    keychain: Annotated[
        bool,
        typer.Option("--keychain", help="Keep it in the system's keychain, not in a file; needs the extra keychain."),
    ] = False,
    keyring: Annotated[
        Path | None, typer.Option(help="Default: $PPVIT_KEYRING or the user's config folder.", show_default=False)
    ] = None,
) -> None:
    """Make a secret key and print its public id, for cipher.key_id in params.yaml."""
    from ppvit.ciphers import keys
    from ppvit.ciphers.passphrase import ask

    key = keys.generate()
    locked_by = ask(key.id, new=True) if passphrase else None
    if keychain:
        keys.save_in_keychain(key, keyring, label, locked_by)
        saved = "saved in the keychain of this system"
    else:
        saved = f"saved in {keys.save(key, keyring, label, locked_by)}"
    print(key.id)
    told = " and remember the passphrase" if passphrase else ""
    typer.echo(f"{saved}; keep a backup of it{told}: without it nothing can be decrypted or predicted", err=True)
