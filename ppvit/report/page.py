"""One self-contained page and one small table: how accurate the run is, what it cost, and what it leaks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import printable
from ppvit.core.files import atomic_output
from ppvit.core.measures import HEADLINES
from ppvit.core.results import read_times
from ppvit.data.plain import PlainImages
from ppvit.evasion.verdicts import threat_rows
from ppvit.places import Places
from ppvit.report import plots
from ppvit.report.beside import beside
from ppvit.report.claims import read_results, read_tables, unconfirmed
from ppvit.report.compare import three_ways
from ppvit.report.known_images import known_images
from ppvit.report.pictures import (
    attack_pictures,
    cipher_picture,
    example_picture,
    examples,
    picture_budget,
    recovered,
)
from ppvit.report.rendering import render
from ppvit.report.summary import answers, label_rows, promises, short_key, summary_rows

_SCRIPTS = ("plots.html", "sortable.js", "page.js")  # plots, tables that sort, and what connects both with the page


def write_page(config: Config, places: Places) -> str:
    """Write the report; and beside the files of times the table of times that it shows, and the two as one page.

    The report holds what a rerun repeats, so that the same run gives the same page. The page among the times has name,
    date, versions, times and memory of the run inside, to be handed on.

    Args: as of :func:`ppvit.verbs.report.run`; pictures, scripts and style are inside, the pages load nothing else.

    Returns:
        The summary as plain text for the terminal.

    Raises:
        PpvitError: see :func:`ppvit.report.claims.read_results` and :func:`ppvit.report.claims.read_tables`.
    """
    plain = PlainImages(places.raw, "test", config.dataset, config.encrypt)
    headline = HEADLINES[plain.labelling.task]
    values = read_results(config, places, len(plain), plain.labelling)
    tables = read_tables(config, places, plain.labelling, plain.labelling.counts(plain.labels), values)
    known, doubtful = known_images(plain.manifest)
    summary = summary_rows(values, headline, known)
    told = recovered(places.pictures)
    budget = picture_budget(len(told.pictures) + 2)
    drawn = {"learning": plots.learning(tables), "calibration": [plots.calibration(tables)]}
    drawn["confusion"] = [] if tables.labels else [plots.confusion(tables, plain.classes)]
    drawn["withstood"] = [plots.withstood(tables.curve)] if tables.curve[1:] else []  # no attack, no curve
    strengths = {title: values["audit"].get(f"{name}_strength_percent") for name, title in told.titles.items()}
    measured = {title: strength for title, strength in strengths.items() if strength is not None}
    drawn["reached"] = [plots.reached(measured)] if measured else []
    shown = {
        "config": config,
        "values": values,
        "headline": headline,
        "summary": summary,
        "known": known,
        "doubtful": doubtful,
        "answers": answers(config, values, headline),
        "promises": promises(values),
        "short_key": short_key(load_cipher(config)),
        "warning": unconfirmed(values, headline),
        "told": told,
        "threats": threat_rows(values["threats"]),
        "examples": example_picture(examples(config, places.raw, config.report.images), budget),
        "attack_pictures": attack_pictures(told, values["audit"], budget),
        "labels": label_rows(tables.labels, plain.classes, len(plain)),
        "ways": three_ways(values, headline),
        "over_ciphers": cipher_picture(config, places.raw, budget),
        "parameters": list(config.model_dump(exclude_unset=True).items()),
        "version": version("ppvit"),
    }
    times = {stage: read_times(places.result(stage)) for stage in values}
    others = beside(places)
    run = {"times": times, "name": _run_name(), "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "beside": others}
    folder = places.results / "times"
    whole = drawn | {"beside": [others.plot] if others.plot else []}
    _write(folder / "index.html", render("times.html.j2", run=run))
    _write(folder / "report.html", _page(shown, run, whole))
    _write(places.page, _page(shown, None, drawn))
    seconds = [(f"time of {stage}", f"{each['wall_seconds']:.1f} s") for stage, each in times.items() if each]
    rows = [*summary, *seconds, ("report", str(places.page)), ("the same with times", str(folder / "report.html"))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(printable(f"{name:<{width}}  {value}") for name, value in rows)


def _page(shown: dict[str, Any], run: dict[str, Any] | None, drawn: dict[str, list[plots.Plot]]) -> str:
    return render("page.html.j2", _SCRIPTS, **shown, run=run, plots=drawn, specs=_specs(drawn))


def _specs(drawn: dict[str, list[plots.Plot]]) -> dict[str, Any]:
    """What the script of the page draws: for all plots, and by name."""
    return {
        "config": plots.CONFIG,
        "specs": {each.name: each.spec for group in drawn.values() for each in group if each.spec},
    }


def _run_name() -> str:
    """What DVC calls the experiment that runs this stage; empty outside of one."""
    return printable(os.environ.get("DVC_EXP_NAME", ""))[:100]


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
