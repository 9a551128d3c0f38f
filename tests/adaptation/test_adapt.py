"""Adaptation is exact: the adapted model sees ciphertext as the plain model sees plain images."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import cifar, enlarged, make_config, make_places, photographs, read_result, tiny_backbone, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_ciphers import MAPPED, UNMAPPED, cipher_of, images_of
from timm.models.convmixer import ConvMixer

from ppvit.adaptation.adapt import adapt_model, require_adaptable
from ppvit.adaptation.embedding import (
    decrypt_embedding,
    encrypt_embedding,
    fold_normalization,
    read_embedding,
    write_embedding,
)
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key
from ppvit.config import NO_MODEL
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.reading import sha256_of_folder
from ppvit.models import (
    MICRO,
    MICRO_ARCHITECTURE,
    Backbone,
    load_backbone,
    load_model,
    model_input,
    read_record,
    save_model,
)
from ppvit.models.batch_norm import set_batch_norm
from ppvit.models.stems import add_adaptive_matrix
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import load_finetuned, make_tuner, save_finetuned
from ppvit.verbs import adapt

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
VISIBLE = 1e-4  # tiny models hardly see the order of blocks: 1e-3, a thousand times what adaptation may err
KEYED_AND_MAPPED = [variant for variant in MAPPED if variant != "none"]


def normalised(backbone: Backbone, images: np.ndarray) -> torch.Tensor:
    """As torchvision does it, float64; computed here from scratch."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    return (channels_first(images) / 255 - mean) / std


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double()


def logits(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs.to(next(model.parameters()).dtype))


def plain_and_adapted_logits(
    backbone: Backbone, cipher, images: np.ndarray, dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The untouched model on plain images, then the adapted one on ciphertext (of float ciphers: before rounding)."""
    plain = logits(backbone.model.to(dtype), normalised(backbone, images))
    backbone.model.double()
    plain_embedding = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
    write_embedding(backbone.model, encrypt_embedding(plain_embedding, cipher.affine_map()))
    encrypted = channels_first(cipher.encrypt_exactly(images))
    return plain, logits(backbone.model.to(dtype), encrypted / 127.5 - 1)


PREFIXES = {
    "class token": {},
    "no prefix, mean pool": {"class_token": False, "global_pool": "avg"},
    "two prefix tokens": {"reg_tokens": 1},
    "registers": {"reg_tokens": 4},
    "position embedding on patches only": {"no_embed_class": True},
    "two prefix tokens, patches only": {"reg_tokens": 1, "no_embed_class": True},
    "registers, patches only": {"reg_tokens": 4, "no_embed_class": True},
    "mean pool beside a class token": {"global_pool": "avg"},
    "convolution without bias": {"pre_norm": True},
    "layer scale": {"init_values": 0.1},
    "query and key norms": {"qk_norm": True},
}


@pytest.mark.parametrize("variant", MAPPED)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("statistics", [HALF, IMAGENET], ids=["half", "imagenet"])
def test_logits_are_equal(variant, prefix, statistics, key):
    cipher, images = cipher_of(variant, key), images_of(16, 2, seed=1)
    backbone = tiny_backbone(mean=statistics[0], std=statistics[1], **PREFIXES[prefix])
    untouched = copy.deepcopy(backbone)
    plain, adapted = plain_and_adapted_logits(backbone, cipher, images, torch.float64)
    assert (plain - adapted).abs().max() < 1e-6
    plain, adapted = plain_and_adapted_logits(untouched, cipher, images, torch.float32)
    assert (plain - adapted).abs().max() < 1e-3
    assert plain.abs().max() > 0.1  # logits that are all zero would be equal as well


def test_prefix_tokens_are_counted_as_timm_counts_them():
    counts = [tiny_backbone(**arguments).model.num_prefix_tokens for arguments in PREFIXES.values()]
    assert set(counts) == {0, 1, 2, 5}


@pytest.mark.parametrize("variant", MAPPED)
@pytest.mark.parametrize("statistics", [HALF, IMAGENET], ids=["half", "imagenet"])
def test_distilled_models_with_two_heads(variant, statistics, key):
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 7}
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_distilled_patch16_224", **arguments).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    backbone = Backbone(model, "deit_tiny_distilled_patch16_224", arguments, *statistics)
    plain, adapted = plain_and_adapted_logits(backbone, cipher_of(variant, key), images_of(16, 2), torch.float64)
    assert model.num_prefix_tokens == 2
    assert (plain - adapted).abs().max() < 1e-6
    assert plain.abs().max() > 0.1


@pytest.mark.parametrize("variant", KEYED_AND_MAPPED)
def test_without_adaptation_logits_differ(variant, key):
    """The comparison can fail: ciphertext given to the plain model, and plain images to the adapted one."""
    cipher, images, backbone = cipher_of(variant, key), images_of(16, 2, seed=1), tiny_backbone()
    ciphertext = channels_first(cipher.encrypt_exactly(images)) / 127.5 - 1
    plain = logits(backbone.model, normalised(backbone, images))
    assert (logits(backbone.model, ciphertext) - plain).abs().max() > VISIBLE
    adapt_model(backbone, cipher)
    assert (logits(backbone.model, normalised(backbone, images)) - plain).abs().max() > VISIBLE


@pytest.mark.parametrize("variant", KEYED_AND_MAPPED)
def test_a_model_for_another_key_is_of_no_use(variant, key, other_key):
    images, backbone = images_of(16, 2, seed=1), tiny_backbone()
    plain = logits(backbone.model, normalised(backbone, images))
    adapt_model(backbone, cipher_of(variant, other_key))
    wrong = channels_first(cipher_of(variant, key).encrypt_exactly(images)) / 127.5 - 1
    assert (logits(backbone.model, wrong) - plain).abs().max() > VISIBLE


@pytest.mark.parametrize("variant", MAPPED)
def test_adapt_model_measures_what_is_so(variant, key):
    cipher, backbone, images = cipher_of(variant, key), tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1]), images_of(16)
    plain = logits(backbone.model, normalised(backbone, images))
    measured = adapt_model(backbone, cipher)
    assert measured["max_logit_difference_float64"] < 1e-6
    assert measured["max_logit_difference_float32"] < 1e-3
    adapted = logits(backbone.model, model_input(channels_first(cipher.encrypt(images))))
    difference = (adapted - plain).abs().max()
    # only the orthogonal cipher rounds its ciphertext: to 24 or 11 bits, or to whole numbers
    tolerance = {"orthogonal float16": 2e-2, "orthogonal uint8": 1.0}.get(variant, 1e-3)
    assert difference < tolerance
    assert ("max_logit_difference_stored" in measured) == (cipher.name == "orthogonal")
    if cipher.name == "orthogonal":
        least = 1e-9 if variant == "orthogonal" else 1e-6
        assert least < measured["max_logit_difference_stored"] < tolerance
        assert ("clipped_percent" in measured) == (variant == "orthogonal uint8")
        if variant == "orthogonal":
            assert measured["max_logit_difference_stored"] < 1e-5


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


@pytest.mark.parametrize("variant", MAPPED)
@given(secret=st.binary(min_size=32, max_size=32))
@settings(max_examples=3, deadline=None)
def test_adaptation_is_undone_exactly(variant, secret):
    """Decrypting gives the very weights back; where there are kernels for every position or nibbles, in that form."""
    affine = cipher_of(variant, Key(secret)).affine_map()
    plain = read_embedding(tiny_backbone().model)
    undone = decrypt_embedding(encrypt_embedding(plain, affine), affine)
    weight = plain.weight
    if affine.nibbles:  # a byte is 16 h + l, all on [-1, 1]: 16 / 17 and 1 / 17
        weight = torch.cat([weight * (16 / 17), weight / 17], dim=1)
    weight = weight.expand(16, *weight.shape) if affine.per_position else weight
    torch.testing.assert_close(undone.weight, weight, rtol=0, atol=0 if affine.matrix is None else 1e-12)
    torch.testing.assert_close(undone.positions, plain.positions, rtol=0, atol=0)
    torch.testing.assert_close(undone.bias, plain.bias, rtol=0, atol=0)
    assert undone.nibbles == affine.nibbles


@pytest.mark.parametrize("variant", MAPPED)
def test_decrypted_model_has_the_plain_logits(variant, key):
    cipher, images = cipher_of(variant, key), images_of(16, 2)
    backbone = tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1])
    plain = logits(copy.deepcopy(backbone.model).double(), normalised(backbone, images))
    adapt_model(backbone, cipher)
    backbone.model.double()
    write_embedding(backbone.model, decrypt_embedding(read_embedding(backbone.model), cipher.affine_map()))
    undone = logits(backbone.model, channels_first(images) / 127.5 - 1)
    assert (undone - plain).abs().max() < 1e-4  # the weights were float32 in between


@pytest.mark.parametrize("variant", MAPPED)
@pytest.mark.parametrize("adapted", [True, False])
def test_a_trained_model_is_decrypted_exactly(variant, adapted, key):
    """Whatever training made of the embedding, adapted or not: the decrypted model sees plain images as the trained
    one sees ciphertext; and encrypting it again gives the trained one."""
    cipher, images, model = cipher_of(variant, key), images_of(16, 2), tiny_backbone(reg_tokens=4).model.double()
    affine = cipher.affine_map()
    if adapted:
        write_embedding(model, encrypt_embedding(read_embedding(model), affine))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [model.pos_embed, *model.patch_embed.parameters()]:
            parameter += 0.1 * torch.randn_like(parameter)
    trained = read_embedding(model)
    expected = logits(model, channels_first(cipher.encrypt_exactly(images)) / 127.5 - 1)
    write_embedding(model, decrypt_embedding(trained, affine))
    assert (logits(model, channels_first(images) / 127.5 - 1) - expected).abs().max() < 1e-9
    again = encrypt_embedding(read_embedding(model), affine)
    if adapted:
        torch.testing.assert_close(again.weight, trained.weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(again.positions, trained.positions, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["block_np", "pixel_position", "orthogonal", "restricted"])
def test_training_goes_as_on_plain_images(variant, key):
    """A step of SGD on all weights: signed permutations and orthogonal maps keep the gradient's geometry."""
    cipher, images, labels = cipher_of(variant, key), images_of(16, 6), torch.arange(6)
    models = [tiny_backbone().model.double() for _ in range(2)]
    write_embedding(models[1], encrypt_embedding(read_embedding(models[1]), cipher.affine_map()))
    inputs = [channels_first(pixels) / 127.5 - 1 for pixels in (images, cipher.encrypt_exactly(images))]
    before = logits(models[0], inputs[0])
    for model, batch in zip(models, inputs, strict=True):
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    plain, encrypted = (logits(model, batch) for model, batch in zip(models, inputs, strict=True))
    assert (plain - before).abs().max() > 1e-2
    # Q's entries are multiples of 2^-24, so that it is orthogonal up to that
    assert (plain - encrypted).abs().max() < (1e-4 if variant == "orthogonal" else 1e-9)


@pytest.mark.parametrize("variant", KEYED_AND_MAPPED)
def test_normalising_ciphertext_is_the_trap(variant, key):
    """Subtracting ImageNet means after encryption is wrong for all but whole-block scrambling; folding first is exact.
    With mean = std = 0.5, alike for all colours and symmetric, the trap stays hidden."""
    cipher, images = cipher_of(variant, key), images_of(16, 2, seed=1)

    def trapped(statistics) -> float:
        backbone = tiny_backbone(mean=statistics[0], std=statistics[1])
        model = backbone.model.double()
        plain = logits(model, normalised(backbone, images))
        write_embedding(model, encrypt_embedding(read_embedding(model), cipher.affine_map()))  # not folded
        return (logits(model, normalised(backbone, cipher.encrypt_exactly(images))) - plain).abs().max()

    assert trapped(HALF) < 1e-6
    keeps_colours = variant in ("scramble", "pixel_position")
    assert (trapped(IMAGENET) < 1e-6) == keeps_colours


def test_unadapted_baseline_differs_but_is_written(key):
    measured = adapt_model(tiny_backbone(), make_cipher("block", key, 16, 4), enabled=False)
    assert measured["max_logit_difference_float64"] > 1e-2


@pytest.mark.parametrize(
    ("name", "arguments", "cipher", "told"),
    [
        ("resnet18", {}, "shuffle", "has overlapping kernels, so it cannot be adapted"),
        ("convnext_atto", {}, "shuffle", "patches have 4 pixels a side; set cipher.block_size"),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "depth": 1},
            "block of 4",
            "patches have 16 pixels a side; set cipher.block_size",
        ),
    ],
)
def test_unsupported_models_are_refused(name, arguments, cipher, told, key):
    with torch.device("meta"):  # shapes are all that is looked at
        model = timm.create_model(name, **arguments).eval()
    block = 4 if "of 4" in cipher else 14 if "14" in name else 16
    size = arguments.get("img_size", 32)
    with pytest.raises(UsageError, match=told):
        require_adaptable(model, make_cipher(cipher.removesuffix(" of 4"), key, size, block))


def test_pixel_steps_alone_suit_rotary_models(key):
    model = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1, num_classes=5).eval()
    backbone = Backbone(model, "eva02_tiny_patch14_224", {"img_size": 28, "num_classes": 5}, *IMAGENET)
    assert adapt_model(backbone, make_cipher("shuffle", key, 28, 14))["max_logit_difference_float64"] < 1e-6


def test_beyond_tolerance_the_stage_fails(key, monkeypatch):
    monkeypatch.setattr("ppvit.adaptation.adapt.encrypt_embedding", lambda embedding, affine: embedding)
    with pytest.raises(PpvitError, match="differs from the plain one"):
        adapt_model(tiny_backbone(), make_cipher("block", key, 16, 4))


def test_logits_that_are_no_numbers_are_told(key):
    """No comparison with them fails of itself."""
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.blocks[0].attn.qkv.weight[0, 0] = torch.nan
    for enabled in (True, False):
        with pytest.raises(PpvitError, match="the logits of .* are not numbers: its weights are damaged"):
            adapt_model(backbone, make_cipher("block", key, 16, 4), enabled)


@pytest.mark.parametrize("variant", UNMAPPED)
def test_ciphers_without_a_map_are_refused(variant, key):
    cipher = cipher_of(variant, key)
    why = "every image has a key of its own" if cipher.image_keys else "it is no affine map of a block's values"
    told = f"no exact adaptation exists for cipher '{cipher.name}', because {why}; set adapt.enabled=false"
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.model.state_dict())
    with pytest.raises(UsageError, match=told):
        adapt_model(backbone, cipher)
    for name, tensor in backbone.model.state_dict().items():  # and the model is left alone
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "variant", [variant for variant in [*MAPPED, *UNMAPPED] if not variant.startswith("neuracrypt")]
)
def test_unadapted_baseline_is_the_plain_model_in_its_own_scale(variant, key):
    """Without adaptation only the normalisation is folded: on plain images nothing changes."""
    cipher, images = cipher_of(variant, key), images_of(16)
    backbone = tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1])
    plain = logits(backbone.model, normalised(backbone, images))
    measured = adapt_model(backbone, cipher, enabled=False)
    unadapted = logits(backbone.model, model_input(channels_first(images)))
    torch.testing.assert_close(unadapted, plain, rtol=0, atol=1e-4)
    assert (measured["max_logit_difference_float64"] > VISIBLE) == (variant != "none")
    assert isinstance(backbone.model.patch_embed.proj, torch.nn.Conv2d)


# models whose first layer was replaced


@pytest.mark.parametrize("variant", MAPPED)
def test_adapted_models_are_saved_and_loaded(variant, tmp_path, key):
    backbone, cipher = tiny_backbone(mean=IMAGENET[0], std=IMAGENET[1]), cipher_of(variant, key)
    adapt_model(backbone, cipher)
    save_model(tmp_path / "adapted", backbone, {"key_id": key.id})
    images = model_input(channels_first(cipher.encrypt(images_of(16))))
    loaded = load_model(tmp_path / "adapted", "adapt")
    assert not loaded.training
    torch.testing.assert_close(logits(loaded, images), logits(backbone.model, images), rtol=0, atol=0)
    stem = json.loads((tmp_path / "adapted" / "config.json").read_text()).get("stem")
    affine = cipher.affine_map()
    replaced = affine.per_position or affine.nibbles
    assert stem == ({"blocks": 16 * affine.per_position, "nibbles": affine.nibbles} if replaced else None)
    fresh = load_model(tmp_path / "adapted", "adapt", num_classes=3)
    assert logits(fresh, images).shape == (3, 3)
    torch.testing.assert_close(fresh.patch_embed.proj.weight, backbone.model.patch_embed.proj.weight, rtol=0, atol=0)
    torch.testing.assert_close(fresh.forward_features(images.float()), loaded.forward_features(images.float()))


@pytest.mark.parametrize(
    ("variant", "shape"),
    [
        ("shuffle", (24, 3, 4, 4)),
        ("orthogonal", (24, 3, 4, 4)),
        ("subblock_etc", (24, 3, 4, 4)),
        ("etc", (16, 24, 48)),
        ("subblock_etc per block", (16, 24, 48)),
        ("pe", (16, 24, 48)),
        ("le", (24, 96)),
        ("ele", (16, 24, 96)),
    ],
)
def test_parameters_of_the_stem(variant, shape, key):
    """D B + D for a convolution, N D B + D with a kernel a position, twice the B for nibbles."""
    backbone = tiny_backbone()
    rest = sum(parameter.numel() for parameter in backbone.model.parameters()) - (24 * 48 + 24)
    adapt_model(backbone, cipher_of(variant, key))
    assert tuple(backbone.model.patch_embed.proj.weight.shape) == shape
    assert tuple(backbone.model.patch_embed.proj.bias.shape) == (24,)
    assert sum(parameter.numel() for parameter in backbone.model.parameters()) == rest + np.prod(shape) + 24


@pytest.mark.parametrize("variant", ["etc", "ele", "le", "pe", "orthogonal", "block_np"])
@pytest.mark.parametrize("method", ["full", "lora_patch", "lora", "linear"])
def test_adapted_models_train_are_saved_and_reload(variant, method, tmp_path, key):
    """One step of SGD by each method; the patch embedding moves where the method says so."""
    backbone, cipher = tiny_backbone(num_classes=5), cipher_of(variant, key)
    adapt_model(backbone, cipher)
    save_model(tmp_path / "adapted", backbone, {})
    chosen = make_config(finetune={"method": method, "optimizer": "sgd", "learning_rate": 0.1, "rank": 2}).finetune
    tuned = make_tuner(chosen).attach(load_model(tmp_path / "adapted", "adapt", 5)).train()
    images = model_input(channels_first(cipher.encrypt(images_of(16, 5)))).float()
    stepper = make_optimizer(chosen, tuned)
    for _ in range(2):  # LoRA's B starts at zero, so A moves only from the second step on
        torch.nn.functional.cross_entropy(tuned(images), torch.arange(5)).backward()
        stepper.step()
        stepper.zero_grad()
    tuned.eval()
    record = {"method": method, "num_classes": 5, "key_id": key.id, "cipher": cipher.settings, "image_size": 16}
    save_finetuned(make_tuner(chosen), tuned, tmp_path / "finetuned", tmp_path / "adapted", record)
    reloaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)
    torch.testing.assert_close(logits(reloaded, images), logits(tuned, images), rtol=1e-4, atol=1e-4)
    assert (logits(reloaded, images) - logits(backbone.model, images)).abs().max() > 1e-3
    moved = not torch.equal(reloaded.patch_embed.proj.weight, backbone.model.patch_embed.proj.weight)
    assert moved == (method in ("full", "lora_patch"))
    # the owner's side: the trained model sees plain images as it saw ciphertext
    with torch.no_grad():
        expected = reloaded.double()(channels_first(cipher.encrypt_exactly(images_of(16, 5))) / 127.5 - 1)
        write_embedding(reloaded, decrypt_embedding(read_embedding(reloaded), cipher.affine_map()))
        decrypted = reloaded(channels_first(images_of(16, 5)) / 127.5 - 1)
    torch.testing.assert_close(decrypted, expected, rtol=0, atol=1e-9)


def test_an_adapted_model_is_not_adapted_again(key):
    backbone = tiny_backbone()
    adapt_model(backbone, cipher_of("etc", key))
    with pytest.raises(UsageError, match="it was adapted before; adapt the plain model"):
        adapt_model(backbone, cipher_of("etc", key))


# ConvMixer


def micro_convmixer(tmp_path) -> Backbone:
    (tmp_path / "empty").mkdir(exist_ok=True)
    backbone = load_backbone("convmixer_micro_patch4", tmp_path / "empty", 16, tmp_path / "unused", pretrained=False)
    _liven(backbone.model)
    return backbone


def _liven(model: torch.nn.Module) -> None:
    """Statistics and weights of batch normalisation that are not 0 and 1, which would hide mistakes with them."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.3)


@pytest.mark.parametrize("variant", MAPPED)
def test_convmixer_adapts_exactly(variant, tmp_path, key):
    backbone, cipher, images = micro_convmixer(tmp_path), cipher_of(variant, key), images_of(16, 2)
    assert backbone.mean == IMAGENET[0]
    plain = logits(copy.deepcopy(backbone.model).double(), normalised(backbone, images))
    measured = adapt_model(backbone, cipher)
    assert measured["max_logit_difference_float64"] < 1e-6
    assert measured["max_logit_difference_float32"] < 1e-3
    ciphertext = channels_first(cipher.encrypt_exactly(images)) / 127.5 - 1
    assert (logits(copy.deepcopy(backbone.model).double(), ciphertext) - plain).abs().max() < 1e-4  # float32 weights
    save_model(tmp_path / "adapted", backbone, {"image_size": 16})
    loaded = load_model(tmp_path / "adapted", "adapt")
    torch.testing.assert_close(logits(loaded, ciphertext), logits(backbone.model, ciphertext), rtol=0, atol=0)
    assert logits(load_model(tmp_path / "adapted", "adapt", 3), ciphertext).shape == (2, 3)


def test_convmixer_with_weights_of_ones_own(tmp_path, key):
    """timm's convmixer from a weights file; it is no model with a position embedding, and fits any image size."""
    torch.manual_seed(0)
    model = ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=7, num_classes=4).eval()
    _liven(model)
    backbone = Backbone(model, "convmixer_768_32", {}, *IMAGENET)
    assert adapt_model(backbone, cipher_of("np", key, 28, 7))["max_logit_difference_float64"] < 1e-6
    save_file(micro_convmixer(tmp_path).model.state_dict(), tmp_path / "weights.safetensors")
    same = load_backbone("convmixer_micro_patch4", tmp_path / "weights.safetensors", 24, tmp_path)
    assert same.model_args["num_classes"] == 36
    torch.testing.assert_close(same.model.state_dict(), micro_convmixer(tmp_path).model.state_dict())


def test_convmixer_has_no_pretrained_weights(tmp_path):
    with pytest.raises(UsageError, match="no pretrained weights of convmixer_micro_patch4; set model.pretrained=false"):
        load_backbone("convmixer_micro_patch4", Path(NO_MODEL), 16, tmp_path / "unused")


def test_random_weights_are_always_the_same(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("convmixer_micro_patch4", "vit_micro_patch4_32"):
        first, second = (load_backbone(name, tmp_path / "empty", 16, tmp_path, pretrained=False) for _ in range(2))
        torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=0)
        assert first.model_args["num_classes"] == first.model.num_classes


@pytest.mark.parametrize("variant", ["shuffle", "pe"])
def test_adaptive_matrix_starts_as_the_identity(variant, tmp_path, key):
    backbone, cipher = micro_convmixer(tmp_path), cipher_of(variant, key)
    images = channels_first(images_of(16, 2)) / 127.5 - 1
    plain, count = logits(backbone.model, images), sum(p.numel() for p in backbone.model.parameters())
    add_adaptive_matrix(backbone.model, 16)
    torch.testing.assert_close(logits(backbone.model, images), plain)
    assert sum(p.numel() for p in backbone.model.parameters()) == count + 16 * 16
    assert adapt_model(backbone, cipher)["max_logit_difference_float64"] < 1e-6
    with torch.no_grad():
        backbone.model.stem[-1].matrix.normal_()
    save_model(tmp_path / "adapted", backbone, {"image_size": 16})
    loaded = load_model(tmp_path / "adapted", "adapt")
    torch.testing.assert_close(loaded.stem[-1].matrix, backbone.model.stem[-1].matrix, rtol=0, atol=0)
    torch.testing.assert_close(logits(loaded, images), logits(backbone.model, images), rtol=0, atol=0)


def test_adaptive_matrix_of_the_right_permutation_undoes_scrambling(tmp_path, key):
    """What the matrix is there to learn exists: the inverse permutation of the patches."""
    backbone, cipher, images = micro_convmixer(tmp_path), cipher_of("scramble", key), images_of(16, 2)
    plain = logits(backbone.model, channels_first(images) / 127.5 - 1)
    add_adaptive_matrix(backbone.model, 16)
    matrix = torch.zeros(16, 16)
    matrix[torch.arange(16), torch.as_tensor(cipher.affine_map().block_permutation)] = 1  # row t to plain place kb[t]
    backbone.model.stem[-1].matrix.data = matrix
    scrambled = channels_first(cipher.encrypt(images)) / 127.5 - 1
    torch.testing.assert_close(logits(backbone.model, scrambled), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "linear"])
def test_convmixers_train_are_saved_and_reload(method, tmp_path, key):
    """With kernels for every position and the learned matrix; the statistics of batch norm are saved as well."""
    backbone, cipher = micro_convmixer(tmp_path), cipher_of("pe", key)
    add_adaptive_matrix(backbone.model, 16)
    adapt_model(backbone, cipher)
    save_model(tmp_path / "adapted", backbone, {"image_size": 16})
    chosen = make_config(
        finetune={"method": method, "optimizer": "sgd", "learning_rate": 0.1, "batch_norm": "stats"}
    ).finetune
    tuned = make_tuner(chosen).attach(load_model(tmp_path / "adapted", "adapt", 5))
    set_batch_norm(tuned, chosen.batch_norm).train()
    images = model_input(channels_first(cipher.encrypt(images_of(16, 5)))).float()
    torch.nn.functional.cross_entropy(tuned(images), torch.arange(5)).backward()
    make_optimizer(chosen, tuned).step()
    tuned.eval()
    record = {"method": method, "num_classes": 5, "key_id": key.id, "cipher": cipher.settings, "image_size": 16}
    save_finetuned(make_tuner(chosen), tuned, tmp_path / "finetuned", tmp_path / "adapted", record)
    reloaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)
    torch.testing.assert_close(logits(reloaded, images), logits(tuned, images), rtol=0, atol=0)
    assert torch.equal(reloaded.stem[-1].matrix, torch.eye(16)) == (method == "linear")


def test_adaptive_matrix_is_for_convmixers(tmp_path):
    with pytest.raises(UsageError, match="adaptive_matrix is for ConvMixers, VisionTransformer is none"):
        add_adaptive_matrix(tiny_backbone().model, 16)


def test_run_with_an_adaptive_matrix(tmp_path):
    model = {"name": "convmixer_micro_patch4", "pretrained": False}
    config = make_config(model=model | {"adaptive_matrix": True}, adapt={"enabled": False})
    without = make_config(model=model, adapt={"enabled": False})
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 3}, size=32)
    for name, each in (("with", config), ("without", without)):
        adapt.run(each, make_places(tmp_path / name, each, raw=raw))
    results = [read_result(make_places(tmp_path / name), "adapt") for name in ("with", "without")]
    assert results[0]["parameters"] - results[1]["parameters"] == 64**2  # 8 x 8 patches
    assert load_model(make_places(tmp_path / "with").adapted, "adapt").stem[-1].matrix.shape == (64, 64)
    scrambled = make_places(tmp_path, raw=raw)
    adapt.run(make_config(model=model | {"adaptive_matrix": True}), scrambled)
    assert read_result(scrambled, "adapt")["max_logit_difference_float64"] < 1e-9
    with pytest.raises(UsageError, match="adaptive_matrix is for ConvMixers"):
        vit = {"name": "vit_micro_patch4_32", "pretrained": False, "adaptive_matrix": True}
        adapt.run(make_config(model=vit), make_places(tmp_path, raw=raw))


# NeuraCrypt


@pytest.mark.parametrize("prefix", ["class token", "no prefix, mean pool", "registers, patches only"])
def test_token_model(prefix, tmp_path, key):
    cipher = cipher_of("neuracrypt", key)
    backbone = tiny_backbone(**PREFIXES[prefix])
    prefixes = backbone.model.pos_embed.shape[1] - 16
    kept = copy.deepcopy(backbone.model.state_dict())
    assert adapt_model(backbone, cipher, enabled=False) == {}
    tokens = model_input(torch.from_numpy(cipher.encrypt(images_of(16), np.arange(3))))
    assert tokens.dtype == torch.float32
    assert tokens.shape == (3, 16, 16)
    expected = logits(backbone.model, tokens)
    assert expected.shape == (3, 7)
    # no patch positions: the order of the tokens means nothing, the other images do
    order = torch.randperm(16)
    torch.testing.assert_close(logits(backbone.model, tokens[:, order]), expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    again = model_input(torch.from_numpy(cipher.encrypt(images_of(16), np.arange(10, 13))))
    torch.testing.assert_close(logits(backbone.model, again), expected, rtol=1e-4, atol=1e-5)
    # the encoder keeps its weights, and so do the positions of prefix tokens
    for name, tensor in backbone.model.state_dict().items():
        if name.startswith("blocks"):
            torch.testing.assert_close(tensor, kept[name], rtol=0, atol=0)
    torch.testing.assert_close(backbone.model.pos_embed[:, :prefixes], kept["pos_embed"][:, :prefixes])
    assert backbone.model.pos_embed[:, prefixes:].abs().max() == 0
    assert sum(p.numel() for p in backbone.model.patch_embed.parameters()) == 16 * 24 + 24
    save_model(tmp_path / "adapted", backbone, {})
    loaded = load_model(tmp_path / "adapted", "adapt")
    torch.testing.assert_close(logits(loaded, tokens), expected, rtol=0, atol=0)
    assert logits(load_model(tmp_path / "adapted", "adapt", 3), tokens).shape == (3, 3)


@pytest.mark.parametrize("method", ["full", "lora_patch"])
def test_token_models_train(method, tmp_path, key):
    cipher, backbone = cipher_of("neuracrypt", key), tiny_backbone(num_classes=5)
    adapt_model(backbone, cipher, enabled=False)
    save_model(tmp_path / "adapted", backbone, {})
    chosen = make_config(finetune={"method": method, "optimizer": "sgd", "rank": 2}).finetune
    tuned = make_tuner(chosen).attach(load_model(tmp_path / "adapted", "adapt", 5))
    tokens = model_input(torch.from_numpy(cipher.encrypt(images_of(16, 5), np.arange(5))))
    torch.nn.functional.cross_entropy(tuned(tokens), torch.arange(5)).backward()
    make_optimizer(chosen, tuned).step()
    record = {"method": method, "num_classes": 5, "key_id": key.id, "cipher": cipher.settings, "image_size": 16}
    save_finetuned(make_tuner(chosen), tuned, tmp_path / "finetuned", tmp_path / "adapted", record)
    reloaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)
    torch.testing.assert_close(logits(reloaded, tokens), logits(tuned.eval(), tokens), rtol=1e-4, atol=1e-4)
    assert not torch.equal(reloaded.patch_embed.proj.weight, backbone.model.patch_embed.proj.weight)


def test_token_models_are_vision_transformers(tmp_path, key):
    with pytest.raises(UsageError, match="'neuracrypt' needs a plain timm ViT behind its tokens, not ConvMixer"):
        adapt_model(micro_convmixer(tmp_path), cipher_of("neuracrypt", key), enabled=False)


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
        load_backbone("vit_nonsense", Path(NO_MODEL), 32, empty)
    with pytest.raises(UsageError, match="holds no weights file; name one, or set it back to models/none"):
        load_backbone("vit_tiny_patch16_224", empty, 32, empty)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(PpvitError, match="cannot be read as weights"):
        load_backbone("vit_tiny_patch16_224", path, 32, empty)
    write_checkpoint(path)
    with pytest.raises(PpvitError, match="set model.name=vit_tiny_patch16_224$"):
        load_backbone("vit_small_patch16_224", path, 32, empty)
    torch.save({"x": Exception}, tmp_path / "evil.pth")
    with pytest.raises(PpvitError, match="is not a plain weights file"):
        load_backbone("vit_tiny_patch16_224", tmp_path / "evil.pth", 32, empty)
    with pytest.raises(UsageError, match="vgg11 is neither a ResNet nor a model that a key can be undone in: its stem"):
        load_backbone("vgg11", path, 32, empty)
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
        load_backbone("vit_small_patch16_384.augreg_in1k", Path(NO_MODEL), 32, tmp_path)
    assert "\n" not in str(caught.value)


def test_run_writes_model_record_and_measurement(tmp_path, monkeypatch):
    path = tmp_path / "micro.safetensors"
    save_file(tiny_micro().state_dict(), path)
    config = make_config(model={"checkpoint": str(path)})
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 3}, size=32)
    first, second = (make_places(tmp_path / attempt, raw=raw) for attempt in ("a", "b"))
    for places in (first, second):
        adapt.run(config, places)
    assert sha256_of_folder(first.adapted) == sha256_of_folder(second.adapted)
    assert first.result("adapt").read_bytes() == second.result("adapt").read_bytes()
    record = read_record(first.adapted, "adapt")
    assert record["key_id"] == config.cipher.key_id
    assert record["demo_key"] is True
    assert read_result(first, "adapt")["max_logit_difference_float64"] < 1e-6
    assert read_result(first, "adapt")["checked_images"] == 1  # nothing is rounded, so noise shows all


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_the_largest_difference_of_all_images_counts(storage, key):
    """Noise is grey on average; pictures are not, so rounding moves them more, and uint8 may clip them."""
    cipher, images = make_cipher("orthogonal", key, 16, 4, storage=storage), photographs(4, 16)
    measured = adapt_model(tiny_backbone(), cipher, images=images)
    of_noise = adapt_model(tiny_backbone(), cipher)
    plain, adapted = tiny_backbone(), tiny_backbone()
    expected = logits(plain.model.double(), normalised(plain, images))
    adapt_model(adapted, cipher)
    seen = logits(adapted.model.double(), channels_first(cipher.encrypt(images)) / 127.5 - 1)
    apart = (seen - expected).abs().max().item()
    name = "max_logit_difference_stored"
    assert (measured["checked_images"], of_noise["checked_images"]) == (5, 1)
    # the model was stored in float32 in between
    assert measured[name] == pytest.approx(max(apart, of_noise[name]), abs=1e-5)
    assert apart > of_noise[name]  # or the test would not tell
    assert measured["max_logit_difference_float64"] >= of_noise["max_logit_difference_float64"]
    if storage == "uint8":
        assert measured["clipped_percent"] == 0


def test_what_clips_is_counted(key):
    """An image chosen with the key: ones where a row of Q is positive. That row's coordinate is beyond 4 deviations."""
    cipher = make_cipher("orthogonal", key, 16, 4, storage="uint8")
    row = cipher.affine_map().matrix[0].reshape(3, 4, 4).transpose(1, 2, 0)
    chosen = np.tile(np.where(row > 0, 255, 0).astype(np.uint8), (4, 4, 1))[None]
    measured = adapt_model(tiny_backbone(), cipher, images=chosen)
    assert measured["clipped_percent"] >= 1  # one value of 48, in one image of two


@pytest.mark.parametrize(("storage", "told"), [("float32", False), ("float16", True), ("uint8", True)])
def test_rounding_that_shows_is_told(storage, told, tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 3}, size=16)
    sections = {"dataset": {"image_size": 16}, "cipher": {"name": "orthogonal", "storage": storage}}
    config, places = make_config(**sections), make_places(tmp_path, raw=raw)
    torch.manual_seed(0)
    model = timm.create_model(MICRO_ARCHITECTURE, **MICRO | {"img_size": 16})
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.head.weight.mul_(50)
    places.embedded.parent.mkdir(parents=True)
    save_file(model.state_dict(), places.embedded)
    adapt.run(config, places)
    said = capsys.readouterr().err
    assert (
        f"adapt: cipher.storage {storage} rounds the ciphertext, which moves the logits of 5 images" in said
    ) == told
    assert ("cipher.storage=float32 does not" in said) == told


def tiny_micro():
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


@pytest.mark.assets
def test_what_storing_fractions_costs_on_real_photographs(assets, tmp_path, key):
    """The table of docs/why_exact.md, on three photographs."""
    weights = assets / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    images = np.stack([enlarged(image, 224) for image in cifar(3, every=7)])
    stored = {}
    for storage in ("float32", "float16", "uint8"):
        backbone = load_backbone("vit_tiny_patch16_224", weights, 224, tmp_path)
        measured = adapt_model(backbone, make_cipher("orthogonal", key, 224, 16, storage=storage), images=images)
        assert measured["max_logit_difference_float64"] < 1e-6
        assert measured.get("clipped_percent", 0) == 0
        stored[storage] = measured["max_logit_difference_stored"]
    assert stored["float32"] < 1e-5
    assert 1e-3 < stored["float16"] < 0.1
    assert 0.1 < stored["uint8"] < 20
