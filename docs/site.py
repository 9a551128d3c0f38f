"""Gathers the pages of the site, `make docs`: README, docs, studies and benchmarks, and a reference made from the code.

    python docs/site.py && mkdocs build --strict

Pages lie in build/docs as in the repository, so that links from one to another stay as they are; source files that a
page links to lie beside them. `mkdocs.yml` says in what order a reader finds them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "docs"
_GATHERED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "studies/**/*.md", "benchmarks/README.md")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|exc|data|const):(?=<code>)")


def main() -> None:
    if OUT.exists():
        shutil.rmtree(OUT)
    for pattern in _GATHERED:
        for page in sorted(ROOT.glob(pattern)):
            text = _LINK.sub(lambda link, page=page: _linked(link, page), page.read_text(encoding="utf-8"))
            _write(page.relative_to(ROOT), text)
    _write(Path("docs/reference/parameters.md"), parameters())
    _write(Path("docs/reference/command.md"), command())
    _write(Path("docs/reference/python.md"), python())


def _write(name: Path, text: str) -> None:
    (OUT / name).parent.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(text, encoding="utf-8")


def _linked(link: re.Match[str], page: Path) -> str:
    """A link as the site needs it: to a README where it leads to a folder, to a copy where it leads to code."""
    picture, text, target = link.groups()
    path, _, heading = target.partition("#")
    found = (page.parent / path).resolve()
    if "://" in target or not path or not found.is_relative_to(ROOT):
        return link[0]
    if found.is_dir():
        if not (found / "README.md").is_file():
            return text
        return f"{picture}[{text}]({path.rstrip('/')}/README.md{'#' * bool(heading)}{heading})"
    if found.suffix != ".md":
        copy = OUT / found.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, copy)
    return link[0]


def parameters() -> str:
    """Every parameter of params.yaml, its default and its sentence."""
    from ppvit.config import Config, parameters

    rows = list(parameters())
    lines = ["# Parameters", "", "What `params.yaml` holds. For one run: `dvc exp run -S name=value`."]
    for section in Config.model_fields:
        lines += ["", f"## {section}", "", "| parameter | default | what |", "|---|---|---|"]
        for name, default, description in rows:
            if name.startswith(f"{section}."):
                lines.append(f"| `{name}` | `{default}` | {_cell(description)} |")
    return "\n".join(lines) + "\n"


def command() -> str:
    """The help of every verb."""
    import typer

    from ppvit.cli.command import app

    whole = typer.main.get_command(app)
    lines = ["# The command", "", "As `ppvit --help` and `ppvit <verb> --help` print it.", ""]

    def tell(each: Any, name: str, depth: int) -> None:
        with each.make_context(name, [], resilient_parsing=True) as context:
            lines.extend([f"{'#' * depth} {name}", "", "```text", each.get_help(context).rstrip(), "```", ""])
        for inner, verb in getattr(each, "commands", {}).items():
            tell(verb, f"{name} {inner}", depth + 1)

    tell(whole, "ppvit", 2)
    return "\n".join(lines)


def python() -> str:
    """The public names of ``import ppvit``, for mkdocstrings."""
    import ppvit

    lines = ["# Python", "", ppvit.__doc__ or ""]
    for name in ppvit.__all__:
        if name in ppvit._HOMES:
            lines += ["", f"::: {'.'.join(ppvit._HOMES[name])}", "    options:", f"      heading: ppvit.{name}"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def on_page_content(html: str, **_: Any) -> str:
    """A hook of mkdocs: names in docstrings without the roles that say of what kind they are."""
    return _ROLE.sub("", html)


if __name__ == "__main__":
    main()
