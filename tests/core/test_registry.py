"""How ciphers, methods, attacks and data sets get their names: a file in a package's folder is enough."""

import sys
from pathlib import Path

import pytest

from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.registry import Registry

HEAD = "from toys import TOYS\n\n"


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A package with a registry and two modules, which nothing has imported yet."""
    folder = tmp_path / "toys"
    folder.mkdir()
    package = "from ppvit.core.registry import Registry\n\nTOYS = Registry('toys', 'toy.name')\n"
    (folder / "__init__.py").write_text(package)
    (folder / "animals.py").write_text(
        HEAD + "@TOYS.register('bear', 'bears')\ndef bear(): pass\n\n"
        "@TOYS.register()\nclass Rabbit:\n    name = 'rabbit'\n"
    )
    (folder / "vehicles.py").write_text(
        HEAD + "@TOYS.register('train', place=1)\ndef train(): pass\n\n"
        "TOYS.refuse('rockets need fuel', 'rocket', 'missile')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


def registry() -> Registry:
    from toys import TOYS

    return TOYS


def test_modules_are_found_and_ordered_by_place_then_file(toys: Path):
    found = registry()
    assert "toys.animals" not in sys.modules  # until a name is asked for
    assert list(found) == ["train", "bear", "bears", "rabbit"]
    assert found["bear"] is found["bears"]
    assert found["rabbit"].name == "rabbit"
    assert len(found) == 4
    assert "rocket" not in found


def test_one_file_adds_one(toys: Path):
    (toys / "dolls.py").write_text(HEAD + "@TOYS.register('doll')\ndef doll(): pass\n")
    assert list(registry()) == ["train", "bear", "bears", "rabbit", "doll"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bera", "unknown toy.name 'bera'; did you mean 'bear'?"),
        ("zzz", "unknown toy.name 'zzz'; there are train, bear, bears, rabbit"),
        ("rocket", "toy.name: 'rocket' is not supported, because rockets need fuel"),
    ],
)
def test_names_that_there_are_not(toys: Path, name: str, told: str):
    with pytest.raises(UsageError) as caught:
        registry()[name]
    assert str(caught.value) == told


def test_a_name_is_given_once(toys: Path):
    found = registry()
    assert "bear" in found
    with pytest.raises(ValueError, match="toys has two entries named 'bear'"):
        found.register("bear")(object())


def test_a_module_that_cannot_be_imported_is_told_every_time(toys: Path):
    (toys / "broken.py").write_text("import nothing_of_that_name\n")
    for _ in range(2):
        with pytest.raises(PpvitError, match="nothing_of_that_name"):
            list(registry())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def doll(:\n", "toys.dolls cannot be used (SyntaxError: line 1"),
        ("import nothing_of_this_name\n", "toys.dolls cannot be used (ModuleNotFoundError: No module named"),
        (HEAD + "@TOYS.register('bear')\ndef doll(): pass\n", "toys.dolls cannot be used (ValueError: toys has two"),
        (HEAD + "@TOYS.register()\nclass Doll: pass\n", "toys.dolls cannot be used (AttributeError"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(toys: Path, text: str, told: str):
    (toys / "dolls.py").write_text(text)
    with pytest.raises(PpvitError) as caught:
        list(registry())
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("; correct or remove its file")
    assert "\n" not in str(caught.value)
