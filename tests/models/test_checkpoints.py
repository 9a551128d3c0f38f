"""Checkpoints that other libraries wrote, with random weights: loaded they compute what that library computes.

Files are written by the libraries' own ``save_pretrained`` and ``state_dict``. Logits are compared in float64: queries,
keys and values are one product here and three there, so that sums run in another order; 1e-6 is the bound.
"""

import json
from functools import partial

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import load_backbone
from ppvit.models.checkpoint_names import timm_names
from ppvit.models.checkpoints import load_checkpoint
from ppvit.models.weights_file import find_weights

SIZE, PATCH, WIDTH, DEPTH, HEADS = 32, 8, 48, 2, 4
TINY = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
OURS = "vit_tiny_patch16_224"
THEIRS = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "image_size": SIZE,
    "patch_size": PATCH,
    "layer_norm_eps": 1e-6,  # timm's
}


def drawn(model: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Every value of a model drawn anew: constructors leave biases, scales and tokens at zero or one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.1)
    return model.double().eval()


def images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def load(path, architecture: str = OURS, arguments: dict | None = None):
    model, origin = load_checkpoint(architecture, architecture, dict(TINY if arguments is None else arguments), path)
    return model.double().eval(), origin


def assert_same(model, expected: torch.Tensor, size: int = SIZE) -> None:
    with torch.no_grad():
        found = model(images(size))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-6
    assert expected.std() > 0.01


# ---- transformers ----

DINOV3 = {"num_register_tokens": 4, "layer_norm_eps": 1e-5}
FAMILIES = {
    "ViT": (OURS, {}, {}),
    "DeiT": ("deit_tiny_distilled_patch16_224", {}, {}),
    "BEiT": ("beit_base_patch16_224", {}, {"use_relative_position_bias": True, "use_mean_pooling": True}),
    "DINOv2": ("vit_small_patch14_dinov2", {}, {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}, {"num_register_tokens": 4}),
    "DINOv3": ("vit_small_patch16_dinov3_qkvb", {}, DINOV3),
    "DINOv3 gated": ("vit_small_plus_patch16_dinov3_qkvb", {}, DINOV3 | {"use_gated_mlp": True, "hidden_act": "silu"}),
    "DINOv3 without biases": (
        "vit_small_patch16_dinov3",
        {},
        DINOV3 | dict.fromkeys(("query_bias", "value_bias"), False),
    ),
    "gated": ("vit_giant_patch14_dinov2", {}, {"use_swiglu_ffn": True}),
    "MAE": (OURS, {}, {"mask_ratio": 0.0}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", {}, {"layer_norm_eps": 1e-5, "projection_dim": 24}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}, {"hidden_act": "gelu"}),
}


def transformers_model(family: str, options: dict):
    """A network of transformers, and what it gives for images: logits, or what timm's network gives in their place."""
    transformers = pytest.importorskip("transformers", reason="pip install 'ppvit[test]'")
    settings = THEIRS | options
    if family == "ViT":
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**settings, num_labels=7))
        return model, lambda pixels: model(pixels).logits
    if family == "DeiT":
        model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**settings, num_labels=7))
        return model, lambda pixels: model(pixels).logits
    if family == "BEiT":
        model = transformers.BeitForImageClassification(transformers.BeitConfig(**settings, num_labels=7))
        return model, lambda pixels: model(pixels).logits
    if family in ("DINOv2", "gated"):
        model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**settings, num_labels=7))
        return model, lambda pixels: model.dinov2(pixels).pooler_output
    if family.startswith("DINOv3"):
        model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**settings))
        return model, lambda pixels: model(pixels).last_hidden_state[:, 5:].mean(1)  # timm's network pools the patches
    if family == "registers":
        model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**settings))
        return model, lambda pixels: model(pixels).pooler_output
    if family == "MAE":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        config = transformers.ViTMAEConfig(**settings, **decoder, decoder_intermediate_size=32)
        model = transformers.ViTMAEForPreTraining(config)
        return model, lambda pixels: mae_class_token(model, pixels)
    if family == "CLIP":
        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**settings))
        return model, lambda pixels: model(pixels).image_embeds
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**settings))
    return model, lambda pixels: model(pixels).pooler_output


def mae_class_token(model, pixels: torch.Tensor) -> torch.Tensor:
    """With nothing masked; their order of patches is random, which the class token does not see."""
    return model.vit(pixels).last_hidden_state[:, 0]


@pytest.mark.parametrize("how", ["save_pretrained", "state_dict"])  # the names in files and in memory differ
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers(family, how, tmp_path):
    architecture, arguments, options = FAMILIES[family]
    theirs, compute = transformers_model(family, options)
    theirs = drawn(theirs)
    with torch.no_grad():
        expected = compute(images())
    if how == "save_pretrained":
        theirs.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        path = tmp_path / "weights.pth"
        torch.save(theirs.state_dict(), path)
    model, origin = load(path, architecture, TINY | arguments)
    assert_same(model, expected)
    assert "of transformers" in origin.weights


def test_transformers_resnet(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install 'ppvit[test]'")
    sizes = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    theirs = drawn(transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=7)))
    theirs.save_pretrained(tmp_path)
    model, _ = load(tmp_path / "model.safetensors", "resnet18", {})
    with torch.no_grad():
        assert_same(model, theirs(images()).logits)


# ---- torchvision ----


def test_torchvision_vit(tmp_path):
    theirs = torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=7)
    theirs = drawn(theirs)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    model, origin = load(tmp_path / "vit.pth")
    with torch.no_grad():
        assert_same(model, theirs(images()))
    assert origin.mean == (0.485, 0.456, 0.406)  # the tensors' names tell, not timm's name
    assert origin.normalization == "what torchvision uses"


@pytest.mark.parametrize(("theirs", "ours"), [
    ("regnet_x_400mf", "regnetx_004_tv"),
    ("regnet_y_800mf", "regnety_008_tv"),
    ("resnet18", "resnet18"),
])  # fmt: skip
def test_torchvision_convolutions(theirs, ours, tmp_path):
    network = drawn(getattr(torchvision.models, theirs)(num_classes=7))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model, origin = load(tmp_path / "w.pth", ours, {})
    with torch.no_grad():
        assert torch.equal(model(images(64)), network(images(64)))
    assert origin.mean == (0.485, 0.456, 0.406)


# ---- open_clip ----


def open_clip_model(vision: dict, quick_gelu: bool = False):
    open_clip = pytest.importorskip("open_clip", reason="pip install 'ppvit[test]'")
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return drawn(open_clip.CLIP(24, vision, text, quick_gelu=quick_gelu))


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clip(quick_gelu, tmp_path):
    vision = {"image_size": SIZE, "layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH}
    theirs = open_clip_model(vision, quick_gelu)
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    said = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "quick_gelu": quick_gelu},
            "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    names = ["vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224"]
    model, origin = load(tmp_path / "open_clip_model.safetensors", names[quick_gelu])
    with torch.no_grad():
        assert_same(model, theirs.encode_image(images()))
    assert (origin.mean, origin.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert origin.normalization == "open_clip_config.json"
    with pytest.raises(PpvitError, match="says activation (quick_)?gelu, and model.name .* has (quick_)?gelu; choose"):
        load(tmp_path / "open_clip_model.safetensors", names[not quick_gelu])


@pytest.mark.parametrize(("trunk", "projection", "pool"), [
    ("vit_tiny_patch16_224", "linear", "token"),
    ("vit_base_patch16_siglip_224", "none", "map"),
])  # fmt: skip
def test_open_clip_around_a_trunk_of_timm(trunk, projection, pool, tmp_path, monkeypatch):
    pytest.importorskip("open_clip", reason="pip install 'ppvit[test]'")
    from open_clip import timm_model

    create = partial(timm.create_model, **TINY)
    monkeypatch.setattr(timm_model.timm, "create_model", lambda *names, **options: create(*names, **(options | TINY)))
    tower = timm_model.TimmModel(trunk, WIDTH if projection == "none" else 24, SIZE, pool, projection)
    monkeypatch.undo()
    tower = drawn(tower)
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    state |= {"text.token_embedding.weight": torch.zeros(50, 16), "logit_scale": torch.zeros(())}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    model, origin = load(tmp_path / "open_clip_model.safetensors", trunk)
    with torch.no_grad():
        expected = tower(images())
    assert_same(model, expected)
    assert "left out: logit_scale, text" in str(origin)


# ---- wrappers, and methods that learn without labels ----


def tiny(**options) -> torch.nn.Module:
    return drawn(timm.create_model(OURS, **(TINY | {"num_classes": 7} | options)))


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "module.", "_orig_mod.", "model._orig_mod.", "module.model.", "a.b."]
)
def test_a_network_in_wrappers(prefix, tmp_path):
    theirs = tiny()
    beside = {} if prefix in ("module.", "_orig_mod.") else {"criterion.weight": torch.ones(7)}
    content = {"state_dict": prefixed(theirs.state_dict(), prefix) | beside,
               "pytorch-lightning_version": "2.5", "epoch": 3, "optimizer_states": [{"state": {0: {"step": 1}}}],
               "hyper_parameters": {"lr": 0.1, "mean": [0.1, 0.2, 0.3], "std": (0.4, 0.5, 0.6)}}  # fmt: skip
    torch.save(content, tmp_path / "epoch=3.ckpt")
    model, origin = load(tmp_path / "epoch=3.ckpt")
    with torch.no_grad():
        assert torch.equal(model(images()), theirs(images()))
    assert (origin.mean, origin.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert origin.normalization == "hyper_parameters of the file"
    assert ("left out: criterion" in str(origin)) == bool(beside)


def test_the_average_that_torch_keeps(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(tiny())
    torch.save(averaged.state_dict(), tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    with torch.no_grad():
        assert torch.equal(model(images()), averaged.module(images()))


def test_a_copy_is_not_taken_for_its_shorter_name(tmp_path):
    state = tiny().state_dict()
    torch.save(prefixed(state, "model._orig_mod.") | prefixed(copies(state), "model_ema."), tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    assert torch.equal(model.state_dict()["norm.weight"], state["norm.weight"])


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_several_files(form, tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install 'ppvit[test]'")
    theirs = drawn(transformers.ViTForImageClassification(transformers.ViTConfig(**THEIRS)))
    theirs.save_pretrained(tmp_path, max_shard_size="300KB")
    index = tmp_path / "model.safetensors.index.json"
    if form == "bin":  # as older versions write them
        for path in tmp_path.glob("*.safetensors"):
            torch.save(load_file(path), path.with_suffix(".bin"))
            path.unlink()
        index.with_name("pytorch_model.bin.index.json").write_text(index.read_text().replace(".safetensors", ".bin"))
        index.unlink()
    shards = sorted(tmp_path.glob(f"*-of-*.{form}"))
    assert len(shards) > 1
    weights = find_weights(tmp_path, OURS)
    model, _ = load(weights)
    with torch.no_grad():
        assert_same(model, theirs(images()).logits)
    with pytest.raises(UsageError, match="a part of weights in several files; set model.checkpoint to the folder"):
        load_backbone(OURS, shards[0], SIZE)
    with pytest.raises(UsageError, match="set model.checkpoint to the folder"):
        load_backbone(OURS, weights, SIZE)
    shards[1].unlink()
    with pytest.raises(PpvitError, match=f"{shards[1].name} is missing, which .* names; fetch the folder again"):
        load(weights)


def headless(state: dict) -> dict:
    return {name: value for name, value in state.items() if not name.startswith("head")}


def copies(state: dict) -> dict:
    return {name: torch.full_like(value, 9) for name, value in state.items()}


def methods() -> dict[str, dict]:
    """Checkpoints as the published training scripts write them; copies that must not be taken hold nines."""
    whole, state = tiny().state_dict(), headless(tiny().state_dict())
    head = {"head.mlp.0.weight": torch.zeros(9, WIDTH), "head.last_layer.weight_g": torch.zeros(9, 1)}
    moco = {"head.0.weight": torch.zeros(9, WIDTH), "head.1.running_mean": torch.zeros(9)}
    chunked = {name.replace("blocks.", "blocks.0."): value for name, value in state.items()}
    return {
        "DINO": {"student": prefixed(copies(state) | head, "module.backbone."),
                 "teacher": prefixed(state, "backbone.") | head, "epoch": 1, "dino_loss": {"center": torch.zeros(9)}},
        "DINO teacher alone": {"teacher": prefixed(state, "backbone.") | head},
        "DINO flat": prefixed(state, "teacher.backbone.") | prefixed(copies(state), "student.backbone."),
        "DINOv2": {"teacher": prefixed(chunked | {"mask_token": torch.zeros(1, WIDTH)}, "backbone.")
                   | {"dino_head.mlp.0.weight": torch.zeros(3, WIDTH)}},
        "MoCo": {"state_dict": prefixed(state | moco, "module.base_encoder.")
                 | prefixed(copies(state | moco), "module.momentum_encoder.")
                 | {"module.predictor.0.weight": torch.zeros(3, 3)}, "arch": "vit_tiny"},
        "MoCo v2": {"state_dict": prefixed(whole, "encoder_q.") | prefixed(copies(whole), "encoder_k.")
                    | {"queue": torch.zeros(4, 4)}},
        "BYOL": prefixed(state, "online_encoder.net.") | prefixed(copies(state), "target_encoder.net.")
        | {"online_predictor.net.0.weight": torch.zeros(3, 3)},
        "solo-learn": {"state_dict": prefixed(state, "backbone.") | prefixed(copies(state), "momentum_backbone.")
                       | {"classifier.weight": torch.zeros(100, WIDTH)}},
        "MAE": {"model": state | {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, WIDTH),
                                  "decoder_pos_embed": torch.zeros(1, 17, 16),
                                  "decoder_blocks.0.attn.qkv.weight": torch.zeros(48, 16)}},
    }  # fmt: skip


@pytest.mark.parametrize("method", methods())
def test_methods_that_learn_without_labels(method, tmp_path):
    """The network that its authors evaluate is taken, with no projection in place of a head."""
    torch.save(methods()[method], tmp_path / "checkpoint.pth")
    model, origin = load(tmp_path / "checkpoint.pth")
    assert model.num_classes == 0
    theirs = tiny(num_classes=0)
    theirs.load_state_dict(headless(tiny().state_dict()))
    with torch.no_grad():
        assert torch.equal(model(images()), theirs(images()))
    known = method.split(" ")[0] in ("DINO", "DINOv2", "MoCo", "MAE")
    assert origin.mean == ((0.485, 0.456, 0.406) if known else (0.5, 0.5, 0.5))
    assert "params.yaml" not in origin.normalization


def test_mae_that_was_fine_tuned_pools_the_patches(tmp_path):
    """MAE's ``global_pool`` normalises behind the mean: ``fc_norm`` in place of ``norm``."""
    theirs = tiny(global_pool="avg")
    assert "fc_norm.weight" in theirs.state_dict()
    torch.save({"model": theirs.state_dict()}, tmp_path / "mae.pth")
    arguments = dict(TINY)
    model, _ = load_checkpoint(OURS, OURS, arguments, tmp_path / "mae.pth")
    assert arguments["global_pool"] == "avg"
    with torch.no_grad():
        assert torch.equal(model.double()(images()), theirs(images()))


def test_networks_that_pool_unlike_their_name(tmp_path):
    """BEiT's default is the mean of the patches; with ``norm`` in the file it is the class token."""
    theirs = drawn(timm.create_model("beit_base_patch16_224", **TINY, num_classes=7, global_pool="token"))
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    model, _ = load(tmp_path / "w.safetensors", "beit_base_patch16_224")
    with torch.no_grad():
        assert torch.equal(model(images()), theirs(images()))


def test_one_input_channel(tmp_path):
    """For grey pictures the three channels give exactly, up to rounding, what the one gave."""
    theirs = tiny(in_chans=1)
    save_file(theirs.state_dict(), tmp_path / "grey.safetensors")
    model, origin = load(tmp_path / "grey.safetensors")
    grey = images()[:, :1]
    with torch.no_grad():
        assert (model(grey.repeat(1, 3, 1, 1)) - theirs(grey)).abs().max() < 1e-6
    assert "one input channel was spread over three colours" in str(origin)
    kernel = theirs.state_dict()["patch_embed.proj.weight"].float()
    found = model.state_dict()["patch_embed.proj.weight"].float()
    torch.testing.assert_close(found.sum(1, keepdim=True), kernel, rtol=1e-6, atol=0)


def test_names_of_nothing_known_stay():
    state = {"x": torch.zeros(2), "y.weight": torch.zeros(3)}
    renamed = timm_names(state)
    assert renamed.state.keys() == state.keys()
    assert not renamed.left_out


@pytest.mark.parametrize("name", ["resnet10t", "levit_128s", "mambaout_femto"])
def test_networks_whose_first_and_last_layers_have_names_of_their_own(name, tmp_path):
    """Nested stems (``conv1.0``, ``stem.conv1``) are no wrappers, a numbered or normalised head no projection."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=5).state_dict()
    save_file({f"model.{key}": value.clone() for key, value in state.items()}, tmp_path / "w.safetensors")
    model, origin = load_checkpoint(name, name, {}, tmp_path / "w.safetensors")
    assert model.num_classes == 5
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert "taken from 'model'" not in str(origin)
