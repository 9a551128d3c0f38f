"""What a checkpoint says of itself: normalisation, pooling, heads; and what is told when it is of another network."""

import json

import numpy as np
import peft
import pytest
import timm
import torch
import torchvision
from conftest import make_config, make_places, read_result, write_raw
from safetensors.torch import save_file
from test_checkpoints import OURS, SIZE, THEIRS, TINY, drawn, images, load

from ppvit.core.errors import PpvitError, UsageError
from ppvit.he.parties.features import backbone_of as features_of
from ppvit.he.parties.features import extract
from ppvit.models import load_backbone, read_record, save_model
from ppvit.models.building import skeleton
from ppvit.models.checkpoints import load_checkpoint
from ppvit.models.networks import name_that_fits, network_of
from ppvit.verbs import adapt

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)


def hub_folder(folder, name: str = "deit_tiny_patch16_224", **arguments) -> torch.nn.Module:
    """A folder as timm itself pushes it to a hub."""
    torch.manual_seed(1)
    model = timm.create_model(name, **({"img_size": SIZE, "num_classes": 7} | arguments)).eval()
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def write_tiny(path, **options) -> None:
    save_file(drawn(timm.create_model(OURS, **(TINY | {"num_classes": 7} | options))).float().state_dict(), path)


# ---- normalisation ----


def test_weights_of_deit_under_the_name_of_a_vit(tmp_path):
    theirs = hub_folder(tmp_path)
    backbone = load_backbone(OURS, tmp_path, SIZE)
    assert (backbone.mean, backbone.std) == IMAGENET
    assert backbone.origin.normalization == "config.json"
    pixels = images().float()
    with torch.no_grad():
        assert torch.equal(backbone.model(pixels), theirs(pixels))
    with pytest.raises(UsageError, match="beside .* stands a configuration .*; set model.checkpoint to the folder"):
        load_backbone(OURS, tmp_path / "model.safetensors", SIZE)


def test_of_several_files_one_may_be_named_and_the_configuration_counts(tmp_path):
    hub_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch1.safetensors")
    (tmp_path / "epoch2.safetensors").write_bytes((tmp_path / "epoch1.safetensors").read_bytes())
    assert load_backbone(OURS, tmp_path / "epoch1.safetensors", SIZE).mean == IMAGENET[0]


@pytest.mark.parametrize(("name", "mean", "source"), [
    ("deit_tiny_patch16_224-a1311bcf.pth", IMAGENET[0], "of timm's deit_tiny_patch16_224, by the file's name"),
    ("deit_tiny_patch16_224.fb_in1k.pth", IMAGENET[0], "of timm's deit_tiny_patch16_224.fb_in1k, by the file's name"),
    ("vit_tiny_patch16_224.augreg_in21k.pth", HALVES[0], "augreg_in21k, by the file's name"),
    ("weights.pth", HALVES[0], "of timm's vit_tiny_patch16_224"),
])  # fmt: skip
def test_a_files_name_tells_where_nothing_else_does(name, mean, source, tmp_path):
    write_tiny(tmp_path / "w.safetensors")
    from safetensors.torch import load_file

    torch.save({"model": load_file(tmp_path / "w.safetensors")}, tmp_path / name)
    _, origin = load(tmp_path / name)
    assert origin.mean == mean
    assert origin.normalization.endswith(source)
    told = "timm's deit_tiny_patch16_224.fb_in1k has mean 0.485 0.456 0.406" in str(origin)
    assert told == (name == "weights.pth")


def test_a_tag_of_the_name_tells(tmp_path):
    write_tiny(tmp_path / "w.safetensors")
    _, origin = load_checkpoint(
        "vit_base_patch16_224.mae", "vit_base_patch16_224.mae", dict(TINY), tmp_path / "w.safetensors"
    )
    assert (origin.mean, origin.std) == IMAGENET


PROCESSORS = [
    ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
    ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, (0.5,) * 3, (0.2,) * 3),
    ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [0.5] * 3}, (0.5,) * 3, (0.25,) * 3),
]


@pytest.mark.parametrize(("settings", "mean", "std"), PROCESSORS)
def test_the_processor_of_transformers(settings, mean, std, tmp_path):
    """Compared with what the library's own processor makes of a picture."""
    transformers = pytest.importorskip("transformers", reason="pip install 'ppvit[test]'")
    config = transformers.ViTConfig(**(THEIRS | {"layer_norm_eps": 1e-12}), num_labels=7)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE}, do_resize=False, **settings)
    processor.save_pretrained(tmp_path)
    _, origin = load(tmp_path / "model.safetensors")
    np.testing.assert_allclose((origin.mean, origin.std), (mean, std), rtol=1e-6)
    assert origin.normalization.startswith("config.json and p")
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    theirs = processor(picture, return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    np.testing.assert_allclose((picture / 255 - origin.mean) / origin.std, theirs, atol=1e-5)
    assert "adds 1e-06 to the variance, where config.json says 1e-12" in str(origin)


def test_values_in_the_file(tmp_path):
    state = timm.create_model(OURS, **TINY, num_classes=3).state_dict()
    told = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]", "format": "pt"}
    save_file(state, tmp_path / "w.safetensors", metadata=told)
    assert load(tmp_path / "w.safetensors")[1].mean == (0.1, 0.2, 0.3)
    told = {"config": json.dumps({"pretrained_cfg": {}, "mean": [0.3] * 3, "std": [0.4] * 3})}
    save_file(state, tmp_path / "c.safetensors", metadata=told)
    assert load(tmp_path / "c.safetensors")[1].std == (0.4,) * 3
    from argparse import Namespace

    torch.save({"state_dict": state, "args": Namespace(mean=(0.2,) * 3, std=[0.3] * 3)}, tmp_path / "last.pth.tar.pth")
    _, origin = load(tmp_path / "last.pth.tar.pth")  # as timm's training script writes
    assert (origin.mean, origin.std, origin.normalization) == ((0.2,) * 3, (0.3,) * 3, "args of the file")


@pytest.mark.parametrize(("given", "mean", "std"), [
    ({"mean": "none", "std": "none"}, (0.0,) * 3, (1.0,) * 3),
    ({"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ({"std": [1.0, 1.0, 1.0]}, (0.485, 0.456, 0.406), (1.0,) * 3),
    ({}, *IMAGENET),
])  # fmt: skip
def test_parameters_override_and_what_was_used_is_told(given, mean, std, tmp_path, capsys):
    hub_folder(tmp_path / "hub")
    config = make_config(cipher={"block_size": 16}, model={"name": OURS, "checkpoint": str(tmp_path / "hub"), **given})
    places = make_places(tmp_path / "run")
    write_raw(places.raw, {"train": 4, "test": 2}, size=SIZE)
    adapt.run(config, places)
    origin = read_record(places.adapted, "adapt")["origin"]
    assert (tuple(origin["mean"]), tuple(origin["std"])) == (mean, std)
    assert origin["normalization"] == ("of params.yaml" if given else "config.json")
    assert origin["weights"].startswith("Vision Transformer (depth 12, width 192, patches of 16 px, 5 positions")
    said = " ".join(f"{value:.4g}" for value in mean)
    assert f"; mean {said}, std" in capsys.readouterr().err
    assert f"; mean {said}, std" in read_result(places, "adapt")["weights"]
    assert str(tmp_path) not in json.dumps(origin)  # the trainer reads it


@pytest.mark.parametrize("text", ["\x1b[2Jnothing to see", "one line\nand another", "\x85", ""])
def test_what_an_adapted_model_says_of_its_origin_is_one_line(text, tmp_path):
    """It crosses to the other party, whose terminal prints it."""
    hub_folder(tmp_path / "hub")
    backbone = load_backbone(OURS, tmp_path / "hub", SIZE)
    origin = backbone.origin.record()
    for name in ("weights", "normalization"):
        record = {"key_id": None, "cipher": {"name": "none"}, "image_size": SIZE, "origin": origin | {name: text}}
        save_model(tmp_path / "adapted", backbone, record)
        with pytest.raises(PpvitError, match=f"ppvit: 'origin.{name}'") as error:
            read_record(tmp_path / "adapted", "adapt")
        assert str(error.value).isprintable()


def test_features_of_pixels_that_are_not_normalised(tmp_path):
    """Chiang (arXiv 2304.03807) feeds pixels in 0..1 to torchvision's RegNet."""
    torch.manual_seed(1)
    theirs = drawn(timm.create_model("regnetx_004_tv", num_classes=7)).float()
    torch.save(theirs.state_dict(), tmp_path / "regnet.pth")
    raw = write_raw(tmp_path / "raw", {"train": 4, "test": 2}, size=64)
    model = {"name": "regnetx_004_tv", "checkpoint": str(tmp_path / "regnet.pth"), "mean": "none", "std": "none"}
    config = make_config(dataset={"image_size": 64}, cipher={"block_size": 16}, model=model)
    found, _ = extract(config, raw, "train", 4, features_of(config, tmp_path / "unused"))
    from ppvit.data.plain import PlainImages

    pixels = torch.from_numpy(PlainImages(raw, "train", config.dataset, config.encrypt).read(0, 4))
    theirs.reset_classifier(0)
    with torch.no_grad():
        expected = theirs(pixels.permute(0, 3, 1, 2) / 255).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("given", "reason"), [
    ({"mean": "none"}, "model.mean and model.std are none together, or neither is"),
    ({"mean": [0.5], "std": [0.5]}, "mean has 1 values; give three"),
    ({"std": [0.5, 0.0, 0.5]}, "std holds a value that is not above 0"),
    ({"mean": [100.0, 0.0, 0.0]}, "mean"),
    ({"mean": "halves"}, "mean"),
])  # fmt: skip
def test_parameters_that_normalise_nothing_are_refused(given, reason):
    with pytest.raises(Exception, match=reason):
        make_config(model=given)


# ---- another network ----


@pytest.mark.parametrize(("stored", "asked", "reason"), [
    ("vit_small_patch32_224", "vit_small_patch16_224", r"patches of 32 px, .* of 16 px, .*=vit_small_patch32_224$"),
    ("vit_tiny_patch16_224", "vit_small_patch16_224", r"width 192, .* width 384, .*=vit_tiny_patch16_224$"),
    ("deit_tiny_distilled_patch16_224", OURS, r"a distilled Vision .*=deit_tiny_distilled_patch16_224$"),
    ("resnet18", OURS, r"a ResNet \(2, 2, 2, 2 blocks, .* a Vision Transformer \(.*; set model.name=resnet18$"),
    ("regnetx_004_tv", "resnet18", r"a RegNet \(.* is a ResNet \(.*; set model.name=regnetx_004_tv$"),
])  # fmt: skip
def test_the_error_says_what_the_file_holds(stored, asked, reason, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model(stored, num_classes=5).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(PpvitError, match=reason) as error:
        load_backbone(asked, tmp_path / "w.safetensors", 224)
    assert "\n" not in str(error.value)
    assert "..." not in str(error.value)


def test_of_names_that_fit_the_method_counts():
    """Other networks of timm have the tensors of DINOv3 too, under shorter names."""
    name = "vit_small_patch16_dinov3_qkvb"
    state = skeleton(name, {"num_classes": 0}).state_dict()
    assert name_that_fits(state, network_of(state), "vit_small_patch16_224", "transformers' DINOv3") == name


@pytest.mark.parametrize(("change", "reason"), [
    ({"depth": 3}, r"\(depth 3, width 48.* is a Vision Transformer \(depth 2, width 48"),
    ({"in_chans": 4}, "4 input channels, .* 3 input channels"),
    ({"reg_tokens": 2}, "3 other tokens, .* 1 other token,"),
    ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "0 other tokens, .* 1 other token,"),
    ({"init_values": 1.0}, r"has 'blocks.0.ls1.gamma' and 3 more, which the network has not"),
    ({"qkv_bias": False}, r"lacks 'blocks.0.attn.qkv.bias' and 1 more"),
    ({"mlp_ratio": 2}, r"has 'blocks.0.mlp.fc1.weight' of shape 96 x 48 and not 192 x 48"),
])  # fmt: skip
def test_parts_that_differ(change, reason, tmp_path):
    write_tiny(tmp_path / "w.safetensors", **change)
    with pytest.raises(PpvitError, match=reason) as error:
        load(tmp_path / "w.safetensors")
    assert "set model.name" in str(error.value)


def test_positions_of_no_square_are_refused(tmp_path):
    state = timm.create_model(OURS, **TINY).state_dict()
    state["pos_embed"] = torch.zeros(1, 20, TINY["embed_dim"])
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(PpvitError, match="20 positions, .* 17 positions"):
        load(tmp_path / "w.safetensors")


def test_positions_of_another_size_are_resampled_and_said(tmp_path):
    write_tiny(tmp_path / "w.safetensors", img_size=64)
    _, origin = load(tmp_path / "w.safetensors")
    assert "its 65 positions were resampled to 17" in str(origin)


def test_relative_positions_of_another_size_are_resampled_and_said(tmp_path):
    """Tables of (2 n - 1)^2 distances and 3 of the class token, for n patches a side: 8, then 4."""
    name = "beit_base_patch16_224"
    save_file(timm.create_model(name, **(TINY | {"img_size": 64})).state_dict(), tmp_path / "w.safetensors")
    _, origin = load(tmp_path / "w.safetensors", name)
    assert "2 of its tables of relative positions were resampled, the first from 228 to 52 entries" in str(origin)
    save_file(timm.create_model(name, **TINY).state_dict(), tmp_path / "w.safetensors")
    assert "resampled" not in str(load(tmp_path / "w.safetensors", name)[1])


@pytest.mark.parametrize(("change", "reason"), [
    ({"num_attention_heads": 3}, "config.json says 3 attention heads, and model.name .* has 4; choose another name"),
    ({"hidden_act": "quick_gelu"}, "says activation quick_gelu, and model.name .* has gelu; choose a name of"),
    ({"hidden_act": "relu"}, "says activation relu, and model.name .* has gelu"),
    ({"patch_size": 4}, "config.json says patches of 4, and the weights beside it have 8; fetch both again"),
    ({"num_hidden_layers": 5}, "config.json says depth 5, and the weights beside it have 2"),
])  # fmt: skip
def test_what_no_tensor_shows_is_compared_with_the_configuration(change, reason, tmp_path):
    write_tiny(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(THEIRS | {"model_type": "vit"} | change))
    with pytest.raises(PpvitError, match=reason):
        load(tmp_path / "model.safetensors")


def test_an_architecture_of_other_sums_is_refused(tmp_path):
    """QuickGELU has the tensors of GELU; the hub folder says which."""
    name = "vit_base_patch16_clip_quickgelu_224"
    model = timm.create_model(name, **TINY, num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(PpvitError, match=f"architecture {name}, not vit_base_patch16_clip_224; set model.name={name}"):
        load(tmp_path / "model.safetensors", "vit_base_patch16_clip_224")
    load(tmp_path / "model.safetensors", name)


def test_one_channel_wants_one_normalisation(tmp_path):
    write_tiny(tmp_path / "grey.safetensors", in_chans=1)
    deit = "deit_tiny_patch16_224"
    with pytest.raises(PpvitError, match="for one channel, and mean and std .* set model.mean and model.std to one"):
        load(tmp_path / "grey.safetensors", deit)
    _, origin = load_checkpoint(deit, deit, dict(TINY), tmp_path / "grey.safetensors", (0.1307,) * 3, (0.3081,) * 3)
    assert origin.mean == (0.1307,) * 3


# ---- files that are not what they seem ----


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_pointer_of_git_lfs_is_told_as_such(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    with pytest.raises(PpvitError, match="is a pointer of Git LFS in place of the file; fetch it: git lfs pull"):
        load(tmp_path / name)


def test_adapters_that_are_not_merged_are_told_as_such(tmp_path):
    model = timm.create_model(OURS, **TINY)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"]))
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    tuned.save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "w.pth", tmp_path / "adapter" / "adapter_model.safetensors"):
        with pytest.raises(PpvitError, match="not merged; save the model that merge_and_unload"):
            load(path)


def test_names_that_nobody_knows_are_not_said_to_be_of_timm(tmp_path):
    torch.save(torchvision.models.convnext_tiny().state_dict(), tmp_path / "w.pth")
    reason = "under names that are not known here, such as 'features.0.0.weight'; .*; save it under names of timm, or"
    with pytest.raises(PpvitError, match=reason):
        load(tmp_path / "w.pth", "convnext_tiny", {})


# ---- files of strangers ----


@pytest.mark.parametrize("content", [
    "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}',
    '{"weight_map": {"a": "../w.safetensors"}}', '{"weight_map": {"a": "config.json"}}',
])  # fmt: skip
def test_indices_that_cannot_be_right(content, tmp_path):
    write_tiny(tmp_path / "w.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(content)
    (folder / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(PpvitError, match="does not say which files beside it hold the weights; fetch it again"):
        load_backbone(OURS, folder, SIZE)


@pytest.mark.parametrize(("content", "reason"), [
    ("{", "config.json is not valid JSON"),
    ("[" * 100_000, "config.json is not valid JSON"),
    ("[1]", "config.json holds no names and values"),
    ('{"architecture": 3}', "config.json: 'architecture': .*; mend it, or fetch it again"),
    ('{"architecture": "x", "pretrained_cfg": {"mean": ["a"]}}', "config.json: 'pretrained_cfg.mean.0'"),
    ('{"architecture": "x", "pretrained_cfg": {"mean": [NaN, 0, 0]}}', "config.json: 'pretrained_cfg.mean.0'"),
    ('{"architecture": "x", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0, 0.5]}', "normalise no three colours"),
    ('{"architecture": "x", "mean": [0.5, 0.5], "std": [0.5, 0.5]}', "normalise no three colours"),
    ('{"architecture": "no_such_network"}', "says architecture no_such_network, which this timm does not know"),
    ('{"architecture": "x", "model_args": {"depth": 100000}}', "config.json: model_args: 'depth'"),
    ('{"architecture": "x", "model_args": {"checkpoint_path": "y"}}', "model_args: 'checkpoint_path' does not belong"),
    ('{"model_type": "vit", "num_attention_heads": -1}', "config.json: 'num_attention_heads'"),
    ('{"model_type": "vit", "auto_map": {"AutoModel": "evil.Model"}}', None),  # names code, which is not read
    ("x" * (4 * 2**20 + 1), "config.json is larger than"),
])  # fmt: skip
def test_configurations_that_cannot_be_right(content, reason, tmp_path):
    write_tiny(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    if reason is None:
        load(tmp_path / "model.safetensors")
        return
    with pytest.raises(PpvitError, match=reason) as error:
        load(tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
