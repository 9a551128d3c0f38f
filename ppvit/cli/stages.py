"""Every stage of the pipeline as a verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from ppvit.cli.base import PARAMS, Overrides, Params, Place, app, load

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
    "he": ("dataset", "model", "encrypt", "he"),
    "report": ("dataset", "cipher", "encrypt", "report"),
}


class _ListsParameters:
    """Help that ends in the parameters that the stage reads."""

    def format_epilog(self, ctx, formatter) -> None:
        from ppvit.config import parameters

        with formatter.section("Parameters, set for one run with -S name=value"):
            rows = parameters(SECTIONS[self.name])
            formatter.write_dl([(name, f"{description}  [default: {default}]") for name, default, description in rows])


class StageCommand(_ListsParameters, TyperCommand):
    """The verb of a stage."""


class StageGroup(_ListsParameters, TyperGroup):
    """The verb of a stage whose parties are verbs of their own."""


def stage(function):
    """Register a stage's verb."""
    return app.command(cls=StageCommand)(function)


@stage
def pretrain(overrides: Overrides = None, params: Params = PARAMS, out: Place = None) -> None:
    """Train the embedded micro-ViT on rendered glyphs (12 minutes on two cores)."""
    config = load(params, overrides)
    from ppvit import paths, pretrain

    pretrain.run(config.pretrain, out=out or paths.PRETRAINED)


@stage
def download(overrides: Overrides = None, params: Params = PARAMS, out: Place = None) -> None:
    """Fetch a data set, or take your own, as plain shards (owner)."""
    config = load(params, overrides)
    from ppvit import download, paths

    download.run(config, out=out or paths.raw(config))


@stage
def encrypt(overrides: Overrides = None, params: Params = PARAMS, raw: Place = None, out: Place = None) -> None:
    """Encrypt the plain images into keyed shards (owner)."""
    config = load(params, overrides)
    from ppvit import encrypt, paths

    encrypt.run(config, raw=raw or paths.raw(config), out=out or paths.encrypted(config))


@stage
def adapt(overrides: Overrides = None, params: Params = PARAMS, out: Place = None, result: Place = None) -> None:
    """Adapt pretrained weights to the key, exactly (owner)."""
    config = load(params, overrides)
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
    config = load(params, overrides)
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
    config = load(params, overrides)
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
    config = load(params, overrides)
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
    config = load(params, overrides)
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
    config = load(params, overrides)
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
