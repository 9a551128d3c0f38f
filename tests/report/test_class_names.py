"""Names of classes in drawings and on the terminal: formulae, markup and every script as they are, none of it run."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import make_config
from test_report import make_world, write_page
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.core.files import write_json
from ppvit.core.reading import read_json
from ppvit.report import plots
from ppvit.verbs import predict


def test_long_names_are_cut_and_stay_apart():
    names = ["x" * 30 + "1", "x" * 30 + "2", "x" * 24, "a\u202eb", "c\nd"]
    short = plots.short_names(names)
    assert short == [f"0: {'x' * 23}…", f"1: {'x' * 23}…", "x" * 24, "a\\u202eb", "c\\nd"]
    assert len({*short}) == 5


def test_the_report_of_odd_names_holds_no_markup_of_theirs(tmp_path):
    world = make_world(tmp_path)
    manifest = read_json(world / "raw/dataset.json", "download")
    names = ["</script><script>a()", "猫", "$x_1^{$"]
    write_json(world / "raw/dataset.json", {**manifest, "classes": names})
    write_page(world)
    text = (world / "report.html").read_text()
    assert "<script>a()" not in text
    specs = json.loads(re.search('id="specs">(.*?)</script>', text)[1])
    drawn = specs["specs"]["confusion"]
    assert drawn["encoding"]["y"]["scale"]["domain"] == names


def test_predictions_of_odd_names_and_files_are_one_line_each(tmp_path, monkeypatch):
    names = ["=1+1", "a\u202eb", "猫", "שלום"]
    answers = [[predict.Prediction(name, 25.0) for name in names]] * 2
    monkeypatch.setattr(predict, "run", lambda *_: answers)
    (tmp_path / "params.yaml").write_text(make_config().model_dump_json())
    files = ["one\n.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    result = CliRunner().invoke(app, ["predict", "--params", str(tmp_path / "params.yaml"), *files])
    assert result.output.splitlines() == [
        f"{file}: =1+1 25.0 %, a\\u202eb 25.0 %, 猫 25.0 %, שלום 25.0 %" for file in ("one\\n.png", "caf\\udce9.png")
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_names_are_printed_on_terminals_that_lack_their_letters(encoding):
    code = "from ppvit.core.process import prepared_process\nwith prepared_process(): print('Ä 猫 \\U0001f600')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    expected = "Ä 猫 \U0001f600\n".encode(encoding, "backslashreplace")
    assert done.stdout.replace(b"\r\n", b"\n") == expected
    assert done.stderr == b""
