"""params.yaml: what is accepted, and how a mistake is told."""

import json
from pathlib import Path

import pytest
import yaml

from ppvit.ciphers import keys
from ppvit.config import DEMO_KEY_ID, Config, default_yaml, load, parameters
from ppvit.core.errors import UsageError

ROOT = Path(__file__).parents[2]
DEFAULTS = yaml.safe_load(default_yaml())


def test_committed_params_are_the_documented_defaults():
    assert load(ROOT / "params.yaml") == Config.model_validate(yaml.safe_load(default_yaml()))
    assert (ROOT / "params.yaml").read_text() == default_yaml()


def test_every_parameter_is_described():
    assert all(description for _, _, description in parameters())


def test_demo_key_id_is_that_of_the_demo_key():
    assert keys.DEMO_KEY.id == DEMO_KEY_ID


def test_no_section_or_parameter_is_named_key_or_item():
    # DVC reserves both in matrix stages
    names = {part for name, _, _ in parameters() for part in name.split(".")}
    assert not names & {"key", "item"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("finetune.metod=lora", "unknown parameter 'finetune.metod'; did you mean 'method'?"),
        ("finetun.method=lora", "unknown section 'finetun' in 'finetun.method=lora'; did you mean 'finetune'?"),
        (
            "finetune.rank=four",
            "parameter 'finetune.rank': input should be a valid integer, got 'four'",
        ),
        ("finetune.rank=0", "parameter 'finetune.rank': input should be greater than or equal to 1, got 0"),
        ("finetune.optimizer=lion", "parameter 'finetune.optimizer'"),
        ("cipher.key_id=secret", "parameter 'cipher.key_id': must be a key id such as pk-0123456789abcdef"),
        ("cipher.block_size=5", "cipher.block_size 5 does not divide dataset.image_size 32"),
        ("audit.known_pairs=[0]", "parameter 'audit.known_pairs.0': input should be greater than or equal to 1, got 0"),
        ("rank", "'rank' is not of the form section.name=value"),
    ],
)
def test_mistakes_are_told_in_one_line(override: str, told: str):
    with pytest.raises(UsageError) as caught:
        load(ROOT / "params.yaml", [override])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_section_and_broken_yaml(tmp_path: Path):
    values = yaml.safe_load(default_yaml())
    del values["cipher"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="section 'cipher' is missing; add it"):
        load(path)
    path.write_text("dataset: [")
    with pytest.raises(UsageError, match="cannot be read as YAML: line 2: "):
        load(path)
    with pytest.raises(UsageError, match="is missing"):
        load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", [name for name, _, _ in parameters()])
def test_a_parameter_that_the_file_lacks_is_refused(name: str, tmp_path: Path):
    section, parameter = name.split(".")
    value = DEFAULTS[section][parameter]
    path = tmp_path / "params.yaml"
    others = {other: given for other, given in DEFAULTS[section].items() if other != parameter}
    path.write_text(json.dumps({**DEFAULTS, section: others}))  # which is YAML too, and ten times as fast
    with pytest.raises(UsageError) as caught:
        load(path)
    assert str(caught.value) == f"{path} lacks '{name}'; add it (`ppvit params` prints them all)"
    assert load(path, [f"{name}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"]) is not None


def test_a_misspelt_parameter_is_told_before_the_one_that_is_missing_for_it(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(default_yaml().replace("  rank:", "  rnk:"))
    with pytest.raises(UsageError, match="unknown parameter 'finetune.rnk'; did you mean 'rank'?"):
        load(path)


def test_the_library_has_defaults():
    assert Config.model_validate({name: {} for name in Config.model_fields}) == load(ROOT / "params.yaml")


def test_an_empty_section_is_told_with_overrides_too(tmp_path):
    values = yaml.safe_load(default_yaml())
    values["finetune"] = None
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    for overrides in ([], ["finetune.rank=3"]):
        with pytest.raises(UsageError, match="finetune"):
            load(path, overrides)
