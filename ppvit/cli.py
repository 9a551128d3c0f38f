"""The ``ppvit`` command: every stage as a verb, and what a person does by hand (keys, pictures, predictions)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from ppvit import __version__
from ppvit.errors import one_line_errors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

# the sections of params.yaml that each stage reads, as in dvc.yaml
SECTIONS = {
    "pretrain": ("pretrain",),
    "download": ("dataset", "download"),
    "encrypt": ("dataset", "cipher", "encrypt"),
    "adapt": ("dataset", "cipher", "model", "adapt"),
    "finetune": ("finetune",),
    "evaluate": ("evaluate",),
    "verify": ("dataset", "cipher", "encrypt", "evaluate", "verify"),
    "audit": ("dataset", "cipher", "model", "encrypt", "audit"),
    "report": ("dataset", "cipher", "encrypt", "report"),
}


class StageCommand(TyperCommand):
    """A verb whose help ends in the parameters that the stage reads."""

    def format_epilog(self, ctx, formatter) -> None:
        from ppvit.config import parameters

        with formatter.section("Parameters, set for one run with -S name=value"):
            rows = parameters(SECTIONS[self.name])
            formatter.write_dl([(name, f"{description}  [default: {default}]") for name, default, description in rows])


def _complete_parameter(incomplete: str) -> list[str]:
    from ppvit.config import parameters

    return [f"{name}=" for name, _, _ in parameters() if name.startswith(incomplete)]


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-S", metavar="NAME=VALUE", help="Override a parameter.", autocompletion=_complete_parameter),
]
Params = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Place = Annotated[Path | None, typer.Option(help="Default: where the pipeline keeps it.", show_default=False)]
PARAMS = Path("params.yaml")


def run() -> None:
    """Entry point: the command with one-line errors."""
    with one_line_errors():
        app()


def stage(function):
    """Register a stage's verb."""
    return app.command(cls=StageCommand)(function)


def _load(params: Path, overrides: list[str] | None):
    from ppvit.config import load

    return load(params, overrides or [])


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


@stage
def pretrain(overrides: Overrides = None, params: Params = PARAMS, out: Place = None) -> None:
    """Train the embedded micro-ViT on rendered glyphs (12 minutes on two cores)."""
    config = _load(params, overrides)
    from ppvit import paths, pretrain

    pretrain.run(config.pretrain, out=out or paths.PRETRAINED)


@stage
def download(overrides: Overrides = None, params: Params = PARAMS, out: Place = None) -> None:
    """Fetch a data set, or take your own, as plain shards (owner)."""
    config = _load(params, overrides)
    from ppvit import download, paths

    download.run(config, out=out or paths.raw(config))


@stage
def encrypt(overrides: Overrides = None, params: Params = PARAMS, raw: Place = None, out: Place = None) -> None:
    """Encrypt the plain images into keyed shards (owner)."""
    config = _load(params, overrides)
    from ppvit import encrypt, paths

    encrypt.run(config, raw=raw or paths.raw(config), out=out or paths.encrypted(config))


@stage
def adapt(overrides: Overrides = None, params: Params = PARAMS, out: Place = None, result: Place = None) -> None:
    """Adapt pretrained weights to the key, exactly (owner)."""
    config = _load(params, overrides)
    from ppvit import adapt, paths

    adapt.run(config, paths.PRETRAINED, out=out or paths.ADAPTED, result=result or paths.result("adapt"))


@stage
def finetune(
    overrides: Overrides = None,
    params: Params = PARAMS,
    encrypted: Place = None,
    adapted: Place = None,
    out: Place = None,
    result: Place = None,
) -> None:
    """Fine-tune on encrypted shards; needs no key (trainer)."""
    config = _load(params, overrides)
    from ppvit import finetune, paths

    finetune.run(
        config.finetune,
        encrypted=encrypted or paths.encrypted(config),
        adapted=adapted or paths.ADAPTED,
        out=out or paths.FINETUNED,
        result=result or paths.result("finetune"),
    )


@stage
def evaluate(
    overrides: Overrides = None,
    params: Params = PARAMS,
    encrypted: Place = None,
    adapted: Place = None,
    finetuned: Place = None,
    plots: Place = None,
    result: Place = None,
) -> None:
    """Measure the fine-tuned model on encrypted test shards; needs no key (trainer)."""
    config = _load(params, overrides)
    from ppvit import evaluate, paths

    evaluate.run(
        config.evaluate,
        encrypted=encrypted or paths.encrypted(config),
        adapted=adapted or paths.ADAPTED,
        finetuned=finetuned or paths.FINETUNED,
        plots=plots or paths.PLOTS,
        result=result or paths.result("evaluate"),
    )


@stage
def verify(
    overrides: Overrides = None,
    params: Params = PARAMS,
    raw: Place = None,
    adapted: Place = None,
    finetuned: Place = None,
    result: Place = None,
) -> None:
    """Check the model that came back against images encrypted here, plain images and wrong keys (owner)."""
    config = _load(params, overrides)
    from ppvit import paths, verify

    verify.run(
        config,
        raw=raw or paths.raw(config),
        adapted=adapted or paths.ADAPTED,
        finetuned=finetuned or paths.FINETUNED,
        result=result or paths.result("verify"),
    )


@stage
def audit(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Somebody else's encrypted pictures, to attack instead.")
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="With DIR: side of a block; guessed by default.")] = None,
    overrides: Overrides = None,
    params: Params = PARAMS,
    pictures: Place = None,
    result: Place = None,
) -> None:
    """Attack what the trainer sees and measure what leaks (owner); or attack the encrypted pictures in DIR."""
    if folder is not None:
        from ppvit.audit import folder as audit_folder

        print(audit_folder.run(folder, pictures or Path("audit"), block_size))
        return
    config = _load(params, overrides)
    from ppvit import audit, paths

    audit.run(
        config,
        raw=paths.raw(config),
        encrypted=paths.encrypted(config),
        embedded=paths.PRETRAINED,
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        pictures=pictures or paths.PICTURES,
        result=result or paths.result("audit"),
    )


@stage
def report(overrides: Overrides = None, params: Params = PARAMS, out: Place = None) -> None:
    """Write the report page from all results (owner)."""
    config = _load(params, overrides)
    from ppvit import paths, report

    summary = report.run(
        config,
        raw=paths.raw(config),
        results=paths.RESULTS,
        live=paths.LIVE,
        plots=paths.PLOTS,
        pictures=paths.PICTURES,
        ciphers=paths.CIPHER_STUDY,
        out=out or paths.REPORT,
    )
    print(summary)


@app.command()
def show(
    overrides: Overrides = None,
    params: Params = PARAMS,
    raw: Place = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("show.png"),
    count: Annotated[int, typer.Option(help="Number of images.")] = 4,
    ciphers: Annotated[bool, typer.Option("--ciphers", help="One image under every cipher instead.")] = False,
) -> None:
    """Draw images plain, encrypted and decrypted side by side, as a PNG (owner)."""
    config = _load(params, overrides)
    from ppvit import paths, show

    show.run(config, raw or paths.raw(config), out, count, ciphers)
    print(out)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, of any kind and size.", metavar="IMAGE...")],
    overrides: Overrides = None,
    params: Params = PARAMS,
    top: Annotated[int, typer.Option(help="Number of classes to print.", min=1)] = 3,
    raw: Place = None,
    adapted: Place = None,
    finetuned: Place = None,
) -> None:
    """Encrypt images with the key and classify them with the fine-tuned model (owner)."""
    config = _load(params, overrides)
    from ppvit import paths, predict

    answers = predict.predict(
        config, images, raw or paths.raw(config), adapted or paths.ADAPTED, finetuned or paths.FINETUNED, top
    )
    for image, predictions in zip(images, answers, strict=True):
        print(f"{image}: " + ", ".join(f"{each.name} {each.percent:.1f} %" for each in predictions))


@app.command()
def params() -> None:
    """Print a params.yaml with every parameter at its default."""
    from ppvit.config import default_yaml

    print(default_yaml(), end="")


@app.command()
def keygen(
    label: Annotated[str, typer.Option(help="A note for you, kept beside the key file.")] = "",
    keyring: Annotated[
        Path | None, typer.Option(help="Default: $PPVIT_KEYRING or the user's config folder.", show_default=False)
    ] = None,
) -> None:
    """Make a secret key and print its public id, for cipher.key_id in params.yaml."""
    from ppvit import keys

    key = keys.generate()
    path = keys.save(key, keyring, label)
    print(key.id)
    typer.echo(f"saved in {path}; keep a backup: without it nothing can be decrypted or predicted", err=True)
