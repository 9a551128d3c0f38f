"""Names of classes in drawings and on the terminal: formulae, markup and every script as they are, none of it run."""

import base64
import os
import subprocess
import sys
import xml.etree.ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_config
from test_report import make_world, write_page
from typer.testing import CliRunner

from ppvit.cli.command import app
from ppvit.core.files import write_json
from ppvit.core.reading import read_json
from ppvit.report import page
from ppvit.verbs import predict

FORMULAE = ["$x_1^{$", "$\\frac{1}{2}$", "\\LaTeX{", "%d {0}", "^_&~#"]
MARKUP = ["<b>&amp;", "--><script>x</script>", "]]>", "&#x41;", "\"'`"]
SCRIPTS = ["猫 $x_1$", "😀", "שלום", "مرحبا", "नमस्ते"]
OWN = ["é", "Å", "кошка", "α", "ß"]  # which matplotlib's font has


def drawing(names):
    tables = SimpleNamespace(confusion=np.eye(len(names), dtype=int))
    uri = page._draw(lambda axes: page._draw_confusion(axes, tables, names), page.short_names(names))
    return base64.b64decode(uri.partition(",")[2]).decode()


def elements(svg, kind):
    return [each for each in xml.etree.ElementTree.fromstring(svg).iter() if each.tag.rpartition("}")[2] == kind]


def texts(svg):
    return [element.text for element in elements(svg, "text")]


@pytest.mark.parametrize("names", [FORMULAE, MARKUP, OWN])
def test_names_that_the_font_has_are_drawn_as_shapes(names):
    svg = drawing(names)  # warnings are errors here: a letter without a shape would be one
    assert texts(svg) == []
    assert elements(svg, "script") == elements(svg, "b") == []


@pytest.mark.parametrize("names", [SCRIPTS, ["猫", *MARKUP], ["שלום", *FORMULAE]])
def test_other_names_are_left_to_the_browser_letter_by_letter(names):
    svg = drawing(names)
    written = texts(svg)
    assert [name for name in written if name in names] == [*names, *names]  # on either axis
    assert elements(svg, "script") == elements(svg, "b") == []


def test_long_names_are_cut_and_stay_apart():
    names = ["x" * 30 + "1", "x" * 30 + "2", "x" * 24, "a\u202eb", "c\nd"]
    short = page.short_names(names)
    assert short == [f"0: {'x' * 23}…", f"1: {'x' * 23}…", "x" * 24, "a\\u202eb", "c\\nd"]
    assert len({*short}) == 5


def test_the_report_of_odd_names_holds_no_markup_of_theirs(tmp_path):
    world = make_world(tmp_path)
    manifest = read_json(world / "raw/dataset.json", "download")
    write_json(world / "raw/dataset.json", {**manifest, "classes": ["</svg><script>alert(1)", "猫", "$x_1^{$"]})
    write_page(world)
    text = (world / "report.html").read_text()
    assert "<script" not in text
    drawn = [base64.b64decode(each.partition('"')[0]).decode() for each in text.split("data:image/svg+xml;base64,")[1:]]
    assert all("<script" not in svg for svg in drawn)
    assert any("猫" in svg for svg in drawn)


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
