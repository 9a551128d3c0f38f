"""Pretrained weights as other programs write them, loaded into the embedded architectures; all of them random ones."""

import re
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from conftest import make_config
from safetensors.torch import save_file
from torch import nn

from ppvit.config import NO_MODEL
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import load_backbone, load_model, save_model
from ppvit.models.weights_file import find_weights, read_weights

MICRO = "resnet10_micro_cifar"


def state_of(name: str = MICRO, seed: int = 3, **arguments) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name, **arguments).state_dict()


def loaded(path, name: str = MICRO):
    return load_backbone(name, path, 32, path.parent / "unused")


def solo_learn(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Names as in solo-learn's BYOL: backbone without its head, online classifier, projector, predictor, momentum."""
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    momentum = {f"momentum_{prefix}{name}": torch.full_like(value, 9) for name, value in backbone.items()}
    heads = {"classifier.weight": torch.zeros(100, 128), "projector.0.weight": torch.zeros(8, 128)}
    heads |= {"momentum_projector.0.weight": torch.zeros(8, 128), "predictor.0.weight": torch.zeros(8, 8)}
    return {f"{prefix}{name}": value for name, value in backbone.items()} | momentum | heads


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    lambda state: {"net": state, "acc": 95.0},
    lambda state: {"weights": {"of": state}, "optimizer": {"state": {0: {"step": 1}}}},
    lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
], ids=["alone", "state_dict", "model", "net", "nested", "data_parallel"])  # fmt: skip
def test_files_of_torch(wrap, tmp_path):
    state = state_of(num_classes=7)
    torch.save(wrap(state), tmp_path / "weights.pth")
    backbone = loaded(tmp_path / "weights.pth")
    assert backbone.model.num_classes == backbone.model_args["num_classes"] == 7
    torch.testing.assert_close(backbone.model.state_dict(), state, rtol=0, atol=0)
    assert not backbone.model.training


@pytest.mark.parametrize(("name", "size"), [
    ("vit_tiny_patch16_224", 32),
    (MICRO, 32),
    ("convmixer_micro_patch4", 32),
    ("swin_tiny_patch4_window7_224", 56),  # tables of relative positions and masks, which no file holds
    ("eva02_tiny_patch14_224", 28),  # a rotary embedding, which no file holds
])  # fmt: skip
def test_loaded_is_what_timm_itself_loads(name, size, tmp_path):
    """From a file of half precision, with all weights another seed's than the model's own."""
    arguments = {} if name in (MICRO, "convmixer_micro_patch4") else {"img_size": size}
    state = {key: value.half() if value.is_floating_point() else value
             for key, value in state_of(name, num_classes=5, **arguments).items()}  # fmt: skip
    save_file(state, tmp_path / "weights.safetensors")
    theirs = timm.create_model(name, num_classes=5, **arguments).eval()
    theirs.load_state_dict(state)
    before = torch.get_rng_state()
    model = load_backbone(name, tmp_path / "weights.safetensors", size).model
    assert torch.equal(torch.get_rng_state(), before)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert all(value.requires_grad for value in model.parameters())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images))


def test_a_tensor_under_two_names_is_loaded_twice(tmp_path):
    """Training one of them must not change the other, and safetensors could not save them."""
    state = state_of(num_classes=3)
    state["layer1.0.bn2.weight"] = state["layer1.0.bn1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    backbone = loaded(tmp_path / "weights.pth")
    save_model(tmp_path / "adapted", backbone, {"image_size": 32})
    with torch.no_grad():
        backbone.model.layer1[0].bn1.weight.zero_()
    assert backbone.model.layer1[0].bn2.weight.abs().min() > 0


def test_names_and_shapes_of_torchvision(tmp_path):
    """The first and last names and shapes of torchvision's resnet18-f37072fd.pth; it has no num_batches_tracked."""
    state = {name: value for name, value in state_of("resnet18").items() if not name.endswith("num_batches_tracked")}
    assert len(state) == 102
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["layer2.0.downsample.1.running_var"].shape == (128,)
    assert state["fc.bias"].shape == (1000,)
    save_file(state, tmp_path / "resnet18.safetensors")
    backbone = loaded(tmp_path / "resnet18.safetensors", "resnet18")
    assert backbone.model.num_classes == 1000
    assert torch.equal(backbone.model.layer1[0].bn1.running_mean, state["layer1.0.bn1.running_mean"])


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_checkpoints_of_solo_learn(prefix, tmp_path):
    state = state_of()
    checkpoint = {"epoch": 999, "global_step": 1, "state_dict": solo_learn(state, prefix), "lr_schedulers": []}
    torch.save(checkpoint, tmp_path / "byol.ckpt")
    backbone = loaded(tmp_path / "byol.ckpt")
    assert backbone.model.num_classes == 0
    expected = {name: value for name, value in state.items() if not name.startswith("fc.")}
    torch.testing.assert_close(backbone.model.state_dict(), expected, rtol=0, atol=0)

    # its first convolution pads by two: 32 px give features of 34 px, which end as 5 x 5
    theirs = timm.create_model(MICRO, num_classes=0).eval()
    theirs.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    theirs.load_state_dict(expected)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.model(images), theirs(images))
        assert backbone.model.forward_features(images).shape[-2:] == (5, 5)

        save_model(tmp_path / "adapted", backbone, {"image_size": 32})
        model = load_model(tmp_path / "adapted", "adapt", num_classes=4)  # a new head, the same padding
        assert model(images).shape == (2, 4)
        assert torch.equal(model.forward_features(images), theirs.forward_features(images))


@pytest.mark.parametrize(("stored", "asked", "hint"), [
    ("resnet18", "resnet18_cifar", r"holds a ResNet \(.*, 7 x 7 kernels .* \(.* 3 x 3 .*; set model.name=resnet18$"),
    ("resnet18_cifar", "resnet18", r"\(.*, 3 x 3 kernels .* is a ResNet \(.* 7 x 7 .*; set model.name=resnet18_cifar$"),
    (MICRO, "resnet18_cifar", r"\(1, 1, 1, 1 blocks.* \(2, 2, 2, 2 blocks.*; set model.name=resnet10_micro_cifar$"),
    (MICRO, "vit_micro_patch4_32", r"holds a ResNet .* is a Vision Transformer \(depth 4, width 128, patches of 4 px"),
])  # fmt: skip
def test_weights_of_another_network(stored, asked, hint, tmp_path):
    save_file(state_of(stored), tmp_path / "weights.safetensors")
    with pytest.raises(PpvitError, match=hint) as error:
        loaded(tmp_path / "weights.safetensors", asked)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "weights.safetensors") in str(error.value)


@pytest.mark.parametrize(("content", "reason"), [
    ({"net": {"layers": [1, 2]}, "acc": 95.0}, "holds 'net', which is no tensor; save the model's state_dict alone"),
    ({"w": torch.zeros(2), "acc": 95.0}, "holds 'acc', which is no tensor; save the model's state_dict alone"),
    ({}, "holds no tensors"),
    ({"state_dict": {}, "code": re.compile("x")}, "not a plain weights file: loading it could run code"),
])  # fmt: skip
def test_files_that_hold_no_plain_weights(content, reason, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(PpvitError, match=reason):
        read_weights(tmp_path / "weights.pth")


def test_values_that_are_no_numbers_are_refused(tmp_path):
    state = {"a": torch.zeros(2), "b": torch.tensor([0.0, torch.nan]), "n": torch.tensor(3)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(PpvitError, match=r"w\.pth holds values that are no numbers in 'b'; fetch it again"):
        read_weights(tmp_path / "w.pth")


def test_a_whole_model_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(PpvitError, match="loading it could run code; have it saved as .safetensors"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(("tensor", "reason"), [
    (torch.zeros(1).expand(10**6, 10**6), r"w\.pth has [\d,]+ bytes, fewer than its tensor 'a'; fetch it again"),
    (torch.empty(2, device="meta"), "holds 'a', which is no plain tensor"),
    (torch.eye(3).to_sparse(), "holds 'a', which is no plain tensor"),
])  # fmt: skip
def test_tensors_that_are_larger_than_their_file(tensor, reason, tmp_path):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(PpvitError, match=reason):
        read_weights(tmp_path / "w.pth")


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"a": torch.zeros(10**5)}, tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as stored,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for member in stored.namelist():
            small.writestr(member, stored.read(member))
    with pytest.raises(PpvitError, match=r"w\.pth is compressed, as torch writes no weights"):
        read_weights(tmp_path / "w.pth")


def test_a_pickle_nested_without_end_is_refused_in_one_line(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    with pytest.raises(PpvitError, match=r"w\.pth (cannot be read as weights|is not a plain weights file)") as error:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w.pth", "pytorch_model.bin"])
def test_safetensors_under_another_name(name, tmp_path):
    """Whole they are read; cut short they are said to be so, not to hold code."""
    state = {"a": torch.arange(100.0)}
    save_file(state, tmp_path / name)
    torch.testing.assert_close(read_weights(tmp_path / name), state, rtol=0, atol=0)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    with pytest.raises(PpvitError, match=r"cannot be read as weights \(.*incomplete.*\); fetch it again") as error:
        read_weights(tmp_path / name)
    assert "code" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<!doctype html><html>", b'{"error": "not found"}'])
def test_what_no_program_wrote_as_weights_is_not_said_to_hold_code(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(
        PpvitError, match=r"neither a safetensors file nor one that torch\.save wrote\); fetch it again"
    ):
        read_weights(tmp_path / "w.pth")


def test_older_files_of_torch_are_read(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "w.pth")["a"], torch.ones(3))


def test_the_folder_that_a_hub_keeps_is_pointed_to_its_snapshots(tmp_path):
    (tmp_path / "snapshots" / "0a1b").mkdir(parents=True)
    save_file({"a": torch.ones(3)}, tmp_path / "snapshots" / "0a1b" / "model.safetensors")
    with pytest.raises(UsageError, match="holds no weights file; name a folder in its snapshots/"):
        find_weights(tmp_path, MICRO)
    assert find_weights(tmp_path / "snapshots" / "0a1b", MICRO) is not None


def test_a_folder_may_hold_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="holds no weights file; name one, or set it back to models/none"):
        find_weights(tmp_path, MICRO)
    torch.save({}, tmp_path / "byol.ckpt")
    assert find_weights(tmp_path, MICRO) == tmp_path / "byol.ckpt"


def test_the_default_names_no_weights_of_ones_own():
    assert find_weights(Path(NO_MODEL), MICRO) is None
    assert make_config().model.checkpoint == NO_MODEL
