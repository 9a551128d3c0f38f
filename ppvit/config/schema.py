"""The JSON schema of ``params.yaml``, from which editors complete and check it while it is written."""

from __future__ import annotations

import json
from typing import Any

from ppvit.config.choices import names_of
from ppvit.config.section import CONTROL
from ppvit.config.sections import Config


def schema_json() -> str:
    """``params.schema.json``: sections, parameters with their descriptions, ranges, names and defaults."""
    return json.dumps(schema(), indent=1) + "\n"


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a parameter file: every parameter is required, and no other is known."""
    made = Config.model_json_schema()
    sections = {name: made["$defs"][entry["$ref"].rpartition("/")[2]] for name, entry in made["properties"].items()}
    for name, section in sections.items():
        section["required"] = list(section["properties"])
        for parameter, entry in section["properties"].items():
            if names := names_of(f"{name}.{parameter}"):
                entry.get("items", entry)["enum"] = names
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml of ppvit",
        **_plain({"type": "object", "properties": sections, "required": list(sections), "additionalProperties": False}),
    }


def _plain(entry: Any, named: bool = False) -> Any:
    """Without pydantic's titles, and with regular expressions that every editor's language has.

    Args:
        entry: a schema, or a part of it.
        named: whether its names are those of parameters, which may be called ``title``.
    """
    if isinstance(entry, list):
        return [_plain(each) for each in entry]
    if not isinstance(entry, dict):
        return entry
    kept = {name: value for name, value in entry.items() if named or name != "title"}
    if not named and kept.get("pattern") == CONTROL:
        kept["pattern"] = r"^[^\u0000-\u001f\u007f-\u009f]*$"
    return {name: _plain(value, name == "properties") for name, value in kept.items()}
