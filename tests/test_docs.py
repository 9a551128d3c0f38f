"""README and docs/: links lead somewhere, and every command, parameter and name in them exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from ppvit.ciphers import CIPHERS
from ppvit.cli.command import app
from ppvit.config import DEMO_KEY_ID, Config, checked, parameters
from ppvit.datasets import DATASETS
from ppvit.pipeline import STAGES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "ppvit" / "cli" / "template" / "files" / "README.md"]
PAGES += [ROOT / "data" / "local" / "README.md", ROOT / "models" / "local" / "README.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PARAMETERS = {name for name, _, _ in parameters()}
MOST_WORDS = 1250
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_VARIABLE = re.compile(r"PPVIT_[A-Z]+(?:_[A-Z]+)*")
_SPAN = re.compile(r"`([^`\n]+)`")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose_of(name: str) -> str:
    return _FENCE.sub("", text_of(name))


def blocks_of(name: str, language: str = "") -> list[str]:
    return [code for kind, code in _FENCE.findall(text_of(name)) if kind == language]


def commands_in(line: str) -> Iterator[list[str]]:
    """The ppvit and dvc commands of a line of shell, as words; of a loop, those of its first turn."""
    if loop := re.match(r"\s*for (\w+) in (\S+)[^;]*;", line):
        line = line.replace(f"${loop[1]}", loop[2])
    for part in re.split(r"\s+#\s.*|&&|;|\s&\s|\s{4,}", line):  # two columns are four spaces apart
        if part and re.match(r"\s*(do\s+)?(ppvit|dvc)\s", part):
            yield shlex.split(part.strip().removeprefix("do "))


def whole_commands_of(name: str) -> list[list[str]]:
    """Those of the code blocks of a page."""
    lines = [line for block in blocks_of(name) for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return [words for line in lines for words in commands_in(line)]


def mentioned_commands_of(name: str) -> list[list[str]]:
    """Those in its running text, which may leave arguments out."""
    return [words for span in _SPAN.findall(prose_of(name)) for words in commands_in(span)]


def parse(command: typer.core.TyperGroup, words: list[str]) -> None:
    """Have the words parsed as the command's, without running it.

    Raises:
        Exception: as of click: no such verb, no such option, an argument too many or missing.
    """
    with command.make_context(command.name, list(words)) as context:
        rest = [*context._protected_args, *context.args]
        if hasattr(command, "resolve_command") and rest:
            _, verb, rest = command.resolve_command(context, rest)
            parse(verb, rest)


@cache
def whole_command() -> typer.core.TyperGroup:
    return typer.main.get_command(app)


def problem_of(words: list[str], whole: bool) -> str:
    """What is wrong with a ppvit command line; empty for nothing."""
    command = whole_command()
    if all(word.startswith("--") for word in words[1:]):  # such as --install-completion, which acts when it is parsed
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        return " ".join(set(words[1:]) - known)
    try:
        parse(command, words[1:])
    except typer.Exit:  # of --help
        return ""
    except Exception as error:
        missing = type(error).__name__ == "MissingParameter"
        return "" if missing and not whole else repr(error)
    return ""


def require_valid(given: list[str], name: str) -> None:
    """Every ``section.name=value`` is a parameter and a value that it takes, together with the others."""
    sections: dict[str, dict[str, object]] = {}
    for each in given:
        parameter, _, value = each.partition("=")
        assert parameter in PARAMETERS, f"{each} in {name}"
        if value.startswith("$"):  # of a loop in the shell, or of DVC's matrix
            continue
        section, _, of_section = parameter.partition(".")
        sections.setdefault(section, {})[of_section] = yaml.safe_load(value)
    for section, values in sections.items():
        checked(Config.model_fields[section].annotation, **values)
    for parameter, names in {"cipher.name": CIPHERS, "dataset.name": DATASETS, "finetune.method": methods()}.items():
        section, _, of_section = parameter.partition(".")
        assert sections.get(section, {}).get(of_section) in (None, *names), f"{parameter} in {name}"


@cache
def methods() -> set[str]:
    """The fine-tuning methods of docs/methods.md, which another test compares with the code."""
    return set(re.findall(r"^\| `(\w+)` \|", text_of("docs/methods.md"), re.M))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(name)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{target} in {name}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", file.read_text(encoding="utf-8")), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{target} in {name}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name):
    """Verbs, options and arguments, as the command itself understands them."""
    for commands, whole in ((whole_commands_of(name), True), (mentioned_commands_of(name), False)):
        for words in commands:
            if words[0] == "ppvit" and "<" not in words[1]:
                assert not (problem := problem_of(words, whole)), f"{shlex.join(words)} in {name}: {problem}"


@pytest.mark.parametrize("name", NAMES)
def test_parameters_exist_and_take_the_values(name):
    for words in [*whole_commands_of(name), *mentioned_commands_of(name)]:
        given = [value for option, value in pairwise(words) if option in ("-S", "--set")]
        given = [each.replace("pk-...", DEMO_KEY_ID) for each in given if not each.startswith("section.name=")]
        require_valid([each if "[" in each else each.split(",")[0] for each in given], name)  # 2,8 is a grid
    for span in _SPAN.findall(prose_of(name)):  # such as cipher.name=none, and adapt.enabled
        found = re.fullmatch(r"([a-z]+)\.([a-z0-9_]+)(=\S+)?", span)
        if found and found[1] in Config.model_fields and found[2] not in ("json", "py", "md"):
            assert f"{found[1]}.{found[2]}" in PARAMETERS, f"{span} in {name}"
            require_valid([span] if found[3] else [], name)


@pytest.mark.parametrize("name", NAMES)
def test_stages_named_to_dvc_exist(name):
    stages = set(yaml.safe_load(text_of("dvc.yaml"))["stages"])
    for words in whole_commands_of(name) + mentioned_commands_of(name):
        verb = words[1:3] if words[1] == "exp" else words[1:2]
        if words[0] == "dvc" and verb in (["repro"], ["push"], ["pull"], ["exp", "run"]):
            after = list(pairwise(words[len(verb) :]))
            targets = {word for before, word in after if before not in ("-S", "-C", "-r") and word[0] not in "-$<"}
            assert targets <= stages, f"{shlex.join(words)} in {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_what_a_stage_reads(stage):
    """As docs/parameters.md says, single parameters of a section included."""
    text = CliRunner().invoke(app, [stage, "--help"]).stdout
    read = [
        name for name in PARAMETERS if name in STAGES[stage].sections or name.split(".")[0] in STAGES[stage].sections
    ]
    assert read
    assert not [name for name in read if name not in text]


def test_environment_variables_are_those_of_the_code():
    files = [
        path for folder in ("ppvit", "stages") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", "")
    ]
    used = {name for path in files if path.is_file() for name in _VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert set(_VARIABLE.findall(text_of("docs/parameters.md"))) == used
    assert {variable for name in NAMES for variable in _VARIABLE.findall(text_of(name))} == used


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles_and_imports_what_there_is(name):
    for block in blocks_of(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ppvit"):
                path = ROOT.joinpath(*node.module.split("."))
                source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
                assert {alias.name for alias in node.names} <= defined_in(source), f"{node.module} in {name}"


def defined_in(source: Path) -> set[str]:
    """Names at the top of a module, which is not imported: peft and torch would take seconds."""
    names = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_readme_is_short_and_its_tree_is_complete():
    outside = re.sub(r"^```.*?^```$", "", text_of("README.md"), flags=re.M | re.S)
    assert len(outside.split()) <= MOST_WORDS
    tree = next(block for block in blocks_of("README.md") if "pipeline/" in block)
    shown = set(re.findall(r"[\w.]+(?=/| )", tree))
    entries = {path.name for path in (ROOT / "ppvit").iterdir() if path.name[0] not in "_." and path.suffix != ".typed"}
    assert entries <= shown


def test_every_page_is_in_the_index():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w.]+)\)", text_of("docs/README.md")))
    assert "docs/README.md" in text_of("README.md")
