"""Networks of every kind of positions are adapted exactly, and plain timm loads what it computes rightly or nothing."""

import copy
import json

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, make_places, tiny_backbone, write_raw
from safetensors.torch import load_file, save_file
from test_ciphers import cipher_of, images_of
from tiny_backbones import KINDS, ORDERED, PATCH_4, TABLES

from ppvit.adaptation.adapt import adapt_model, require_adaptable, way_of
from ppvit.adaptation.embedding import decrypt_embedding, encrypt_embedding, read_embedding, write_embedding
from ppvit.adaptation.rekey import move_model
from ppvit.ciphers import AffineMap, make_cipher
from ppvit.ciphers.keys import Key
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import Backbone, load_backbone, load_model, model_input, save_model
from ppvit.models.stems import install_stem, patch_projection, projection_name, stem_of, token_order
from ppvit.verbs import adapt

STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EXACT = 1e-9  # measured: 1e-15; a wrong place of one block moves logits by 1e-5 and more


def side_of(kind: str) -> int:
    return 4 if kind in PATCH_4 else 8


def network(name: str, noise: float = 0.1, **arguments) -> Backbone:
    """A network whose parameters are all random, so that every place matters."""
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return Backbone(model, name, arguments | {"num_classes": model.num_classes}, *STATISTICS)


def tiny(kind: str) -> Backbone:
    return network(KINDS[kind], num_classes=5)


def cipher_for(kind: str, key: Key, name: str = "block_np"):
    return make_cipher(name, key, 32, side_of(kind))


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double()


def logits(model, images):
    with torch.no_grad():
        return model(images)


def both(backbone: Backbone, cipher, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs for the plain model and for the adapted one, float64."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in STATISTICS)
    plain = (channels_first(images) / 255 - mean) / std
    return plain, channels_first(cipher.encrypt_exactly(images)) / 127.5 - 1


@pytest.mark.parametrize("name", ["block_np", "ele", "shuffle"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exact(kind, name, key):
    """With a kernel of nibbles at every position too; the order of the blocks goes the way that the kind takes."""
    backbone, cipher = tiny(kind), cipher_for(kind, key, name)
    images = images_of(32, 2, seed=1)
    plain, encrypted = both(backbone, cipher, images)
    untouched = copy.deepcopy(backbone.model).double()
    adapt_model(backbone, cipher)
    model = backbone.model.double()  # its weights have been rounded to float32 in between
    expected = logits(untouched, plain)
    assert (logits(model, encrypted) - expected).abs().max() < 1e-5
    assert expected.abs().max() > 1e-2
    moved = cipher.blocks - 1 if name == "shuffle" else 0
    assert (token_order(model) is not None) == (kind in ORDERED and not moved)
    # and the places of blocks do matter
    other = channels_first(cipher_for(kind, Key(bytes(32)), "scramble").encrypt(images)) / 127.5 - 1
    assert (logits(model, other) - expected).abs().max() > 1e-4


MORE = {  # of timm, small and cut; name: arguments, image size, side of patches
    "vit_srelpos_small_patch16_224": ({"img_size": 64, "depth": 1}, 64, 16),
    "vit_base_patch32_clip_224": ({"img_size": 96, "depth": 1}, 96, 32),
    "vit_base_mci_224": ({"depth": 1, "img_size": 32}, 32, 4),
    "test_vit": ({"img_size": 64}, 64, 16),
    "qwen3_vit_88m": ({"depth": 1}, 64, 16),
    "gemma4_vit_167m": ({"depth": 1}, 96, 16),
    "naflexvit_base_patch16_parfac_gap": ({"depth": 1}, 64, 16),
    "swinv2_cr_tiny_ns_224": ({"img_size": 32, "depths": (1, 1, 1, 1)}, 32, 4),
    "twins_pcpvt_small": ({"img_size": 32, "depths": (1, 1, 1, 1)}, 32, 4),
    "coat_lite_tiny": ({"img_size": 32}, 32, 4),
    "edgenext_xx_small": ({"depths": (1, 1, 1, 1)}, 32, 4),
    "inception_next_atto": ({"depths": (1, 1, 1, 1)}, 32, 4),
    "fasternet_t0": ({}, 32, 4),
    "test_convnext": ({}, 32, 4),
    "convmixer_micro_patch4": ({}, 32, 4),
}
AS_TIMM_LOADS = {"vit_base_patch32_clip_224"}


@pytest.mark.parametrize("name", MORE)
def test_networks_of_timm_are_exact(name, key):
    arguments, size, side = MORE[name]
    backbone = network(name, 0.02, **arguments)
    measured = adapt_model(backbone, make_cipher("block_np", key, size, side))
    assert measured["max_logit_difference_float64"] < EXACT
    assert (stem_of(backbone.model) is None) == (name in AS_TIMM_LOADS)


def test_a_projection_without_bias_takes_the_normalisation(tmp_path, key):
    """Into a position embedding that is added to all patches; where there is none it gets a bias, which is said."""
    backbone = tiny("pe")
    assert patch_projection(backbone.model).bias is None
    before = backbone.model.pos_embed[0].clone()
    adapt_model(backbone, cipher_for("pe", key, "shuffle"))
    assert stem_of(backbone.model) is None
    change = backbone.model.pos_embed[0] - before
    assert change[0].abs().max() == 0  # of the class token
    assert change[1:].abs().max() > 1e-2
    torch.testing.assert_close(change[1:], change[1:2].expand(16, -1), rtol=0, atol=1e-6)
    backbone = network("fasternet_t0", 0.02)
    adapt_model(backbone, make_cipher("shuffle", key, 32, 4))
    assert stem_of(backbone.model) == {"bias": True}
    save_model(tmp_path / "adapted", backbone, {"image_size": 32})
    images = torch.randn(1, 3, 32, 32)
    loaded = load_model(tmp_path / "adapted", "adapt")
    torch.testing.assert_close(logits(loaded, images), logits(backbone.model, images), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*bias"):
        timm.create_model(f"local-dir:{tmp_path / 'adapted'}", pretrained=True, num_classes=3)


# what plain timm makes of it


@pytest.mark.parametrize("kind", KINDS)
def test_plain_timm_computes_the_same_or_stops(kind, tmp_path, key):
    """Whatever the number of classes: with another one it would load the rest and only warn, if it knew the head."""
    backbone, cipher = tiny(kind), cipher_for(kind, key)
    adapt_model(backbone, cipher)
    folder = tmp_path / "adapted"
    save_model(folder, backbone, {**cipher.record, "adapted": True})
    images = model_input(torch.from_numpy(cipher.encrypt(images_of(32, 2))).permute(0, 3, 1, 2))
    expected = logits(backbone.model, images)
    torch.testing.assert_close(logits(load_model(folder, "adapt"), images), expected, rtol=0, atol=0)
    assert logits(load_model(folder, "adapt", 3), images).shape == (2, 3)
    if kind in TABLES:
        found = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(logits(found, images), expected, rtol=0, atol=1e-5)
        assert way_of(backbone.model).endswith("plain timm loads it as well, rightly for images of this size alone")
        return
    assert "token_order" in way_of(backbone.model)
    # NaFlex makes a first layer for other colours anew, and says so
    for arguments in ({}, {"num_classes": 3}, {"num_classes": 0}, {} if kind == "naflex" else {"in_chans": 1}):
        with pytest.raises(RuntimeError, match=r"Unexpected key|size mismatch"):
            timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments)


@pytest.mark.parametrize(("variant", "kind"), [("ele", "dinov3"), ("etc", "swin"), ("etc", "naflex"), ("ele", "mixer")])
def test_kernels_of_their_own_are_saved_beside_the_order(variant, kind, tmp_path, key):
    backbone, cipher = tiny(kind), cipher_for(kind, key, variant)
    adapt_model(backbone, cipher)
    folder = tmp_path / "adapted"
    save_model(folder, backbone, {**cipher.record, "adapted": True})
    blocks = cipher.blocks
    expected = {"blocks": blocks, "nibbles": variant == "ele"} | ({"order": blocks} if kind in ORDERED else {})
    assert json.loads((folder / "config.json").read_text())["stem"] == expected
    images = model_input(torch.from_numpy(cipher.encrypt(images_of(32, 2))).permute(0, 3, 1, 2))
    loaded = load_model(folder, "adapt")
    torch.testing.assert_close(logits(loaded, images), logits(backbone.model, images), rtol=0, atol=0)
    with pytest.raises((RuntimeError, AssertionError)):  # of its shape, in timm's filters or later
        timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)


@pytest.mark.parametrize(
    "order",
    [[0] * 16, [*range(15), 16], [*range(15), -1]],
    ids=["one patch for all", "past the last", "before the first"],
)
def test_an_order_of_somebody_elses_file_is_checked(order, tmp_path, key):
    backbone, cipher = tiny("dinov3"), cipher_for("dinov3", key)
    adapt_model(backbone, cipher)
    folder = tmp_path / "adapted"
    save_model(folder, backbone, {**cipher.record, "adapted": True})
    state = load_file(folder / "model.safetensors")
    state["patch_embed.proj.token_order"] = torch.tensor(order)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PpvitError, match=r"token_order' is no order of 16 patches; make it again") as caught:
        load_model(folder, "adapt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stem", [{"order": 15}, {"order": 2**21}, {"order": 16, "bias": False}, {"order": True}])
def test_what_a_configuration_says_of_an_order_is_checked(stem, tmp_path, key):
    backbone, cipher = tiny("dinov3"), cipher_for("dinov3", key)
    adapt_model(backbone, cipher)
    folder = tmp_path / "adapted"
    save_model(folder, backbone, {**cipher.record, "adapted": True})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stem": stem}))
    with pytest.raises(PpvitError, match="make it again"):
        load_model(folder, "adapt")


# the way back, and to other keys


@pytest.mark.parametrize("name", ["block_np", "ele"])
@pytest.mark.parametrize("kind", KINDS)
def test_adaptation_is_undone(kind, name, key):
    backbone, cipher = tiny(kind), cipher_for(kind, key, name)
    model = backbone.model.double()
    images = images_of(32, 2)
    before = logits(model, channels_first(images) / 127.5 - 1)
    names = set(model.state_dict())
    affine = cipher.affine_map()
    write_embedding(model, encrypt_embedding(read_embedding(model), affine))
    encrypted = channels_first(cipher.encrypt(images)) / 127.5 - 1
    assert (logits(model, encrypted) - before).abs().max() < EXACT
    write_embedding(model, decrypt_embedding(read_embedding(model), affine))
    assert (logits(model, channels_first(images) / 127.5 - 1) - before).abs().max() < EXACT
    assert set(model.state_dict()) == names  # no order is left
    if name == "block_np":
        assert stem_of(model) is None


@pytest.mark.parametrize("kind", ["dinov3", "swin", "naflex", "mixer", "resmlp", "gmlp", "cait"])
def test_a_model_moves_to_another_key(kind, key):
    moved, fresh = tiny(kind), tiny(kind)
    old, new = (cipher_for(kind, each) for each in (key, Key(bytes([9]) * 32)))
    adapt_model(moved, old)
    adapt_model(fresh, new)
    state = move_model(moved.model, old, new)
    torch.testing.assert_close(state, fresh.model.state_dict(), rtol=0, atol=0)


def test_a_key_that_leaves_blocks_in_place_keeps_the_layer(key):
    """The folder of a model that moves has one shape; a key of few blocks may be the identity by chance."""
    backbone, cipher = tiny("dinov3"), cipher_for("dinov3", key)
    adapt_model(backbone, cipher)

    class Still:
        name, blocks = "still", cipher.blocks

        def affine_map(self):
            return AffineMap.identity(16, 192)

    move_model(backbone.model, cipher, Still())
    assert torch.equal(token_order(backbone.model), torch.arange(16))
    move_model(backbone.model, Still(), cipher)
    again = tiny("dinov3")
    adapt_model(again, cipher)
    torch.testing.assert_close(backbone.model.state_dict(), again.model.state_dict(), rtol=0, atol=0)


# training, precision, sizes


@pytest.mark.parametrize("kind", ["dinov3", "rope mixed", "relpos", "swin", "convnext", "naflex", "resmlp"])
def test_training_goes_as_on_plain_images(kind, key):
    """Dropped patches and paths are drawn alike on both sides, since behind the projection nothing is scrambled."""
    cipher, images, labels = cipher_for(kind, key), images_of(32, 4), torch.arange(4)
    models = [tiny(kind).model.double() for _ in range(2)]
    write_embedding(models[1], encrypt_embedding(read_embedding(models[1]), cipher.affine_map()))
    inputs = [channels_first(pixels) / 127.5 - 1 for pixels in (images, cipher.encrypt(images))]
    before = logits(models[0], inputs[0])
    for model, batch in zip(models, inputs, strict=True):
        torch.manual_seed(1)
        torch.nn.functional.cross_entropy(model.train()(batch), labels).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.eval()
    plain, encrypted = (logits(model, batch) for model, batch in zip(models, inputs, strict=True))
    assert (plain - before).abs().max() > 1e-2
    assert (plain - encrypted).abs().max() < EXACT


def test_patch_dropout_and_coordinate_augmentation_draw_alike(key):
    """Rotary coordinates that are moved at random, and patches left out: a permuted table would freeze or mix these."""
    arguments = {"num_classes": 5, "patch_drop_rate": 0.25, "rope_shift_coords": 0.2, "rope_jitter_coords": 1.2}
    cipher, images = cipher_for("dinov3", key), images_of(32, 4)
    models = [network(KINDS["dinov3"], **arguments).model.double().train() for _ in range(2)]
    write_embedding(models[1], encrypt_embedding(read_embedding(models[1]), cipher.affine_map()))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, pixels = (models[1], cipher.encrypt(images)) if len(found) == 1 else (models[0], images)
        found.append(logits(model, channels_first(pixels) / 127.5 - 1))
    assert (found[0] - found[1]).abs().max() < EXACT
    assert (found[0] - found[2]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["rope mixed", "dinov3", "beit", "relpos"])
def test_the_order_outlives_a_change_of_precision(kind, key):
    """Tables that timm computes again for every dtype would lose a permutation; the order is of whole numbers."""
    cipher, images = cipher_for(kind, key), images_of(32, 2)
    plain, adapted = (tiny(kind).model for _ in range(2))
    write_embedding(adapted, encrypt_embedding(read_embedding(adapted), cipher.affine_map()))
    order = token_order(adapted).clone()
    inputs = [(channels_first(pixels) / 127.5 - 1).bfloat16() for pixels in (images, cipher.encrypt(images))]
    expected, found = (logits(model.bfloat16(), batch) for model, batch in zip((plain, adapted), inputs, strict=True))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert torch.equal(token_order(adapted), order)
    adapted.float()
    assert (logits(adapted, inputs[1].float()) - logits(plain.float(), inputs[0].float())).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["dinov3", "naflex", "convnext", "swin"])
def test_other_image_sizes_are_refused(kind, key):
    """Networks that fit images of any size would compute something, from blocks in a wrong order."""
    backbone = tiny(kind)
    adapt_model(backbone, cipher_for(kind, key))
    with pytest.raises(
        (UsageError, AssertionError), match=r"adapted to images of \d+ patches, these have|Input height"
    ):
        backbone.model(torch.zeros(1, 3, 64, 64))


def test_models_for_images_of_any_size_keep_their_table(key):
    """timm interpolates the rows of such a position embedding, which must not be permuted then; others are for one."""
    fixed, dynamic = tiny_backbone(), tiny_backbone(dynamic_img_size=True)
    for backbone in (fixed, dynamic):
        before = backbone.model.pos_embed.clone()
        assert adapt_model(backbone, make_cipher("block", key, 16, 4))["max_logit_difference_float64"] < EXACT
        assert torch.equal(backbone.model.pos_embed, before) == (backbone is dynamic)
    with pytest.raises(UsageError, match="adapted to images of 16 patches, these have 64"):
        dynamic.model(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match=r"for images of 16 patches, these have 64; set dataset\.image_size"):
        adapt_model(tiny_backbone(), make_cipher("block", key, 32, 4))
    with pytest.raises(UsageError, match=r"pads images of other sizes \(dynamic_img_pad\)"):
        adapt_model(tiny_backbone(dynamic_img_pad=True), make_cipher("block", key, 16, 4))


# which layer, and which not


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("vit_tiny_patch16_224", "patch_embed.proj"),
        ("convnext_atto", "stem.0"),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj"),
        ("samvit_base_patch16", "patch_embed.proj"),
        ("naflexvit_base_patch16_gap", "embeds.proj"),
        ("mixer_s32_224", "stem.proj"),
        ("convmixer_768_32", "stem.0"),
        ("sequencer2d_s", "stem.proj"),
        ("nest_tiny", "patch_embed.proj"),
        ("twins_svt_small", "patch_embeds.0.proj"),
        ("edgenext_xx_small", "stem.0"),
        ("focalnet_tiny_srf", "stem.proj"),
        ("qwen3_vit_88m", "encoder.patch_embed.proj"),
        ("deepseek_vit_412m", "encoder.patch_embed.proj"),
        ("gemma4_vit_167m", "encoder.patch_embed.input_proj"),
        ("coat_lite_tiny", "patch_embed1.proj"),
        ("rdnet_tiny", "stem.0"),
        ("vit_base_mci_224", "patch_embed.backbone.0.conv"),
        ("resnet18", ""),
        ("crossvit_9_240", ""),
        ("tnt_s_patch16_224", ""),
    ],
)
def test_the_patch_projection_is_found_by_what_it_does(architecture, name):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    assert projection_name(model) == name
    assert (patch_projection(model) is None) == (name == "")
    if not name:
        with pytest.raises(UsageError, match="has no layer that embeds patches"):
            install_stem(model, {"order": 16})


OVERLAP, STEM = (
    r"its patches overlap \(kernels of {}",
    r"its stem is convolutional \(kernels of {}.*never reaches a token",
)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("vit_tiny_r_s16_p8_224", STEM.format("7 x 7 pixels, 2 apart")),
        ("vitamin_small_224", STEM.format("3 x 3 pixels, 2 apart")),
        ("volo_d1_224", STEM.format("7 x 7")),
        ("xcit_nano_12_p8_224", STEM.format("3 x 3")),
        ("levit_128s", STEM.format("3 x 3")),
        ("maxvit_tiny_rw_224", STEM.format("3 x 3")),
        ("coatnet_nano_rw_224", STEM.format("3 x 3")),
        ("efficientformer_l1", STEM.format("3 x 3")),
        ("tiny_vit_5m_224", STEM.format("3 x 3")),
        ("efficientvit_b0", STEM.format("3 x 3")),
        ("visformer_tiny", STEM.format("7 x 7")),
        ("resnetv2_50x1_bit", STEM.format("7 x 7")),
        ("convnext_zepto_rms_ols", STEM.format("3 x 3")),
        ("pit_ti_224", OVERLAP.format("16 x 16 pixels, 8 apart")),
        ("hiera_tiny_224", OVERLAP.format("7 x 7 pixels, 4 apart")),
        ("mvitv2_tiny", OVERLAP.format("7 x 7")),
        ("davit_tiny", OVERLAP.format("7 x 7")),
        ("pvt_v2_b0", OVERLAP.format("7 x 7")),
        ("poolformer_s12", OVERLAP.format("7 x 7")),
        ("focalnet_large_fl3", OVERLAP.format("7 x 7")),
        ("crossvit_9_240", r"it cuts patches of two sizes at once \(12 and 16 pixels\)"),
        ("tnt_s_patch16_224", "pixels inside its patches are tokens of their own"),
        ("tresnet_m", "takes 48 channels that are made of pixels before"),
    ],
)
def test_refusals_give_the_true_reason(architecture, reason, key):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    told = rf"cannot be adapted to cipher 'shuffle': .*{reason}.*; choose a plain timm ViT, or another model of docs"
    with pytest.raises(UsageError, match=told) as caught:
        require_adaptable(model, make_cipher("shuffle", key, 32, 4))
    assert "\n" not in str(caught.value)


def test_networks_without_a_size_are_built_for_any(tmp_path):
    """From a weights file, with its classes; what no key can be undone in is refused before any weights."""
    path = tmp_path / "weights.safetensors"
    model = network("test_convnext", num_classes=5).model
    save_file(model.state_dict(), path)
    found = load_backbone("test_convnext", path, 40, tmp_path)
    assert found.model_args == {"num_classes": 5}
    images = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(logits(found.model, images), logits(model, images), rtol=0, atol=0)
    with pytest.raises(
        UsageError, match="mambaout_femto is neither a ResNet nor a model that a key .* its stem is conv"
    ):
        load_backbone("mambaout_femto", tmp_path / "missing", 32, tmp_path, pretrained=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_micro_patch4_32", "in its position embedding; plain timm loads it as well"),
        ("tiny_mixer", "in its weights between patches; plain timm loads it as well"),
        ("tiny_dinov3", "in 'patch_embed.proj.token_order'; only ppvit loads it, plain timm stops"),
    ],
)
def test_adapt_says_which_way_was_taken(name, said, tmp_path, capsys):
    side = 4 if "micro" in name else 8
    config = make_config(model={"name": name, "pretrained": False}, cipher={"name": "block", "block_size": side})
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 3}, size=32)
    adapt.run(config, make_places(tmp_path, config, raw=raw))
    assert f"adapt: the adapted model has the order of the blocks {said}" in capsys.readouterr().err
    adapt.run(make_config(model={"name": name, "pretrained": False}, cipher={"name": "block", "block_size": side},
                          adapt={"enabled": False}), make_places(tmp_path / "not", config, raw=raw))  # fmt: skip
    assert "the order of the blocks" not in capsys.readouterr().err


def test_the_smallest_variant_of_a_cipher_is_no_exception(key):
    """One block is in order whatever the key, so nothing is put in order."""
    backbone = tiny("dinov3")
    with torch.no_grad():
        assert adapt_model(backbone, cipher_for("dinov3", key, "shuffle"))["max_logit_difference_float64"] < EXACT
    assert cipher_of("block", key).blocks > 1
