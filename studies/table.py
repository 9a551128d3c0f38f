"""Tables and plots of studies from their results; each says at its top what it was made with.

python studies/table.py                 # all
python studies/table.py lin2025 tiny    # one
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
from study import STUDIES, Study, Variant, names

from ppvit.core.errors import PpvitError, one_line_errors

Results = dict[Variant, dict[str, Any]]


def render(study: Study, size: str) -> dict[str, bytes]:
    """The files of a table, by name: ``<size>.md``, and ``<size>-<plot>.svg`` where the study has plots.

    Raises:
        PpvitError: there is no result.
    """
    import paper

    results = study.results(size)
    if not results:
        raise PpvitError(f"{study.name} has no result of size {size}; python studies/run.py {study.name} {size}")
    complete = len(results) == len(study.variants(size))
    plots = study.own("tables", "plots", lambda *_: {})(study, size, results) if complete else {}
    closing = study.about.get("closing", {}).get(size)
    parts = [
        f"# {study.about['title']}: {size}",
        *made_with(study, size, results),
        study.about["sizes"][size].strip(),
        *study.own("tables", "sections", paper.sections)(study, size, results),
        *(f"![{title}]({size}-{name}.svg)" for name, (title, _) in plots.items()),
        *([closing.strip()] if closing else []),
    ]
    files = {f"{size}-{name}.svg": svg for name, (_, svg) in plots.items()}
    return {f"{size}.md": ("\n\n".join(parts) + "\n").encode(), **files}


def made_with(study: Study, size: str, results: Results) -> Iterator[str]:
    """The top of every table: what its results were made with, which of them are out of date, and which are missing."""
    command = f"python studies/run.py {study.name} {size}"
    recorded = {
        "revision": _counted(result.get("git_revision") for result in results.values()),
        "versions": _counted(result.get("versions") for result in results.values()),
        "device": _counted(result.get("device") for result in results.values()),
        "date": _range(result.get("date") for result in results.values()),
        "load average": _range(result.get("load_average") for result in results.values()),
    }
    yield "Made with " + "; ".join(f"{name} {text}" for name, text in recorded.items()) + f". Again: `{command}`."
    reasons = Counter(variant.outdated(result) for variant, result in results.items())
    if outdated := [f"{count} of {len(results)} results {reason}" for reason, count in reasons.items() if reason]:
        changes = "; ".join(f"{number}, {text}" for number, text in study.plan["method_changes"].items())
        yield f"**Out of date:** {'; '.join(outdated)}. Methods: {changes}. Today's code may give other figures."
    if missing := [variant.name for variant in study.variants(size) if variant not in results]:
        yield f"Not run: {', '.join(f'`{name}`' for name in missing)}."


def markdown(rows: list[list[str]], text_columns: int) -> str:
    """A Markdown table of a header and rows; all but the first columns are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(rows[0]) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def svg(figure: matplotlib.figure.Figure) -> bytes:
    """A figure, the same bytes for the same content."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ppvit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def write(study: Study, size: str) -> None:
    """Write the files of a table into the study's folder."""
    for name, content in render(study, size).items():
        (study.folder / name).write_bytes(content)


def _counted(values: Iterator[str | None]) -> str:
    counts = Counter(value or "not recorded" for value in values)
    return ", ".join(f"{value} ({count})" if len(counts) > 1 else value for value, count in counts.items())


def _range(values: Iterator[Any]) -> str:
    known = sorted({value for value in values if value is not None})
    return f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0]) if known else "not recorded"


def tables(folder: Path = STUDIES) -> list[tuple[Study, str]]:
    """Every study and size that has results."""
    studies = [Study(folder / name) for name in names(folder)]
    return [(study, size) for study in studies for size in study.sizes if study.results(size)]


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) not in (1, 3):
            sys.exit("usage: table.py [<study> <size>]")
        for study, size in [(Study(STUDIES / sys.argv[1]), sys.argv[2])] if len(sys.argv) == 3 else tables():
            write(study, size)
