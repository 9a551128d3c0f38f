"""YAML 1.2 as DVC reads it, and no more of YAML than parameters need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    ScalarEvent,
)

_DEPTH = 8  # of collections in each other; ours are two deep
_DIGITS = 30  # of a number, which is more than any of ours, and a bound on the time that reading one takes
_LIKE_A_NUMBER = re.compile(
    r"[-+]?(?=[0-9.])[0-9_]*\.?[0-9_]*([eE][-+]?[0-9_]+)?|[-+]?0(b[01_]+|o[0-7_]+|x[0-9a-fA-F_]+)"
)
_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def parse(text: str) -> Any:
    """The value of one YAML document: mappings, lists, texts, numbers, truth values and null.

    Read by the library and the call with which DVC reads ``params.yaml``, so that both take a value for the same.
    Refused is what hides work or means different things to different readers: anchors, aliases and merges (`dvc exp
    run -S` loses what is anchored, and a few lines of aliases stand for gigabytes), tags, directives, a second
    document, a name twice, and numbers that YAML 1.1 reads otherwise, such as 010, which is 8 there.

    Raises:
        ValueError: why it is not such YAML, in one line that begins with the number of the line.
    """
    require_plain(text)
    with _reasons(text):
        return YAML(typ="safe").load(text)


@contextmanager
def _reasons(text: str) -> Iterator[None]:
    """Turn what the library says of a text that is no YAML into one line."""
    try:
        yield
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or error).partition("\n")[0][:200]
        line = mark.line if mark else 0
        number, told = _plainly(text.splitlines(), line, reason)
        raise ValueError(f"line {number + 1}: {told}" if mark else told) from None


def _plainly(lines: list[str], number: int, reason: str) -> tuple[int, str]:
    """The number of the line, from 0, and what is wrong with it, in words of people who write parameters."""
    if conflicts := [each for each, line in enumerate(lines) if line.startswith("<<<<<<< ")]:
        return conflicts[0], "git left a conflict here; keep one side and remove its marks"
    line = lines[number] if number < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return number, "a tab stands at its beginning; indent with spaces"
    if reason.startswith("found duplicate key"):
        return number, f"{reason.partition(' with value ')[0]}; keep one"
    return number, reason


def require_plain(text: str) -> None:
    """Refuse what neither parameters nor DVC's lock need of YAML, before any value is made of it.

    Raises:
        ValueError: why, in one line that begins with the number of the line.
    """
    depth = documents = 0
    with _reasons(text):
        for event in YAML(typ="safe").parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            documents += isinstance(event, DocumentStartEvent)
            reason = _reason_against(event)
            if depth > _DEPTH:
                reason = "it is nested too deeply"
            elif documents > 1:
                reason = "a second document begins here; keep one"
            if reason:
                raise ValueError(f"line {event.start_mark.line + 1}: {reason}")


def _reason_against(event: Event) -> str:
    """Why a step of the parser is refused; empty where it is not."""
    if isinstance(event, DocumentStartEvent) and (event.version or event.tags):
        return "directives such as %YAML are not read; remove them"
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
        return "anchors and aliases are not read, since `dvc exp run -S` loses them; write the values out"
    if tag := getattr(event, "tag", None):
        return f"the tag {tag[:60]} is not read; remove it"
    if not isinstance(event, ScalarEvent) or event.style in ("'", '"', "|", ">"):
        return ""
    if event.value == "<<":
        return "merges are not read; write the values out"
    if not _LIKE_A_NUMBER.fullmatch(event.value):
        return ""
    if len(event.value) > _DIGITS:
        return f"a number has {len(event.value)} digits"
    if not _PLAIN_NUMBER.fullmatch(event.value):
        return (
            f"{event.value} is not the same number in every version of YAML; write it in decimal digits, without "
            "leading zeros and underscores, or in quotes where it is a name"
        )
    return ""
