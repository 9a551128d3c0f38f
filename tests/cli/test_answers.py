"""Every verb answers ``--json`` with one document, has an example in its help, and tables fall back to plain text."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from test_docs import problem_of
from test_git_secrets import verbs
from typer.testing import CliRunner

from ppvit.ciphers import keys
from ppvit.ciphers.keys import Key
from ppvit.cli.answers import Answer, Table, answering, run_command
from ppvit.cli.command import app
from ppvit.cli.examples import EXAMPLES
from ppvit.config import default_yaml, load
from ppvit.config.recipes import recipe_named
from ppvit.core.errors import UsageError
from ppvit.core.files import write_json
from ppvit.pipeline import STAGES, Stage

VERBS = sorted(verbs())


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path / "ring"))
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "params.yaml").write_text(default_yaml())
    return tmp_path


def noisy(stage: Stage, config, places) -> None:
    """In place of a stage's work: prints as work does, and leaves a result."""
    print("work")
    if "results" in stage.outputs:
        write_json(places.result(stage.name), {"figure": 1.5})


def words_of(example: str) -> list[str]:
    return shlex.split(example.split(" > ")[0])


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_one_document_whether_a_verb_succeeds_or_not(verb, project, monkeypatch):
    monkeypatch.setattr(Stage, "run_as_asked", noisy)
    monkeypatch.setattr("ppvit.report.demo.page.serve", lambda *_: None)  # which ends with Ctrl-C
    words = words_of(EXAMPLES[verb][0])[1:]
    done = CliRunner().invoke(app, [*words, *(["--json"] if "--json" not in words else [])])
    document = json.loads(done.stdout)
    if verb in STAGES:
        assert document["stage"] == verb
        assert document["result"] == ({"figure": 1.5} if "results" in STAGES[verb].outputs else {})
        assert "work" in done.stderr
    failed = isinstance(document, dict) and "error" in document
    if verb == "doctor":  # which found that this project has no weights
        assert (done.exit_code, document["problems"]) == (1, ["weights"])
        return
    assert failed == (done.exit_code != 0), done.stderr
    if failed:
        assert list(document) == ["error"]
        assert document["error"] == str(done.exception)


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_in_examples_that_parse(verb):
    text = CliRunner().invoke(app, [*verb.split(), "--help"]).stdout
    assert "--json" in text
    examples = re.findall(r"^ +(ppvit .*)$", re.split(r"^ +Examples?:$", text, flags=re.M)[1].split("\n\n")[0], re.M)
    assert examples == list(EXAMPLES[verb])
    for example in examples:
        words = words_of(example)
        assert words[1 : 1 + len(verb.split())] == verb.split()
        assert problem_of(words, whole=True) == ""
        load(None, [words[number + 1] for number, word in enumerate(words) if word == "-S"])
        if verb == "recipe":
            recipe_named(words[2])


def test_no_example_is_of_a_verb_that_there_is_not():
    assert set(EXAMPLES) == set(VERBS)


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_what_is_started_prints_on_stderr_too():
    """By the descriptor, as a C library or a process that a verb starts does; afterwards all is as before."""
    code = """
import os, subprocess, sys
from ppvit.cli.answers import Answer, answering
def verb():
    print("python")
    os.write(1, b"library\\n")
    subprocess.run(["echo", "process"], check=True)
    return Answer({"done": True}, ["text"])
answering(verb)(as_json=True)
print("after")
"""
    done = run(code)
    assert done.stdout == '{\n  "done": true\n}\nafter\n'
    assert {"python", "library", "process"} == set(done.stderr.split())
    second = run(code, RANK="1")  # of several processes the first alone answers
    assert second.stdout == "after\n"


def test_a_verb_that_ends_the_process_leaves_a_document(capsys):
    def verb() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        answering(verb)(as_json=True)
    assert "exit code 3" in json.loads(capsys.readouterr().out)["error"]


def test_a_group_leaves_the_option_to_its_verb(project):
    done = CliRunner().invoke(app, ["he", "--json", "train"])
    assert "write options after the verb: " in str(done.exception)
    assert done.exit_code != 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_are_drawn_on_a_terminal_and_plain_elsewhere(monkeypatch):
    rows = [("pk-1", "[red]mine[/red] \x1b[2J", "file"), ("pk-22", "", "keychain")]
    answer = Answer({}, (), Table(("key", "label", "kept"), rows), told=["two keys"])
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stdout", stream)
        answer.show()
        text = stream.getvalue()
        monkeypatch.undo()
        assert "\x1b[2J" not in text
        assert "[red]mine[/red]" in text  # shown as it is written, and obeyed by nobody
        assert ("label" in text) == stream.isatty()
        assert ("two keys" in text) == stream.isatty()
        if not stream.isatty():
            lines = text.splitlines()
            assert [line.index("file" if "file" in line else "keychain") for line in lines] == [32, 32]
            assert all(line == line.rstrip() for line in lines)


def test_keys_are_the_same_as_text_and_in_json(project):
    key = Key(bytes(32))
    keys.save(key, project / "ring", "alice")
    text = CliRunner().invoke(app, ["keys"]).stdout
    listed = json.loads(CliRunner().invoke(app, ["keys", "--json"]).stdout)
    (mine,) = [each for each in listed if each["key_id"] == key.id]
    assert (mine["label"], mine["kept"]) == ("alice", "file")
    assert f"{key.id}  alice  file\n" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "--json", "--nope"], "No such option: --nope"),
        (["predict", "--json"], "Missing argument"),
        (["--json", "doctor"], "--json stands before the verb; write options after it: "),
        (["--json"], "--json stands before the verb"),
        (["-S", "he.iterations=1", "he", "--json"], "-S stands before the verb"),
        (["--jsno", "doctor", "--json"], "No such option: --jsno"),
        (["evaluat", "--json"], "No such command 'evaluat'"),
        (["show", "--json", "--count", "few"], "--count"),
        (["he", "--json", "train"], "write options after the verb: "),
    ],
)
def test_a_wrong_option_is_a_document_too(words, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ppvit", *words])
    with pytest.raises((SystemExit, UsageError)) as ended:
        run_command(app)
    output = capsys.readouterr()
    assert list(document := json.loads(output.out)) == ["error"]
    assert told in document["error"]
    assert told in f"{output.err}{ended.value}"  # an error of ours is printed by who prepares the process
    assert getattr(ended.value, "code", 2) == 2
