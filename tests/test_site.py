"""`make docs`: every page is in the menu, every link leads somewhere, and the reference has what the code has."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT
from typer.main import get_command

import ppvit
from ppvit.cli.command import app
from ppvit.config import parameters


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="the site needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    pages.OUT = folder / "pages"
    pages.main()
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name, place in (
        ("build/docs", folder / "pages"),
        ("build/site", folder / "site"),
        ("[docs/", f"[{ROOT}/docs/"),
        ("[.]", f"[{ROOT}]"),
    ):
        assert name in settings
        settings = settings.replace(name, str(place))
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder / "site"


def test_the_reference_has_every_parameter_verb_and_public_name(site):
    read = {
        name: (site / "docs" / "reference" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("parameters", "command", "python")
    }
    assert not [name for name, _, _ in parameters() if f"<code>{name}</code>" not in read["parameters"]]
    assert not [verb for verb in get_command(app).commands if f'id="ppvit-{verb}"' not in read["command"]]
    for name in ("adapt", "make_cipher", "finetune", "load_finetuned"):
        assert name in ppvit.__all__
        assert f'id="{ppvit._HOMES[name][0]}.{name}"' in read["python"]
    assert "logits" in read["python"]  # of a docstring
    assert ":func:" not in read["python"]


def test_the_first_page_shows_the_picture_and_nothing_is_loaded_from_afar(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="docs/first.jpg"' in page
    assert (site / "docs" / "first.jpg").is_file()
    afar = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page)
    assert not afar
