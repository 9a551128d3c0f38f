"""Pages from their templates: one way to make them, with style and scripts inside, and no others that would run."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ppvit.report.terms import explained


def render(template: str, scripts: tuple[str, ...] = (), **values: Any) -> str:
    """A page.

    Args:
        template: file of this folder.
        scripts: files of it that the page runs, in this order; of ``plots.html`` that is Vega, which draws plots.
        values: for the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppvit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sort_key"] = sort_key
    texts = [_script(name) for name in scripts]
    return environment.get_template(template).render(
        **values,
        style=Markup(_text("page.css")),
        scripts=[Markup(text) for text in texts],
        hashes=" ".join(f"'sha256-{_sha256(text)}'" for text in texts),
        explained=explained,
    )


def sort_key(cell: Any) -> str:
    """What a cell of a column of numbers is sorted by: its number, or nothing, which comes last."""
    number = re.fullmatch(r"(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?: ?%| of \d+)?", str(cell).strip())
    return number[1].replace(",", "") if number else ""


def _script(name: str) -> str:
    text = _text(name)
    return text.partition("<script>")[2].partition("</script>")[0] if name.endswith(".html") else text


def _text(name: str) -> str:
    return files("ppvit.report").joinpath(name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """As a content security policy names a script, so that no other one is run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
