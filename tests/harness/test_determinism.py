"""docs/determinism.md says which bytes stay the same; the cheap stages are measured here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from determinism import CHANGES, OUTPUTS, SHORT

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "determinism.md"


def table(text: str) -> dict[tuple[str, str], str]:
    """Cells by stage and change."""
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", text, re.M)]
    head, _, *body = rows
    return {(row[0], change): cell for row in body for change, cell in zip(head[1:], row[1:], strict=True)}


def test_the_docs_have_a_row_for_every_stage_and_a_column_for_every_change():
    cells = table(DOCS.read_text(encoding="utf-8"))
    assert cells.keys() == {(stage, change.told) for stage in OUTPUTS for change in CHANGES}
    assert set(cells.values()) <= {"same", "differs", "not measured", "-"}


def test_what_the_docs_call_the_same_is_the_same():
    command = [sys.executable, str(HERE / "determinism.py"), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    promised = table(DOCS.read_text(encoding="utf-8"))
    measured = table(done.stdout)
    assert {stage for stage, _ in measured} == set(SHORT)
    assert sum(cell != "-" for cell in measured.values()) >= 2 * len(SHORT)
    for place, cell in measured.items():
        assert cell in ("same", "-") or promised[place] == "differs", f"{place}: {done.stdout}"
