"""Every stage of the pipeline as a verb, made from the table of stages: a verb does what `dvc repro` does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ppvit.cli.answers import Answer
from ppvit.cli.base import PARAMS, Overrides, Params, app, load
from ppvit.core.errors import UsageError
from ppvit.core.git import keep_out_of_git
from ppvit.pipeline import STAGES, Stage
from ppvit.places import Places, help_of

if TYPE_CHECKING:
    from ppvit.config import Config


_PLAIN = {"raw", "pictures"}  # folders that show plain images


class _ListsParameters:
    """Help that ends in the parameters that the stage reads."""

    name: str | None  # of the command that this is mixed into

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from ppvit.config import parameters
        from ppvit.config.limits import explained

        super().format_epilog(ctx, formatter)  # type: ignore[misc]  # of the command that this is mixed into
        with formatter.section("Parameters, set for one run with -S name=value"):
            rows = parameters(STAGES[str(self.name)].sections)
            formatter.write_dl([(name, explained(name, default, description)) for name, default, description in rows])


class StageCommand(_ListsParameters, TyperCommand):
    """The verb of a stage."""


class StageGroup(_ListsParameters, TyperGroup):
    """The verb of a stage whose parties are verbs of their own."""


def places_of(config: Config, given: dict[str, Path | None]) -> Places:
    """The places that were given, and the pipeline's own for the others."""
    return Places.of(config, **{name: path for name, path in given.items() if path is not None})


def run_stage(stage: Stage, params: Path, overrides: list[str] | None, places: dict[str, Path | None]) -> Answer:
    """Run a stage with these places; it prints what people read."""
    config = load(params, overrides)
    usual = places_of(config, {})
    where = results_apart(stage, places_of(config, places), usual)
    stage.run_as_asked(config, where)
    for place in _PLAIN.intersection(stage.outputs):
        path = getattr(where, place)
        elsewhere = path.absolute() != getattr(usual, place).absolute()
        if elsewhere and path.is_dir():  # in the usual one the files are DVC's, and the project's .gitignore sees to it
            keep_out_of_git(path)
    return stage_answer(stage, where)


def stage_answer(stage: Stage, places: Places) -> Answer:
    """Where a stage wrote, and its result and times where it has any."""
    from ppvit.core.reading import read_json
    from ppvit.core.results import read_times

    path = places.result(stage.name)
    measured = read_json(path, stage.name) if "results" in stage.outputs and path.exists() else {}
    written = {place: getattr(places, place) for place in stage.outputs if place != "results"}
    if measured:
        written["result"] = path
    times = read_times(path) if measured else {}
    return Answer({"stage": stage.name, "written": written, "result": measured, "times": times})


def results_apart(stage: Stage, places: Places, own: Places) -> Places:
    """The places, unless figures of files elsewhere would replace those of the pipeline's own run.

    Raises:
        UsageError: they would; names the option that says where else to write them.
    """
    elsewhere = [name for name in (*stage.inputs, *stage.outputs) if getattr(places, name) != getattr(own, name)]
    if elsewhere and "results" in stage.outputs and places.results == own.results:
        raise UsageError(
            f"--{elsewhere[0]} {getattr(places, elsewhere[0])} is not the pipeline's own, and what `{stage.name}` "
            f"measures would replace {own.result(stage.name)}; say where to write it with --results"
        )
    return places


def with_places(function: Callable[..., Any], *places: str, out: str = "") -> Callable[..., Any]:
    """The function with an option for each of these places, handed to it by name, behind its own parameters.

    Args:
        function: takes places as keywords.
        places: names of :class:`ppvit.places.Places`.
        out: the one that ``--out`` means.
    """
    own = inspect.signature(function, eval_str=True).parameters.values()
    options = []
    for place in dict.fromkeys(places):
        names = [f"--{place}"] + (["--out"] if place == out else [])
        option = typer.Option(*names, help=help_of(place), show_default=False)
        annotation = Annotated[Path | None, option]
        options.append(inspect.Parameter(place, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    signature = inspect.Signature([*(each for each in own if each.kind != each.VAR_KEYWORD), *options])
    function.__signature__ = signature  # type: ignore[attr-defined]  # what typer makes options of
    function.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return function


def _verb(stage: Stage) -> Callable[..., Answer]:
    def verb(overrides: Overrides = None, params: Params = PARAMS, **places: Path | None) -> Answer:
        return run_stage(stage, params, overrides, places)

    return verb


def _audit(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Somebody else's encrypted pictures, to attack instead.")
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="With DIR: side of a block; guessed by default.")] = None,
    overrides: Overrides = None,
    params: Params = PARAMS,
    **places: Path | None,
) -> Answer:
    if folder is None:
        if block_size is not None:
            raise UsageError("--block-size is of pictures that somebody else encrypted; name their folder: audit DIR")
        return run_stage(STAGES["audit"], params, overrides, places)
    if ignored := [f"--{name}" for name, path in places.items() if path is not None and name != "pictures"]:
        raise UsageError(f"audit {folder} reads nothing of a project; leave out {', '.join(ignored)}")
    if overrides:
        raise UsageError(f"audit {folder} reads no parameters; leave out -S {overrides[0][:100]}")
    from ppvit.audit.folder import attack_folder
    from ppvit.core.reading import read_json

    pictures = places["pictures"] or Path("audit")
    told = attack_folder(folder, pictures, block_size)
    return Answer({"pictures": pictures, "told": told, "result": read_json(pictures / "audit.json", "audit")}, [told])


for _stage in STAGES.values():
    if _stage.name == "he":  # a group, see ppvit.cli.parties
        continue
    _function = _audit if _stage.name == "audit" else _verb(_stage)
    _more = " Or attack the encrypted pictures in DIR." if _stage.name == "audit" else ""
    _command = app.command(_stage.name, cls=StageCommand, help=f"{_stage.does[:-1]} ({_stage.party}).{_more}")
    _places = (*_stage.inputs, *_stage.outputs, *_stage.apart)
    _command(with_places(_function, *_places, out=_stage.outputs[0]))
