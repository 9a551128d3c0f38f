"""params.yaml as YAML 1.2: the value that DVC reads, or one line; strict types, and a bound on every number."""

import json
import tracemalloc
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given
from hypothesis import strategies as st

from ppvit.config import Config, Finetune, checked, default_yaml, load
from ppvit.config.loading import PARAMS_BYTES
from ppvit.config.parsing import parse
from ppvit.core.errors import PpvitError, UsageError

ALIAS_BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)

REFUSED = {  # what stands for rank in params.yaml, and what is told of it
    "010": "010 is not the same number in every version of YAML",  # 8 in YAML 1.1
    "+010": "is not the same number",
    "1_000": "is not the same number",
    "0b11": "is not the same number",
    "0o17": "is not the same number",
    "0x1F": "is not the same number",
    "1:30": "should be a valid integer, got '1:30'",  # 90 in YAML 1.1
    "yes": "should be a valid integer, got 'yes'",
    "true": "should be a valid integer, got true",
    "3.0": "should be a valid integer, got 3.0",
    "1e1": "should be a valid integer, got 10.0",
    "'3'": "should be a valid integer, got '3'",
    "2026-11-28": "should be a valid integer, got 2026-11-28",
    "2026-13-45": "month must be in 1..12",
    ".inf": "should be a valid integer",
    ".nan": "should be a valid integer",
    "~": "should be a valid integer, got nothing",
    "": "should be a valid integer, got nothing",
    "[3]": "should be a valid integer, got [3]",
    "{a: 3}": "should be a valid integer",
    "9" * 30: "should be less than or equal to 8192",
    "9" * 5000: "a number has 5000 digits",
    "&r 3": "anchors and aliases are not read",
    "*r": "anchors and aliases are not read",
    "!!int '3'": "the tag tag:yaml.org,2002:int is not read",
    "!!binary aGk=": "the tag tag:yaml.org,2002:binary is not read",
    "!!set {a}": "the tag tag:yaml.org,2002:set is not read",
    "!!python/object/apply:os.system [touch made]": "the tag tag:yaml.org,2002:python/object/apply:os.system",
    "! 3": "the tag ! is not read",
    "{<<: {a: 1}}": "merges are not read",
    "3\n  rank: 4": 'found duplicate key "rank"',
    "3\n---\na: 1": "a second document begins here",
    "3\n\trank: 4": "tab",
    "3\0": "unacceptable character #x0000",
    "3\x1b": "unacceptable character #x001b",
    "[" * 100_000: "nested too deeply",
    '"' + "x" * 50_000 + '"': "should be a valid integer, got 'xxxx",
    "*a9\n" + ALIAS_BOMB: "anchors and aliases are not read",
}


def written(folder: Path, rank: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(default_yaml().replace("  rank: 8", f"  rank: {rank}"))
    return path


@pytest.mark.parametrize(("rank", "told"), REFUSED.items(), ids=[text[:20] for text in REFUSED])
def test_a_value_that_is_not_meant_so_is_refused_in_one_line(tmp_path, monkeypatch, rank, told):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, rank)
    tracemalloc.start()
    with pytest.raises(UsageError) as caught:
        load(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert [each.name for each in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("%YAML 1.1\n---\n" + default_yaml(), "line 1: directives such as %YAML are not read"),
        ("%TAG ! tag:x,2000:\n---\n" + default_yaml(), "line 1: directives"),
        (default_yaml() + "finetune:\n  rank: 9\n", 'found duplicate key "finetune"'),
        ("- dataset\n", "must hold sections"),
        ("just text", "must hold sections"),
        ("", "must hold sections"),
        (default_yaml() + "1: {}\n", "the name 1 is no text"),
        (default_yaml() + "? [a, b]\n: c\n", "the name [a, b] is no text"),
        (default_yaml() + "{}: c\n", "found unhashable key"),
        (default_yaml() + "x" * 1000 + ": {}\n", "unknown section 'xxx"),
        (default_yaml() + '"\\e[31m": {}\n', "unknown section"),
        (
            default_yaml().replace("name: digits", 'name: "a\\0b"'),
            "'dataset.name': must be letters, digits, - and _ alone",
        ),
        (default_yaml().replace("name: digits", "name: 010"), "or in quotes where it is a name"),
        (default_yaml().replace("path: data/none", "path: " + "x" * 5000), "should have at most 4096 characters"),
        (
            default_yaml().replace("  name: digits", "\tname: digits"),
            "line 5: a tab stands at its beginning",
        ),
        (default_yaml() + "<<<<<<< HEAD\nx: 1\n=======\n", ": git left a conflict here; keep one side"),
        (default_yaml().replace("  name: digits", "  name: digits\n  name: a"), 'found duplicate key "name"; keep one'),
        (default_yaml().replace("\ncipher:", "\nCipher:"), "unknown section 'Cipher'; did you mean 'cipher'?"),
        ("rank: 4\n" + default_yaml(), "unknown section 'rank'; it is a parameter of section finetune: write it there"),
        (
            default_yaml().partition("\nreport:")[0] + "\nreport:\n",
            "section 'report' must hold parameters",
        ),
        (default_yaml().replace("finetune:", "finetune: 7 #").replace("  method: lora", ""), "line"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_in_one_line(tmp_path, text, told):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_none_or_too_large_is_not_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(default_yaml() + "#" * PARAMS_BYTES)
    with pytest.raises(PpvitError, match=r"params.yaml is larger than the 262,144 bytes"):
        load(path)
    path.write_bytes(default_yaml().encode("utf-16"))
    with pytest.raises(UsageError, match="is not text in UTF-8, from byte 0 on; save it as UTF-8"):
        load(path)
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(PpvitError, match="is no regular file"):
            load(other)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + default_yaml().replace("\n", "\r\n").encode())
    assert load(path) == load(None)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("finetune.rank='8'", "got '8'; write 8 without quotes"),
        ("finetune.rank=8.0", "got 8.0; write 8"),
        ("finetune.rank=8.5", "got 8.5; it takes 1 to 8,192"),
        ("finetune.rank=[8]", "got [8]; it takes 1 to 8,192"),
        ("finetune.rank=", "got nothing; write a value, such as 8"),
        ("finetune.rank={a: 1}", "got {a: 1}; it takes 1 to 8,192"),
        ("finetune.alpha=much", "got 'much'; it takes above 0 to 1e+06"),
        ("cipher.name=", "got nothing; write a value, such as 'block'"),
        ("cipher.name=true", "got true; write it in quotes where it is a name: 'true'"),
        ("augment.names=null", "got nothing; write a value, such as []"),
        ("augment.names=[null]", "'augment.names.0': input should be a valid string, got nothing; leave it out"),
        ("augment.names={a: b}", "should be a valid list, got {a: b}"),
        ("threats.images=atuo", "got 'atuo'; it takes 1 to 10,000,000 or auto"),
        ("block_siz=4", "; did you mean cipher.block_size"),
        ("finetune.batch_size=true", "should be a valid integer, got true"),
        ("finetune.epochs=1:30", "should be a valid integer, got '1:30'"),
        ("finetune.rank=010", "010 is not the same number"),
        ("finetune.scaled=yes", "should be a valid boolean, got 'yes'"),
        ("finetune.scaled=1", "should be a valid boolean, got 1"),
        ("finetune.alpha='16'", "should be a valid number, got '16'"),
        ("finetune.alpha=.inf", "should be a finite number, got .inf"),
        ("finetune.alpha=.nan", "should be a finite number, got .nan"),
        ("finetune.method=7", "should be a valid string, got 7"),
        ("finetune.method=[lora]", "should be a valid string, got [lora]"),
        ("finetune.target_modules=qkv", "should be a valid list, got 'qkv'"),
        ("finetune.target_modules=[1]", "should be a valid string, got 1"),
        ("finetune.method=&m lora", "anchors and aliases"),
        ("finetune.method=[", "cannot be read as YAML"),
        ("finetune.method=a\n---\nb", "a second document"),
        ("audit.known_pairs={1: 2}", "should be a valid list"),
        ("x" * 9999 + ".y=1", "unknown section 'xxx"),
    ],
)
def test_overrides_are_as_strict_as_the_file(override, told):
    with pytest.raises(UsageError) as caught:
        load(None, [override])
    assert told in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("override", "value"),
    [("learning_rate=1e-3", 0.001), ("learning_rate=1E-3", 0.001), ("alpha=16", 16.0), ("alpha=.5", 0.5)],
)
def test_numbers_as_yaml_1_2_has_them(override, value):
    found = getattr(load(None, [f"finetune.{override}"]).finetune, override.partition("=")[0])
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize("values", [{"rank": True}, {"rank": "8"}, {"rank": 8.0}, {"epochs": 10**9}, {"scaled": 1}])
def test_the_library_is_as_strict(values):
    with pytest.raises(UsageError, match=f"parameter '{next(iter(values))}'"):
        checked(Finetune, **values)


PIECES = st.sampled_from([*"0123456789_+-.:eExXobB~", "yes", "no", "on", "true", "null", "inf", "nan", "<<", "=", " "])


@given(st.lists(PIECES, min_size=1, max_size=6).map("".join))
def test_what_is_read_is_what_dvc_reads_and_no_number_that_yaml_1_1_reads_otherwise(text):
    try:
        value = parse(f"name: {text}")
    except ValueError:
        return
    assert repr(value) == repr(parse_yaml(f"name: {text}", "params.yaml"))  # repr: nan is unequal to itself
    number = value["name"] if isinstance(value, dict) else None
    if type(number) in (int, float):
        old = yaml.safe_load(f"name: {text}")["name"]  # YAML 1.1; it takes 1e3 for a text, and a text is no number
        assert isinstance(old, str) or repr(old) == repr(number)


@given(st.text(max_size=60) | st.text(alphabet="&*!%[]{}:,-?|>'\"#\n\t a1", max_size=60))
def test_any_text_is_read_as_dvc_reads_it_or_refused(text):
    try:
        value = parse(text)
    except ValueError:
        pass
    else:
        assert repr(value or {}) == repr(parse_yaml(text, "params.yaml"))


def _numbers(schema: dict, name: str = ""):
    for inner, of in schema.get("properties", {}).items():
        yield from _numbers(of, f"{name}.{inner}")
    if "items" in schema:
        yield f"{name} (length)", {"minimum": 0, "maximum": schema.get("maxItems")}
        yield from _numbers(schema["items"], f"{name}[]")
    if schema.get("type") == "string" and "enum" not in schema:
        yield f"{name} (length)", {"minimum": 0, "maximum": schema.get("maxLength") or schema.get("pattern")}
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        yield name, schema


def test_every_number_list_and_text_is_bounded():
    sections = Config.model_json_schema()["$defs"]
    found = dict(each for name, schema in sections.items() for each in _numbers(schema, name))
    assert len(found) > 60
    for name, schema in found.items():
        assert "minimum" in schema or "exclusiveMinimum" in schema, name
        assert schema.get("maximum", schema.get("exclusiveMaximum")) is not None, name


def test_what_one_party_writes_the_other_reads(tmp_path):
    """Every value goes through settings.json, card and command line as JSON, which is YAML 1.2, too."""
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(load(None).model_dump()))
    assert load(path) == load(None)
