"""Which tables are out of date, and whether each says so.    python studies/check.py

A result is out of date when it was made by an earlier method than the study's or with other settings. Every table says
so at its top; one that does not, or is not what its results give, is an error here, which `table.py` mends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from study import STUDIES
from table import render, tables

from ppvit.core.errors import one_line_errors


def main(folder: Path = STUDIES) -> None:
    wrong = []
    for study, size in tables(folder):
        results, planned = study.results(size), len(study.variants(size))
        outdated = sum(bool(variant.outdated(result)) for variant, result in results.items())
        print(f"{study.name} {size}: {outdated} of {len(results)} out of date, {planned - len(results)} not run")
        path = study.folder / f"{size}.md"
        if not path.exists() or path.read_bytes() != render(study, size)[path.name]:
            wrong.append(f"{study.name}/{path.name}")
    if wrong:
        sys.exit(f"error: not what their results give: {', '.join(wrong)}; run python studies/table.py")


if __name__ == "__main__":
    with one_line_errors():
        main()
