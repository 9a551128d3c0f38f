"""Which parameters methods, augmentations and attacks read, as their sources tell it and as their classes do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_config

import ppvit
from ppvit.config.choices import CHOICES
from ppvit.config.methods import read_by_attacks, read_by_augmentations, read_by_method
from ppvit.core.declared import declared
from ppvit.core.errors import UsageError

WANTED = {
    "finetune.method": {"reads": ..., "unread": ...},
    "augment.names": {"reads": ...},
    "audit.attacks": {"reads": ()},
}


@pytest.mark.parametrize("parameter", WANTED)
def test_sources_tell_what_the_entries_say(parameter, monkeypatch):
    wanted, choice = WANTED[parameter], CHOICES[parameter]
    entries = choice.registered()
    monkeypatch.setattr(type(choice), "registered", None)  # the sources are enough
    facts = choice.facts([], **wanted)
    assert facts.keys() == set(entries)
    for name, entry in entries.items():
        assert {each: tuple(facts[name][each]) for each in wanted} == {each: getattr(entry, each) for each in wanted}


def test_one_that_is_entered_elsewhere_is_asked_itself(monkeypatch):
    from ppvit.tuners import TUNERS, Tuner

    for table in ("_entries", "_places"):
        monkeypatch.setattr(TUNERS, table, dict(getattr(TUNERS, table)))

    @TUNERS.register("elsewhere")
    class Elsewhere(Tuner):
        reads = ("rank", "scaled")
        unread = ("layer_decay",)

    read = read_by_method(make_config(finetune={"method": "elsewhere"}).finetune)
    assert {"rank", "scaled", "epochs"} <= read
    assert not {"alpha", "layer_decay"} & read
    assert "scaled" not in read_by_method(make_config(finetune={"method": "lora"}).finetune)


@pytest.mark.parametrize(
    ("read_by", "section"),
    [(read_by_method, "finetune"), (read_by_augmentations, "augment"), (read_by_attacks, "audit")],
)
def test_a_name_that_there_is_not_is_refused(read_by, section):
    field = {"finetune": "method", "augment": "names", "audit": "attacks"}[section]
    value = "lorra" if section == "finetune" else ["lorra"]
    settings = getattr(make_config(), section).model_copy(update={field: value})
    with pytest.raises(UsageError, match="lorra"):
        read_by(settings)


def test_what_a_source_does_not_say_plainly_is_no_fact(tmp_path, monkeypatch):
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "one.py").write_text(
        "class Base:\n    reads = ('a',)\n    unread: tuple = ()\n"
        "@KINDS.register()\nclass First(Base):\n    name = 'first'\n"
        "@KINDS.register()\nclass Second(Base):\n    name = 'second'\n    reads = (*Base.reads, 'b')\n"
        "@entry('third', reads=('c',))\ndef third(): ...\n"
    )
    monkeypatch.setattr(ppvit, "__file__", str(tmp_path / "__init__.py"))
    facts = declared.__wrapped__("kinds").facts
    assert facts["first"] == {"name": "first", "reads": ("a",), "unread": ()}
    assert facts["second"] == {"name": "second", "unread": ()}
    functions = declared.__wrapped__("kinds", "entry")
    assert functions.facts == {"third": {"reads": ("c",)}}
    assert functions.complete
    with (tmp_path / "kinds" / "one.py").open("a") as file:
        file.write("@entry('fourth', reads=CONSTANT)\ndef fourth(): ...\n")
    assert not declared.__wrapped__("kinds", "entry").complete


def test_settings_loads_nothing_that_takes_seconds(tmp_path):
    code = (
        "import sys; from ppvit.config import load; from ppvit.pipeline.settings import settings_of;"
        "settings_of(load());"
        "print(*{'torch', 'timm', 'peft', 'sklearn', 'scipy', 'transformers'} & sys.modules.keys())"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, text=True, check=True, capture_output=True)
    assert told.stdout.strip() == ""
