"""What a person does by hand with images and models: pictures, search, predictions, another key, export."""

from __future__ import annotations

import csv
import io
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ppvit.cli import completion
from ppvit.cli.answers import Answer, Table
from ppvit.cli.base import PARAMS, Overrides, Params, app, load, load_fitting
from ppvit.cli.stages import places_of, with_places
from ppvit.core.errors import UsageError, printable, say
from ppvit.core.git import keep_out_of_git
from ppvit.pipeline import STAGES


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
) -> Answer:
    """Draw images plain, encrypted and decrypted side by side, as a PNG (owner)."""
    config = load(params, overrides)
    from ppvit.verbs import show

    if findings:
        found = show.findings(config, places_of(config, places)).rstrip("\n")
        if not found:  # not among rows of CSV
            say(f"download found nothing wrong with the images of {config.dataset.name}")
        return Answer({"findings": list(csv.DictReader(io.StringIO(found)))}, [found] if found else [])
    here = places_of(config, places)
    show.run(config, here, out, count, ciphers)
    told = show.encrypted_sizes(here)
    return Answer({"picture": out, "encrypted": told}, [*filter(None, [told]), str(out)])


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
) -> Answer:
    """Encrypt images with the key and classify them with the fine-tuned model (owner)."""
    config = load(params, overrides)
    from ppvit.verbs import predict

    answers = predict.run(config, places_of(config, places), images, top, threshold)
    lines, rows = [], []
    for image, predictions in zip(images, answers, strict=True):
        told = [(each.name, f"{each.percent:.1f} %") for each in predictions]
        none = "no label above the threshold"
        lines.append(printable(f"{image}: {', '.join(map(' '.join, told)) or none}"))
        rows += [(str(image), *each) for each in told or [(none, "")]]
    document = [{"image": image, "predictions": each} for image, each in zip(images, map(_plain, answers), strict=True)]
    return Answer(document, lines, Table(("image", "class", "probability"), rows))


def _plain(predictions: list[Any]) -> list[dict[str, Any]]:
    return [asdict(each) for each in predictions]


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
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="As the Hub names it; by default that of the base model."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Send the folder to this model repository of the Hub, such as me/digits."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository of --push public, where it is made; else private.")
    ] = False,
    **places: Path | None,
) -> Answer:
    """Write the fine-tuned model and its card as a folder for the Hugging Face Hub (owner or trainer)."""
    config = STAGES["report"].narrowed(load_fitting(params, overrides))  # what the run read, as the model records it
    from ppvit.export import export
    from ppvit.export.push import Repository

    if public and push is None:
        raise UsageError("--public says how --push makes a repository; give both")
    repository = None if push is None else Repository.ready(push, with_key_material, public)
    revealing = export(
        config,
        places_of(config, places),
        out,
        as_lora=as_lora,
        with_key_material=with_key_material,
        force=force,
        licence=licence,
    )
    if revealing:
        keep_out_of_git(out)
        told = f"warning: {out} reveals the secret key to whoever has the public checkpoint; do not publish it"
        typer.echo(told, err=True)
    pushed = repository.push(out) if repository is not None else None
    return Answer({"folder": out, "reveals_key": revealing, "pushed": pushed}, [*filter(None, [str(out), pushed])])


def rekey(
    old: Annotated[
        str, typer.Argument(help="Id of their key, in your key ring.", metavar="OLD", autocompletion=completion.key)
    ],
    new: Annotated[
        str,
        typer.Argument(
            help="Id of the key that they are to have, in your key ring.", metavar="NEW", autocompletion=completion.key
        ),
    ],
    overrides: Overrides = None,
    params: Params = PARAMS,
    out: Annotated[Path | None, typer.Option(help="Write them into this folder, and leave the old ones.")] = None,
    **places: Path | None,
) -> Answer:
    """Bring shards, adapted and fine-tuned model to another key, exactly, without raw data (owner)."""
    from ppvit.ciphers.keys import require_id

    for key_id in (old, new):
        require_id(key_id)
    config = load_fitting(params, overrides)
    from ppvit.verbs import rekey

    written = rekey.run(places_of(config, places), old, new, out)
    if out is None:
        told = (
            f"set cipher.key_id to {new}, then: dvc repro settings && dvc commit -f encrypt adapt finetune; what is of "
            "the old key stays in DVC's cache and in remotes until `dvc gc` removes it"
        )
        typer.echo(told, err=True)
    return Answer({"key_id": new, "written": written}, [*map(str, written)] or [f"all is of key {new} already"])


def tune(
    ranges: Annotated[
        list[str],
        typer.Argument(
            help="Such as finetune.learning_rate=1e-4..1e-1, or finetune.rank=[4, 8].",
            metavar="RANGE...",
            autocompletion=completion.override,
        ),
    ],
    trials: Annotated[int, typer.Option(help="Trainings, earlier ones of the same search among them.", min=1)] = 20,
    overrides: Overrides = None,
    params: Params = PARAMS,
    **places: Path | None,
) -> Answer:
    """Search parameters of training, by the validation images alone; needs no key (trainer)."""
    config = load(params, overrides)
    from ppvit.verbs import tune

    found = tune.run(params, overrides or [], places_of(config, places), ranges, trials)
    given = [*(overrides or []), *tune.as_overrides(found.best)]
    best = " ".join(f"-S {shlex.quote(override)}" for override in given)  # lists hold blanks and brackets
    own = "" if found.own is None else f"; with the values as they are {found.own:.4g}"
    # DVC runs on params.yaml alone
    other = f"ppvit finetune --params {shlex.quote(str(params))} {best}"
    command = f"dvc exp run {best}" if params == PARAMS else other
    document = {
        **{"figure": found.figure, "score": found.score, "own": found.own, "command": command},
        "best": found.best.model_dump(mode="json"),
        "trials": [each.model_dump(mode="json") for each in found.trials],
    }
    told = f"best of {len(found.trials)}: {found.figure} {found.score:.4g}{own}"
    return Answer(document, [told, command])


app.command()(with_places(show, "raw", "encrypted"))
app.command()(with_places(tune, "encrypted", "adapted"))
app.command()(with_places(predict, "raw", "adapted", "finetuned"))
app.command()(with_places(rekey, "encrypted", "adapted", "finetuned"))
app.command()(with_places(export, "encrypted", "adapted", "finetuned", "results"))
