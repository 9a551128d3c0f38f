"""Adaptation is exact: the adapted model sees ciphertext as the plain model sees plain images."""

import json

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ppvit import adapt
from ppvit.adapt import (
    adapt_model,
    decrypt_embedding,
    encrypt_embedding,
    fold_normalization,
    read_embedding,
    write_embedding,
)
from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.errors import PpvitError, UsageError
from ppvit.keys import Key
from ppvit.models import Backbone, load_backbone, load_model, save_model

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def plain_and_adapted_logits(
    backbone: Backbone, cipher, images: np.ndarray, dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computed here from scratch: torchvision-like normalisation, the untouched model, then the adapted one."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        plain = backbone.model.to(dtype)(((tensor.double() / 255 - mean) / std).to(dtype))
        backbone.model.double()
        plain_embedding = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
        write_embedding(backbone.model, encrypt_embedding(plain_embedding, cipher.affine_map()))
        encrypted = torch.from_numpy(cipher.encrypt(images)).permute(0, 3, 1, 2)
        return plain, backbone.model.to(dtype)((encrypted.double() / 127.5 - 1).to(dtype))


VARIANTS = {
    "class token": {},
    "no prefix, mean pool": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "position embedding on patches only": {"no_embed_class": True},
    "registers, patches only": {"reg_tokens": 4, "no_embed_class": True},
    "mean pool beside a class token": {"global_pool": "avg"},
    "convolution without bias": {"pre_norm": True},
    "layer scale": {"init_values": 0.1},
    "query and key norms": {"qk_norm": True},
}


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("statistics", [HALF, IMAGENET], ids=["half", "imagenet"])
def test_logits_are_equal(name, variant, statistics, key):
    cipher = make_cipher(name, key, 16, 4)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    backbone = tiny_backbone(mean=statistics[0], std=statistics[1], **VARIANTS[variant])
    plain, adapted = plain_and_adapted_logits(backbone, cipher, images, torch.float64)
    assert (plain - adapted).abs().max() < 1e-6
    backbone = tiny_backbone(mean=statistics[0], std=statistics[1], **VARIANTS[variant])
    plain, adapted = plain_and_adapted_logits(backbone, cipher, images, torch.float32)
    assert (plain - adapted).abs().max() < 1e-3
    assert plain.abs().max() > 0.1  # logits that are all zero would be equal as well


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_base_patch16_clip_224",
        "vit_tiny_patch16_224",
    ],
)
def test_architectures_of_the_field(name, key):
    """DeiT (two prefix tokens and heads), DINO-style (layer scale), CLIP (no bias, norm before), AugReg; two layers."""
    torch.manual_seed(0)
    p = 14 if "14" in name else 16
    model = timm.create_model(name, img_size=2 * p, depth=2, num_classes=5).eval()
    backbone = Backbone(model, name, {"img_size": 2 * p, "depth": 2, "num_classes": 5}, *IMAGENET)
    measured = adapt_model(backbone, make_cipher("block_np", key, 2 * p, p))
    assert measured["max_logit_difference_float64"] < 1e-6
    assert measured["max_logit_difference_float32"] < 1e-3


@given(st.binary(min_size=32, max_size=32), st.sampled_from(sorted(CIPHERS)))
@settings(max_examples=15, deadline=None)
def test_adaptation_is_undone_exactly(secret, name):
    affine = make_cipher(name, Key(secret), 16, 4).affine_map()
    plain = read_embedding(tiny_backbone().model)
    undone = decrypt_embedding(encrypt_embedding(plain, affine), affine)
    torch.testing.assert_close(undone.weight, plain.weight, rtol=0, atol=0)
    torch.testing.assert_close(undone.positions, plain.positions, rtol=0, atol=0)
    torch.testing.assert_close(undone.bias, plain.bias, rtol=0, atol=0)


def test_normalising_ciphertext_is_the_trap(key):
    """With ImageNet statistics, subtracting channel means after pixel shuffling is wrong; folding first is exact."""
    cipher = make_cipher("shuffle", key, 16, 4)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    backbone = tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1])
    plain, _ = plain_and_adapted_logits(backbone, cipher, images, torch.float64)
    trapped = tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1]).model.double()
    write_embedding(trapped, encrypt_embedding(read_embedding(trapped), cipher.affine_map()))  # not folded
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in IMAGENET)
    encrypted = torch.from_numpy(cipher.encrypt(images)).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        assert (trapped((encrypted / 255 - mean) / std) - plain).abs().max() > 1e-3


def test_unadapted_baseline_differs_but_is_written(key):
    measured = adapt_model(tiny_backbone(), make_cipher("block", key, 16, 4), enabled=False)
    assert measured["max_logit_difference_float64"] > 1e-2


@pytest.mark.parametrize(
    ("name", "arguments", "cipher", "told"),
    [
        ("resnet18", {}, "shuffle", "has no patch convolution"),
        ("vit_tiny_r_s16_p8_224", {"img_size": 32}, "shuffle", "has no patch convolution"),
        ("convnext_atto", {}, "shuffle", "has no patch convolution"),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 1}, "block", "knows patch positions by other means"),
        ("vit_relpos_small_patch16_224", {"img_size": 32, "depth": 1}, "block", "knows patch positions by other means"),
        ("mixer_s16_224", {"img_size": 32}, "block", "has no patch convolution"),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "depth": 1},
            "block4",
            "patches have 16 pixels a side; set cipher.block_size",
        ),
    ],
)
def test_unsupported_models_are_refused(name, arguments, cipher, told, key):
    model = timm.create_model(name, **arguments).eval()
    block = 4 if cipher == "block4" else 14 if "14" in name else 16
    size = arguments.get("img_size", 32)
    with pytest.raises(UsageError, match=told):
        adapt.require_adaptable(model, make_cipher(cipher.removesuffix("4"), key, size, block))


def test_pixel_steps_alone_suit_rotary_models(key):
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1, num_classes=5).eval()
    backbone = Backbone(model, "eva02_tiny_patch14_224", {"img_size": 28, "num_classes": 5}, *IMAGENET)
    assert adapt_model(backbone, make_cipher("shuffle", key, 28, 14))["max_logit_difference_float64"] < 1e-6


def test_beyond_tolerance_the_stage_fails(key, monkeypatch):
    monkeypatch.setattr(adapt, "encrypt_embedding", lambda embedding, affine: embedding)
    with pytest.raises(PpvitError, match="differs from the plain one"):
        adapt_model(tiny_backbone(), make_cipher("block", key, 16, 4))


def test_saved_model_loads_with_plain_timm(tmp_path, key):
    backbone = tiny_backbone()
    adapt_model(backbone, make_cipher("block", key, 16, 4))
    save_model(tmp_path / "adapted", backbone, {"key_id": key.id})
    loaded = timm.create_model(f"local-dir:{tmp_path / 'adapted'}", pretrained=True).eval()
    image = torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), backbone.model(image), rtol=0, atol=0)
    assert list(loaded.pretrained_cfg["mean"]) == [0.5, 0.5, 0.5]
    # and timm's own transform scales to [-1, 1]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=loaded))
    from PIL import Image

    pixels = transform(Image.new("RGB", (16, 16), (255, 128, 0)))
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([1.0, 128 / 127.5 - 1, -1.0]))


def test_new_head_even_for_as_many_classes(tmp_path, key):
    backbone = tiny_backbone(num_classes=7)
    save_model(tmp_path / "adapted", backbone, {})
    same = load_model(tmp_path / "adapted", "adapt")
    fresh = load_model(tmp_path / "adapted", "adapt", num_classes=7)
    torch.testing.assert_close(same.head.weight, backbone.model.head.weight)
    assert not torch.equal(fresh.head.weight, backbone.model.head.weight)
    torch.testing.assert_close(fresh.pos_embed, backbone.model.pos_embed)


def write_checkpoint(path, image_size: int = 32, num_classes: int = 11):
    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224", img_size=image_size, num_classes=num_classes)
    save_file(model.state_dict(), path)
    return model


def test_checkpoint_of_another_image_size_and_head(tmp_path):
    path = tmp_path / "w.safetensors"
    model = write_checkpoint(path)
    same = load_backbone("vit_tiny_patch16_224", path, 32, tmp_path)
    assert same.model_args["num_classes"] == 11
    torch.testing.assert_close(same.model.pos_embed, model.pos_embed)
    larger = load_backbone("vit_tiny_patch16_224", path, 48, tmp_path)
    assert larger.model.pos_embed.shape == (1, 1 + 9, 192)


def test_checkpoint_errors(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        load_backbone("vit_tiny_patch16_224", tmp_path / "nowhere.safetensors", 32, empty)
    with pytest.raises(UsageError, match="'vit_nonsense' is not a timm model"):
        load_backbone("vit_nonsense", empty, 32, empty)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(PpvitError, match="cannot be read as weights"):
        load_backbone("vit_tiny_patch16_224", path, 32, empty)
    write_checkpoint(path)
    with pytest.raises(PpvitError, match="does not fit model.name vit_small_patch16_224"):
        load_backbone("vit_small_patch16_224", path, 32, empty)
    torch.save({"x": Exception}, tmp_path / "evil.pth")
    with pytest.raises(PpvitError, match="is not a plain weights file"):
        load_backbone("vit_tiny_patch16_224", tmp_path / "evil.pth", 32, empty)
    with pytest.raises(UsageError, match="cannot be adapted|cannot be built"):
        load_backbone("resnet18", path, 32, empty)
    (empty / "a.safetensors").write_bytes(b"")
    (empty / "b.pth").write_bytes(b"")
    with pytest.raises(UsageError, match="holds 2 weights files; name one"):
        load_backbone("vit_tiny_patch16_224", empty, 32, empty)


def test_without_a_network_the_hub_is_told_and_the_remedy(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        PpvitError, match="cannot be fetched from timm's hub .* set model.checkpoint to a local"
    ) as caught:
        load_backbone("vit_small_patch16_384.augreg_in1k", tmp_path, 32, tmp_path)
    assert "\n" not in str(caught.value)


def test_run_writes_model_record_and_measurement(tmp_path, monkeypatch):
    path = tmp_path / "micro.safetensors"
    save_file(tiny_micro().state_dict(), path)
    config = make_config(model={"checkpoint": str(path)})
    for attempt in ("a", "b"):
        adapt.run(config, tmp_path / "unused", tmp_path / attempt, tmp_path / f"{attempt}.json")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    record = json.loads((tmp_path / "a" / "config.json").read_text())["ppvit"]
    assert record["key_id"] == config.cipher.key_id
    assert record["demo_key"] is True
    assert json.loads((tmp_path / "a.json").read_text())["max_logit_difference_float64"] < 1e-6


def tiny_micro():
    from ppvit.models import MICRO, MICRO_ARCHITECTURE

    torch.manual_seed(0)
    return timm.create_model(MICRO_ARCHITECTURE, **MICRO, num_classes=4)


@pytest.mark.assets
def test_real_vit_tiny(assets, tmp_path, key):
    """The pretrained ViT-Ti at 224 px: the acceptance bounds of the specification on real weights."""
    weights = assets / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    backbone = load_backbone("vit_tiny_patch16_224", weights, 224, tmp_path)
    assert sum(parameter.numel() for parameter in backbone.model.parameters()) == 5_717_416
    measured = adapt_model(backbone, make_cipher("block_np", key, 224, 16))
    assert measured["max_logit_difference_float64"] < 1e-6
    assert measured["max_logit_difference_float32"] < 1e-3
