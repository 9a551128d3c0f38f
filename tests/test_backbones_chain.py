"""One network of every kind of positions through all stages: what it computes, what it leaks, what leaves the house."""

import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, write_raw
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_backbones import KINDS, ORDERED, PATCH_4

from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.data.plain import PlainImages
from ppvit.export import export
from ppvit.models import load_model, model_input
from ppvit.models.stems import projection_name, token_order
from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune, verify

OLD, NEW = keys.Key(bytes(range(32))), keys.Key(bytes(range(1, 33)))
CLASSES = 3


class World:
    """A network that was adapted, and the stages that come after it."""

    def __init__(self, shared, kind, folder, **sections):
        side = 4 if kind in PATCH_4 else 8
        cipher = {"name": "block_np", "block_size": side, "key_id": OLD.id} | sections.pop("cipher", {})
        model = {"name": KINDS[kind], "checkpoint": str(weights_of(kind, shared))}
        tuned = {"method": "lora", "rank": 2, "epochs": 1, "batch_size": 12, "learning_rate": 0.05}
        tuned |= sections.pop("finetune", {})
        self.kind = kind
        self.config = make_config(dataset={"image_size": 32}, cipher=cipher, model=model, finetune=tuned,
                                  verify={"wrong_keys": 1}, audit={"attacks": ["weights"], "known_pairs": [1],
                                  "pooled_images": [1], "images": 4, "candidates": 4}, **sections)  # fmt: skip
        encrypted = shared / f"{cipher['name']}-{side}"
        places = make_places(folder, raw=shared / "raw", encrypted=encrypted)
        self.places = places
        if not encrypted.exists():
            encrypt.run(self.config, places)

    def run(self, *stages):
        for stage in stages:
            stage.run(self.config, self.places)
        return self

    def result(self, stage):
        return read_result(self.places, stage)

    def images(self, key=None):
        """The test images, plain or encrypted, as a network takes them."""
        plain = PlainImages(self.places.raw, "test", self.config.dataset, self.config.encrypt)
        pixels = plain.read(0, len(plain))
        pixels = pixels if key is None else load_cipher(self.config, key).encrypt(pixels, plain.ids(0, len(plain)))
        return model_input(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def weights_of(kind, folder):
    """Weights of which none is zero, as normalisations and scales start, so that every layer and place matters."""
    path = folder / f"{KINDS[kind]}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        model = timm.create_model(KINDS[kind], num_classes=CLASSES)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    write_raw(folder / "raw", {"train": 24, "test": 12}, classes=CLASSES, size=32)
    return folder


@pytest.fixture(autouse=True)
def keyring(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path / "ring"))
    for key in (OLD, NEW):
        keys.save(key, tmp_path / "ring", "")


def logits(model, images):
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_every_kind_goes_through_all_stages(kind, shared, tmp_path):
    world = World(shared, kind, tmp_path).run(adapt, finetune, evaluate, verify, audit)
    assert world.result("adapt")["max_logit_difference_float64"] < 1e-9
    adapted = load_model(world.places.adapted, "adapt")
    assert (token_order(adapted) is not None) == (kind in ORDERED)
    measured = world.result("verify")
    assert measured["accuracy_percent"] == world.result("evaluate")["accuracy_percent"]
    assert measured["plain_accuracy_percent"] == measured["accuracy_percent"]
    # the key is read off whatever undoes it
    leaks = world.result("audit")
    assert leaks["weights_key_recovered_percent"] == leaks["weights_finetuned_key_recovered_percent"] == 100
    assert leaks["weights_ssim"] == 1
    assert ("the order of the blocks is given in the clear" in leaks["verdict"]) == (kind in ORDERED)
    # no adapter is on a layer that holds the key, and each has learned something
    adapter = world.places.finetuned / "adapter_model.safetensors"
    first = projection_name(adapted)
    with safe_open(adapter, "pt") as file:
        names = set(file.keys())
        ups = [file.get_tensor(name) for name in names if "lora_B" in name]
    assert not [name for name in names if f".{first}." in name or "token_order" in name or "mlp_tokens" in name]
    assert all(up.abs().max() > 0 for up in ups)
    assert not [name for name in export(world.config, world.places, tmp_path / "hub") if name]
