"""Another key for what there is: the very bytes that raw data would give, and a model that goes on working."""

import copy
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, tiny_backbone, write_raw
from test_finetune import QUICK, places_of, train

from ppvit.adaptation.adapt import adapt_model
from ppvit.adaptation.rekey import move_adapter
from ppvit.ciphers import keys, make_cipher
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.keys import Key
from ppvit.core import files
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import write_json
from ppvit.core.provenance import identities
from ppvit.core.reading import read_json, sha256_of, sha256_of_folder
from ppvit.data.plain import PlainImages
from ppvit.evaluation.shards import score_shards
from ppvit.models import Backbone, load_model, model_input, save_model
from ppvit.models.stems import projection_name
from ppvit.places import Places
from ppvit.tuners import load_finetuned
from ppvit.verbs import encrypt, rekey

OLD, NEW, THIRD = (Key(bytes([number]) * 32) for number in (1, 2, 3))
CIPHERS = {
    "shuffle": {},
    "block_np": {},
    "etc": {},
    "subblock_etc": {"key_scope": "block"},
    "restricted": {},
    "le": {},
    "ele": {},
    "pe": {},
    "pe of every image": {"name": "pe", "key_scope": "image"},
    "disposable": {},
    "ffx": {},
    "orthogonal": {},
}


@pytest.fixture(autouse=True)
def ring():
    for key in (OLD, NEW, THIRD):
        keys.save(key)


def config_of(key: Key, cipher: str, enabled: bool = True, **finetune):
    options = {"name": cipher, "token_width": 24, **CIPHERS.get(cipher, {}), "key_id": key.id}
    return make_config(
        dataset={"image_size": 16}, cipher=options, adapt={"enabled": enabled},
        encrypt={"images_per_shard": 16}, finetune={**QUICK, **finetune},
    )  # fmt: skip


def made(root: Path, raw: Path, key: Key, cipher: str, enabled: bool = True) -> Places:
    """Shards and adapted model under a key, from raw data and public weights."""
    config = config_of(key, cipher, enabled)
    places = replace(places_of(root), raw=raw)
    encrypt.run(config, places)
    used, backbone = load_cipher(config), tiny_backbone(mean=(0.48, 0.45, 0.4), std=(0.2, 0.22, 0.23))
    adapt_model(backbone, used, enabled)
    save_model(places.adapted, backbone, {**used.record, "model": "tiny", "adapted": enabled})
    return places


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw") / "digits", {"train": 40, "test": 12})


@pytest.mark.parametrize("cipher", CIPHERS)
def test_shards_and_weights_are_those_of_a_fresh_run(tmp_path, raw, cipher):
    enabled = make_cipher(**cipher_arguments(cipher), key=OLD).affine_map() is not None
    moved, fresh = (made(tmp_path / key.id, raw, key, cipher, enabled) for key in (OLD, NEW))
    before = sha256_of_folder(moved.encrypted)
    assert rekey.run(moved, OLD.id, NEW.id) == [moved.encrypted, moved.adapted]
    assert sha256_of_folder(moved.encrypted) == sha256_of_folder(fresh.encrypted) != before
    assert sha256_of(moved.adapted / "config.json") == sha256_of(fresh.adapted / "config.json")
    if cipher != "orthogonal":  # all others move and negate float32 numbers, which rounds none
        assert sha256_of_folder(moved.adapted) == sha256_of_folder(fresh.adapted)
    found, expected = (load_model(places.adapted, "adapt").state_dict() for places in (moved, fresh))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert rekey.run(moved, OLD.id, NEW.id) == []  # again: there is nothing left to do


def test_shards_of_a_trainer_without_test_images_have_all_files_that_dvc_expects(tmp_path, raw):
    places = made(tmp_path, raw, OLD, "block")
    for name in ("test", "track_test_true.json"):
        path = places.encrypted / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    rekey.run(places, OLD.id, NEW.id)
    assert read_json(places.encrypted / "track_test_true.json", "encrypt") == []
    assert read_json(places.encrypted / "track_test_false.json", "encrypt") == []


def cipher_arguments(cipher: str) -> dict:
    return {"name": cipher, "image_size": 16, "block_size": 4} | CIPHERS.get(cipher, {})


def logits(places: Places, key: Key, cipher: str) -> torch.Tensor:
    config = config_of(key, cipher)
    plain = PlainImages(places.raw, "test", config.dataset, config.encrypt).read(0, 12)
    encrypted = torch.from_numpy(load_cipher(config).encrypt(plain).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return load_finetuned(places.adapted, places.finetuned, 3)(model_input(encrypted))


def trained(root: Path, raw: Path, cipher: str, method: str, enabled: bool = True) -> Places:
    places = made(root, raw, OLD, cipher, enabled)
    train(root, config_of(OLD, cipher, enabled, method=method, target_modules=[], learning_rate=2e-2, epochs=2))
    return places


@pytest.mark.parametrize(
    ("cipher", "method"),
    [
        *(("block_np", method) for method in ("lora", "melo", "lora_patch", "full", "linear", "vpt_deep", "adapter")),
        *(("ele", method) for method in ("lora", "lora_patch", "full")),  # a kernel of nibbles at every position
        *(("orthogonal", method) for method in ("dora", "lora_patch", "full")),
    ],
)
def test_a_fine_tuned_model_goes_on_working(tmp_path, raw, cipher, method):
    places = trained(tmp_path, raw, cipher, method)
    expected, wrong = logits(places, OLD, cipher), logits(places, NEW, cipher)
    accuracy = score_shards(places.encrypted, places.adapted, places.finetuned).accuracy_percent()
    adapter = places.finetuned / "adapter_model.safetensors"
    before = sha256_of(adapter) if adapter.exists() else ""
    write_json(places.result("finetune"), {"method": method, **identities(places.adapted, places.finetuned)})
    rekey.run(places, OLD.id, NEW.id)
    result = read_json(places.result("finetune"), "finetune")  # the report wants it to be of the model that is there
    assert result == {"method": method, **identities(places.adapted, places.finetuned)}
    found = logits(places, NEW, cipher)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (wrong - expected).abs().max() > 1e-2  # the key matters
    # as `evaluate` does it: all files agree that they belong together
    assert score_shards(places.encrypted, places.adapted, places.finetuned).accuracy_percent() == accuracy
    record = read_json(places.finetuned / "ppvit.json", "finetune")
    assert record["key_id"] == NEW.id
    assert OLD.id.encode() not in b"".join(path.read_bytes() for path in places.finetuned.iterdir())
    if before:
        assert (sha256_of(adapter) == before) is (method != "lora_patch")


def test_a_model_that_was_not_adapted(tmp_path, raw):
    """It learned the key by training: in its first layer where that was trained, else nowhere to be moved from."""
    places = trained(tmp_path / "full", raw, "block_np", "full", enabled=False)
    expected = logits(places, OLD, "block_np")
    rekey.run(places, OLD.id, NEW.id)
    torch.testing.assert_close(logits(places, NEW, "block_np"), expected, rtol=1e-4, atol=1e-4)
    places = trained(tmp_path / "lora", raw, "block_np", "lora", enabled=False)
    before = sha256_of_folder(tmp_path / "lora")
    with pytest.raises(UsageError, match="is not adapted to its key.*train again"):
        rekey.run(places, OLD.id, NEW.id)
    assert sha256_of_folder(tmp_path / "lora") == before
    for each in ("ele", "ffx"):  # another first layer would be needed; there is no map
        places = trained(tmp_path / each, raw, each, "full", enabled=False)
        with pytest.raises(UsageError, match="cannot be moved|no exact adaptation"):
            rekey.run(places, OLD.id, NEW.id)


def test_what_cannot_be_moved_is_told_in_one_line(tmp_path, raw):
    def told(places: Places, old: Key = OLD, new: Key = NEW) -> str:
        before = sha256_of_folder(tmp_path)
        with pytest.raises(PpvitError) as raised:
            rekey.run(places, old.id, new.id)
        assert sha256_of_folder(tmp_path) == before
        return str(raised.value)

    places = made(tmp_path / "a", raw, OLD, "block_np")
    assert "is the old key and the new one" in told(places, OLD, OLD)
    assert f"was made with key {OLD.id}, not with {THIRD.id}" in told(places, THIRD, NEW)
    assert "is not in the keyring" in told(places, OLD, Key(bytes(32)))
    assert "nothing to bring to another key" in told(places_of(tmp_path / "nothing"))
    mixed = replace(places, adapted=made(tmp_path / "b", raw, OLD, "shuffle").adapted)
    assert "was made with cipher" in told(mixed)
    stored = config_of(OLD, "orthogonal")
    stored = stored.model_copy(update={"cipher": stored.cipher.model_copy(update={"storage": "uint8"})})
    rounded = replace(places_of(tmp_path / "c"), raw=raw)
    encrypt.run(stored, rounded)
    assert "cipher 'orthogonal' loses bits" in told(rounded)
    tokens = replace(places_of(tmp_path / "d"), raw=raw)
    encrypt.run(config_of(OLD, "neuracrypt"), tokens)
    assert "cipher 'neuracrypt' has no decryption" in told(tokens)
    plain = replace(places_of(tmp_path / "e"), raw=raw)
    encrypt.run(config_of(OLD, "none"), plain)
    assert "was made without a key" in told(plain)
    shard = places.encrypted / "train" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-3000])
    assert "000001.tar does not match its manifest" in told(places)


def test_out_leaves_the_old_ones(tmp_path, raw):
    places = trained(tmp_path / "old", raw, "block_np", "lora")
    before, expected = sha256_of_folder(tmp_path / "old"), logits(places, OLD, "block_np")
    out = tmp_path / "new"
    assert rekey.run(places, OLD.id, NEW.id, out) == [out / name for name in ("encrypted", "adapted", "finetuned")]
    assert sha256_of_folder(tmp_path / "old") == before
    moved = replace(places, adapted=out / "adapted", finetuned=out / "finetuned")
    torch.testing.assert_close(logits(moved, NEW, "block_np"), expected, rtol=1e-4, atol=1e-4)


def killed_before(put: int, places: Places) -> None:
    """Bring places to the new key in a process that SIGKILL ends once ``put`` of them have taken their place."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        return
    original, left = files._put_in_place, put

    def put_in_place(temporary: Path, target: Path) -> None:
        nonlocal left
        if target.name in ("encrypted", "adapted", "finetuned"):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        original(temporary, target)

    files._put_in_place = put_in_place
    rekey.run(places, OLD.id, NEW.id)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no SIGKILL here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_between_any_two_the_same_call_does_the_rest(tmp_path, raw):
    whole = trained(tmp_path / "whole", raw, "block_np", "lora_patch")
    write_json(whole.result("finetune"), identities(whole.adapted, whole.finetuned))
    for put in range(3):
        shutil.copytree(tmp_path / "whole", tmp_path / str(put))
    rekey.run(whole, OLD.id, NEW.id)
    for put in range(3):
        places = places_of(tmp_path / str(put))
        killed_before(put, places)
        written = rekey.run(places, OLD.id, NEW.id)
        assert [path.name for path in written] == ["encrypted", "adapted", "finetuned"][put:]
        for name in ("encrypted", "adapted", "finetuned", "results"):
            assert sha256_of_folder(tmp_path / str(put) / name) == sha256_of_folder(tmp_path / "whole" / name)
        assert not list((tmp_path / str(put)).glob(".*.partial"))


def test_a_projection_under_an_unusual_name_is_moved_too():
    """Twins has it as ``patch_embeds.0.proj``; left as it was, it would be of the old key without a word."""
    torch.manual_seed(0)
    model = timm.create_model("twins_svt_small", num_classes=3, img_size=32).eval()
    old, new = (make_cipher("block", key, 32, 4) for key in (OLD, NEW))
    adapt_model(Backbone(model, "twins_svt_small", {}, (0.5,) * 3, (0.5,) * 3), old)
    first = projection_name(model)
    assert first == "patch_embeds.0.proj"
    prefix = "base_model.model."
    trained = {f"{prefix}{name}": value + 1 if value.is_floating_point() else value.clone()
               for name, value in model.state_dict().items() if name.startswith(f"{first}.")}  # fmt: skip
    moved = move_adapter(trained, copy.deepcopy(model), old, new)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8).numpy()

    def logits(tensors, cipher):
        other = copy.deepcopy(model)
        other.load_state_dict({name.removeprefix(prefix): value for name, value in tensors.items()}, strict=False)
        encrypted = torch.from_numpy(cipher.encrypt(images, np.arange(2))).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return other(model_input(encrypted))

    torch.testing.assert_close(logits(moved, new), logits(trained, old), rtol=1e-4, atol=1e-5)
    assert not torch.equal(logits(trained, new), logits(trained, old))
