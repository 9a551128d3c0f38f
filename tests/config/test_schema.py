"""params.schema.json, from which editors complete and check params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ppvit.config import parameters
from ppvit.config.limits import explained, limits_of
from ppvit.config.schema import schema, schema_json

ROOT = Path(__file__).parents[2]


def test_the_committed_schema_is_current_and_params_yaml_names_it():
    told = "make it again: ppvit schema > params.schema.json"
    assert (ROOT / "params.schema.json").read_text(encoding="utf-8") == schema_json(), told
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=params.schema.json"


def test_every_parameter_has_its_description_and_default():
    sections = schema()["properties"]
    for name, default, description in parameters():
        section, _, parameter = name.partition(".")
        entry = sections[section]["properties"][parameter]
        assert (entry["description"], entry["default"]) == (description, default), name


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("threats.surrogates", "3 to 100"),
        ("finetune.alpha", "above 0 to 1e+06"),
        ("robustness.norm", "linf or l2"),
        ("audit.known_pairs", "1 to 100,000"),
        ("model.mean", "-10 to 10 or none"),
        ("adapt.enabled", "true or false"),
        ("dataset.path", ""),
    ],
)
def test_limits_in_words(name: str, limits: str):
    assert limits_of(name) == limits


def test_help_says_limits_that_the_description_does_not():
    assert explained("threats.surrogates", 3, "models") == "models  [3 to 100; default: 3]"
    assert explained("cipher.name", "block", "which") == "which  [default: block]"  # `ppvit list` has the names


def test_schema_takes_what_loading_takes():
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema())
    checker.check_schema(schema())
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert list(checker.iter_errors(yaml.safe_load(text))) == []
    for old, new in (
        ("  name: block ", "  name: blok "),
        ("  method: lora ", "  method: lorra "),
        ("  rank: 8 ", "  rnak: 8 "),
        ("  rank: 8 ", "  rank: 0 "),
        ("  surrogates: 3 ", "  surrogates: 1 "),
        ("  attacks: [all] ", "  attacks: [weigths] "),
        ("  enabled: true ", "  enabled: 'yes' "),
        ("  mean: [] ", "  mean: [0.5, 20, 0.5] "),
        ("  path: data/none ", '  path: "a\\0b" '),
    ):
        assert text.count(f"\n{old}") == 1, old
        values = yaml.safe_load(text.replace(f"\n{old}", f"\n{new}", 1))
        assert list(checker.iter_errors(values)), new
