"""`ppvit export --push`: whole or not at all, nothing secret, a line that says what to do; with a hub of our own."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import yaml
from hub import TOKEN, Hub, serving
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from safetensors.torch import save_file
from secret_forms import forms_of_bytes
from torch import zeros

from ppvit.ciphers.keys import Key
from ppvit.core.errors import PpvitError, UsageError
from ppvit.export import push
from ppvit.export.push import Repository

KEY = Key(bytes(range(32)))
CARD = """---
license: apache-2.0
library_name: peft
datasets: [digits]
metrics: [accuracy]
model-index:
- name: digits
  results:
  - task: {type: image-classification}
    dataset: {type: digits, name: digits}
    metrics: [{type: accuracy, value: 95.0}]
---
# A card
"""


@pytest.fixture
def hub(monkeypatch) -> Hub:
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # which speaks to a service of its own
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """An export, and beside its files what must stay here."""
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "ppvit.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"lora": zeros(300)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "secret.key").write_bytes(KEY.secret)
    (tmp_path / "photo.png").write_bytes(b"plain image" * 9)
    return tmp_path


SENT = {"README.md", "ppvit.json", "adapter_config.json", "adapter_model.safetensors"}


def test_an_export_arrives_whole_and_nothing_else_leaves(hub, folder):
    assert Repository.ready("digits", False).push(folder) == f"{hub.address}/me/digits"
    files = hub.repositories["me/digits"]
    assert set(files) - {".gitattributes"} == SENT
    assert all(files[name] == (folder / name).read_bytes() for name in SENT)
    assert (hub.private["me/digits"], hub.commits["me/digits"]) == (True, 1)
    sent = b"\n".join(hub.received)
    assert not any(secret in sent for secret in {*forms_of_bytes(KEY.secret), b"plain image", b"secret.key", b"photo"})


def test_a_later_export_replaces_an_earlier_one_and_its_files(hub, folder):
    hub.repositories["lab/digits"] = {"model.safetensors": b"old", "README.md": b"old", "notes.txt": b"somebody's"}
    Repository.ready("lab/digits", False).push(folder)
    assert set(hub.repositories["lab/digits"]) == SENT | {"notes.txt"}
    assert hub.commits["lab/digits"] == 1


def test_public_where_it_is_asked_for(hub, folder):
    Repository.ready("me/digits", False, public=True).push(folder)
    assert not hub.private["me/digits"]


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ({"preupload": 403}, "your token may not write to me/digits"),
        ({"PUT /upload": 403}, "your token may not write to me/digits"),
        ({"objects/batch": 422}, "the Hub answered 422"),
        ({"/commit/": 413}, "the Hub answered 413"),
        ({"repos/create": 403}, "your token may not write to me/digits"),
    ],
)
def test_a_push_that_fails_leaves_no_repository_behind(hub, folder, fails, told, tmp_path_factory):
    hub.fails = fails
    folder = shutil.copytree(folder, tmp_path_factory.mktemp("a") / "my export")  # quoted, as a shell takes it
    with pytest.raises(PpvitError) as failed:
        Repository.ready("me/digits", False).push(folder)
    assert told in str(failed.value)
    assert f"{folder} is whole: run again with --force, or hf upload me/digits '{folder}'" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert hub.repositories == {}
    assert {path.name for path in folder.iterdir()} >= SENT


def test_a_push_that_fails_leaves_a_repository_as_it_was(hub, folder):
    before = {"model.safetensors": b"old", "README.md": b"old"}
    hub.repositories["me/digits"], hub.fails = dict(before), {"/commit/": 413}
    with pytest.raises(PpvitError, match="nothing of .* was sent"):
        Repository.ready("me/digits", False).push(folder)
    assert hub.repositories["me/digits"] == before


def test_a_repository_that_cannot_be_removed_is_named(hub, folder):
    hub.fails = {"/commit/": 413, "repos/delete": 403}
    with pytest.raises(PpvitError, match="an empty repository me/digits is left there, delete it"):
        Repository.ready("me/digits", False).push(folder)


def test_a_card_that_the_hub_refuses_makes_no_repository(hub, folder):
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "no-such-licence"))
    with pytest.raises(PpvitError, match=r"the Hub refuses the card \(.*license.*see --license"):
        Repository.ready("me/digits", False).push(folder)
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["a/b/c", "me/with blank", "-digits", "me/..", ""])
def test_what_is_no_name_of_a_repository(hub, name):
    with pytest.raises(UsageError, match="a repository is named as somebody/name"):
        Repository.ready(name, False)


def test_a_server_that_is_not_the_hub_is_told(hub, monkeypatch):
    monkeypatch.setattr(hub, "answer", lambda *_: (200, {}))
    with pytest.raises(PpvitError, match="what answered is not the Hub, .*; see whether HF_ENDPOINT is right"):
        Repository.ready("me/digits", False)


def test_a_hub_that_says_nothing_is_out_of_reach(hub, monkeypatch):
    monkeypatch.setattr(push, "_SILENT_SECONDS", 0.2)
    ended = threading.Event()
    monkeypatch.setattr(hub, "answer", lambda *_: (ended.wait(60), (200, {}))[1])
    try:
        with pytest.raises(PpvitError, match="the Hub cannot be reached"):
            Repository.ready("me/digits", False)
    finally:
        ended.set()


def test_key_material_is_not_sent_at_all(hub):
    with pytest.raises(UsageError, match="--push sends nothing that reveals the key"):
        Repository.ready("me/digits", True)
    assert hub.received == []


def test_what_stands_in_the_way_is_told_before_anything_is_exported(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PpvitError, match="nothing was sent: the Hub does not know your token; `hf auth login`"):
        Repository.ready("me/digits", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PpvitError, match="HF_HUB_OFFLINE forbids it; unset it"):
        Repository.ready("me/digits", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(PpvitError, match="the Hub cannot be reached"):
        Repository.ready("me/digits", False)


def test_without_a_token(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PpvitError, match="there is no token of the Hub here"):
        Repository.ready("me/digits", False)
    with pytest.raises(UsageError, match="--push bad name/x/y: a repository is named as somebody/name"):
        Repository.ready("bad name/x/y", False)


def validated(card: str) -> dict:
    """What huggingface_hub makes of a card's front matter, after it and the Hub have found nothing wrong."""
    loaded = ModelCard(card, ignore_metadata_errors=False)
    loaded.validate()
    values = yaml.safe_load(card.split("---\n")[1])
    model_index_to_eval_results(values["model-index"])
    return loaded.data.to_dict()


def test_the_validator_finds_what_is_wrong(hub):
    assert validated(CARD)["license"] == "apache-2.0"
    with pytest.raises(ValueError, match="license"):
        validated(CARD.replace("apache-2.0", "no-such-licence"))
