"""One network of every kind of positions through all stages: what it computes, what it leaks, what leaves the house."""

import contextlib
import copy
import re
from dataclasses import replace

import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, write_raw
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_backbones import KINDS, MIXERS, ORDERED, PATCH_4

from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.provenance import require_made_alike
from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import undo_adaptation
from ppvit.export import export
from ppvit.he.parties import features as he_features
from ppvit.models import backbone_of, load_model, model_input
from ppvit.models.mixing import mixing_weights
from ppvit.models.stems import projection_name, token_order
from ppvit.tuners import TUNERS, load_finetuned, make_tuner
from ppvit.tuners.made import blocks_sha256, made_models
from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune, rekey, robustness, threats, verify

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


def trained(world, method, **settings):
    """The same network trained by another method."""
    finetuned = {**world.config.finetune.model_dump(), "method": method, **settings}
    config = make_config(
        **{name: section.model_dump() for name, section in world.config if name != "finetune"}, finetune=finetuned
    )
    places = replace(world.places, finetuned=world.places.finetuned / method, results=world.places.results / method)
    other = copy.copy(world)
    other.config, other.places = config, places
    return other.run(finetune, evaluate)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_every_kind_goes_through_all_stages(kind, shared, tmp_path):
    world = World(shared, kind, tmp_path).run(adapt, finetune, evaluate, verify, audit)
    assert world.result("adapt")["max_logit_difference_float64"] < 1e-9
    adapted = load_model(world.places.adapted, "adapt")
    assert (token_order(adapted) is not None) == (kind in ORDERED)
    measured = world.result("verify")
    assert measured["accuracy_percent"] == world.result("evaluate")["accuracy_percent"]
    assert measured["plain_accuracy_percent"] == measured["accuracy_percent"]
    # the key is read off whatever undoes it, and the report says off what
    leaks = world.result("audit")
    assert leaks["weights_key_recovered_percent"] == leaks["weights_finetuned_key_recovered_percent"] == 100
    assert leaks["weights_ssim"] == 1
    assert ("the order of the blocks is given in the clear" in leaks["verdict"]) == (kind in ORDERED)
    assert ("weights between patches tell their order" in leaks["verdict"]) == (kind in MIXERS)
    # no adapter is on a layer that holds the key, and every one has learned something
    with safe_open(world.places.finetuned / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
        ups = [file.get_tensor(name) for name in names if "lora_B" in name]
    keyed = (f".{projection_name(adapted)}.", "token_order", *mixing_weights(adapted))
    assert not [name for name in names if any(part in name for part in keyed)]
    assert ups
    assert all(up.abs().max() > 0 for up in ups)
    assert export(world.config, world.places, tmp_path / "hub") == []  # and the adapter leaves the house as it is


@pytest.mark.parametrize("kind", KINDS)
def test_plain_timm_loads_the_folder_right_or_not_at_all(kind, shared, tmp_path):
    """Its filters drop saved names that end in relative_position_index or hold rope, so tables that it makes itself
    would be those of plain images: such folders must stop it, whatever number of classes is asked for."""
    world = World(shared, kind, tmp_path).run(adapt)
    folder = f"local-dir:{world.places.adapted}"
    if kind in ORDERED:
        for arguments in ({}, {"num_classes": 5}, {"num_classes": 0}):
            with pytest.raises(RuntimeError, match="token_order"):
                timm.create_model(folder, pretrained=True, **arguments)
        return
    backbone = backbone_of(world.config, world.places.embedded)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    expected = logits(backbone.model, (world.images() / 2 + 0.5 - mean) / std)
    found = logits(timm.create_model(folder, pretrained=True).eval(), world.images(OLD))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (logits(backbone.model, (world.images(OLD) / 2 + 0.5 - mean) / std) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "method", "reveals"),
    [
        ("dinov3", "full", {"patch_embed.proj.weight", "patch_embed.proj.token_order", "patch_embed.proj.bias"}),
        ("dinov3", "lora_patch", {"patch_embed.proj.weight", "patch_embed.proj.token_order", "patch_embed.proj.bias"}),
        ("naflex", "lora_patch", {"embeds.proj.weight", "embeds.proj.token_order", "embeds.proj.bias"}),
        ("convnext", "full", {f"stem.{name}" for name in ("0.weight", "0.bias", "0.token_order", "1.weight",
            "1.bias")}),
        ("gmlp", "full", {f"stem.proj.{name}" for name in ("weight", "bias")} | {
            f"blocks.{block}.mlp_channels.gate.proj.{name}" for block in range(2) for name in ("weight", "bias")}),
    ],
)  # fmt: skip
def test_trained_first_layers_are_key_material_and_move_to_another_key(kind, method, reveals, shared, tmp_path):
    world = trained(World(shared, kind, tmp_path).run(adapt), method)
    with pytest.raises(UsageError, match="these tensors reveal the key"):
        export(world.config, world.places, tmp_path / "hub")
    told = export(world.config, world.places, tmp_path / "hub", with_key_material=True)
    assert {name.removeprefix("base_model.model.") for name in told} == reveals
    before = load_finetuned(world.places.adapted, world.places.finetuned, CLASSES)
    expected = logits(before, world.images(OLD))
    undo_adaptation(before, load_cipher(world.config))
    torch.testing.assert_close(logits(before, world.images()), expected, rtol=1e-4, atol=1e-4)
    rekey.run(replace(world.places, encrypted=tmp_path / "none"), OLD.id, NEW.id)
    after = load_finetuned(world.places.adapted, world.places.finetuned, CLASSES)
    torch.testing.assert_close(logits(after, world.images(NEW)), expected, rtol=1e-4, atol=1e-4)
    assert (logits(after, world.images(OLD)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "method"), [("swin", "lora"), ("convnext", "full"), ("focalnet", "linear")])
def test_models_without_blocks_still_belong_together_under_another_key(kind, method, shared, tmp_path):
    """No tensor of theirs is named blocks, by which others are known; a key must not make another network of them."""
    world = trained(World(shared, kind, tmp_path).run(adapt), method)
    rekey.run(replace(world.places, encrypted=tmp_path / "none"), OLD.id, NEW.id)
    require_made_alike(*made_models(world.places.adapted, world.places.finetuned))
    before = blocks_sha256(world.places.adapted)
    state = load_file(world.places.adapted / "model.safetensors")
    inner = next(name for name in state if name.endswith("mlp.fc1.weight"))
    save_file(state | {inner: state[inner] + 1}, world.places.adapted / "model.safetensors")
    assert blocks_sha256(world.places.adapted) != before


def uncalled(tuned):
    """The adapted layers that a forward pass does not go through."""
    left = {module: name for name, module in tuned.named_modules() if isinstance(module, BaseTunerLayer)}

    def called(module, *_):
        left.pop(module, None)

    for module in list(left):
        module.register_forward_hook(called)
    logits(tuned, torch.zeros(1, 3, 32, 32))
    return list(left.values())


@pytest.mark.parametrize("kind", ["eva02", "relpos", "mixer", "swinv2", "convnext", "focalnet"])
def test_every_method_reaches_the_network_or_refuses_in_one_line(kind):
    """A layer that timm reads the weight of without calling it would train nothing, without a word."""
    torch.manual_seed(0)
    base = timm.create_model(KINDS[kind], num_classes=CLASSES).eval()
    works = []
    for method in TUNERS:
        tuner = make_tuner(make_config(finetune={"method": method, "rank": 4, "frequencies": 20}).finetune)
        with contextlib.suppress(UsageError):
            tuned = tuner.attach(copy.deepcopy(base)).eval()
            assert uncalled(tuned) == [], method
            works.append(method)
    assert {"full", "linear", "lora", "rslora", "dora", "hra", "ia3"} <= set(works)
    assert kind == "focalnet" or {"fourierft", "vera", "boft", "pissa", "eva"} <= set(works)


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("mixer", {"target_modules": ["mlp_tokens.fc1"]}, "'mlp_tokens.fc1' holds the key after adaptation"),
        ("naflex", {"target_modules": ["embeds.proj"]}, "'embeds.proj' holds the key after adaptation"),
        ("beit", {"target_modules": ["attn.qkv"]}, "Beit reads the weight of 'attn.qkv' past the layer"),
        ("beit", {"method": "melo"}, "method melo is for layers that end in 'attn.qkv': Beit reads the weight"),
        (
            "relpos",
            {"target_modules": ["rel_pos.mlp.fc1"]},
            "no linear layer ends in 'rel_pos.mlp.fc1'; there are attn",
        ),
        ("gmlp", {"method": "adapter"}, "works on mlp_channels.fc1, mlp_channels.fc2"),
        ("dinov3", {"method": "vpt_deep"}, "needs a plain timm ViT, not Eva"),
        ("convnext", {"method": "lora_patch"}, "no linear layer ends in 'attn.qkv'"),
    ],
)
def test_refusals_say_why(kind, settings, told):
    model = timm.create_model(KINDS[kind], num_classes=CLASSES)
    with pytest.raises(UsageError, match=re.escape(told)):
        make_tuner(make_config(finetune=settings).finetune).attach(model)


def test_layers_that_only_seem_to_be_meant_are_left_out():
    """'proj' names the attention's and the patch embedding of NaFlex, 'mlp.fc2' the blocks' and that of positions."""
    for kind, method, ending, unmeant in (
        ("naflex", "lora", "proj", "embeds"),
        ("relpos", "lora", "mlp.fc2", "rel_pos"),
        ("relpos", "adapter", "mlp.fc2", "rel_pos"),
        ("relpos", "hta_adapter", "mlp.fc2", "rel_pos"),
    ):
        model = timm.create_model(KINDS[kind], num_classes=CLASSES)
        settings = {"method": method, "target_modules": [ending], "rank": 2}
        tuned = make_tuner(make_config(finetune=settings).finetune).attach(model)
        layers = [name for name, module in tuned.named_modules() if isinstance(module, BaseTunerLayer)]
        assert len(layers) == 2, (kind, method)
        assert all(name.endswith(f".{ending}") and unmeant not in name for name in layers)


def test_an_order_that_the_trainer_changed_is_refused(shared, tmp_path):
    """Of a patch embedding that trained as a whole the file has the order too, and a forged one may point anywhere."""
    world = trained(World(shared, "dinov3", tmp_path).run(adapt), "lora_patch")
    path = world.places.finetuned / "adapter_model.safetensors"
    tensors = load_file(path)
    (name,) = [name for name in tensors if name.endswith("token_order")]
    for forged in (tensors[name].flip(0), torch.full_like(tensors[name], 2**40)):
        save_file({**tensors, name: forged}, path, metadata={"format": "pt"})
        with pytest.raises(PpvitError, match="token_order' is not that of the base"):
            load_finetuned(world.places.adapted, world.places.finetuned, CLASSES)


def test_attacks_on_images_and_features_go_through_an_ordered_network(shared, tmp_path):
    sections = {
        "robustness": {"images": 4, "steps": 4, "attack": "pgd"},
        "threats": {"images": 4, "queries": 2, "surrogate_images": 12},
        "he": {"features": "backbone"},
    }
    world = World(shared, "dinov3", tmp_path, **sections).run(adapt, finetune, evaluate, robustness, threats)
    assert world.result("threats")["k2_key_recovered_percent"] == 100
    # with the key and white box, from plain images: what the trainer can do on ciphertext
    assert world.result("threats")["k1_accuracy_percent"] <= world.result("threats")["clean_accuracy_percent"]
    backbone = he_features.backbone_of(world.config, world.places.embedded)
    features, _ = he_features.extract(world.config, world.places.raw, "test", 4, backbone)
    assert features.shape == (4, 32)
