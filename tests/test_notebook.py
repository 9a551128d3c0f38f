"""The notebook runs, cell after cell, where there is nothing but ppvit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from imports import ROOT

_RUN = """
import json, sys
space = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), space)
"""


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_holds_no_output(notebook, tmp_path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    assert any("assert" in line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(notebook)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "finetuned" / "adapter_model.safetensors").is_file()
