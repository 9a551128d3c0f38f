"""PyramidNets: published counts, ShakeDrop, the forward pass against a plain one, names, checkpoints."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ppvit.core.errors import UsageError
from ppvit.models import is_convolutional, load_backbone
from ppvit.models.building import skeleton
from ppvit.models.names import parsed
from ppvit.models.networks import network_of
from ppvit.models.pyramidnet import PyramidNet, PyramidUnit, ShakeDrop


def count(name: str, **more) -> int:
    architecture, arguments = parsed(name)
    return sum(value.numel() for value in skeleton(architecture, arguments | more).parameters())


@pytest.mark.parametrize(("name", "classes", "expected"), [
    ("pyramidnet_110_270", 10, 28_485_493),
    ("pyramidnet_110_270", 100, 28_511_323),
    ("pyramidnet_20_24", 10, 146_353),
    ("pyramidnet_26_48", 10, 408_250),
    ("pyramidnet_38_48", 10, 612_136),
    ("convmixer_256_8", 10, 706_570),
    ("convmixer_384_8", 10, 1_470_346),
    ("convmixer_512_16", 10, 5_306_890),
    ("convmixer_512_16_ks9_p16", 10, 5_306_890),
])  # fmt: skip
def test_published_counts(name, classes, expected):
    assert count(name, num_classes=classes) == expected


def test_widths_rise_from_21_to_286():
    with torch.device("meta"):
        units = [module for module in PyramidNet().modules() if isinstance(module, PyramidUnit)]
    assert [unit.conv2.out_channels for unit in units[:3]] == [21, 26, 31]
    assert units[-1].conv2.out_channels == 286
    assert len(units) == 54
    assert [unit.shake.probability for unit in (units[0], units[-1])] == pytest.approx([0.5 / 54, 0.5])


def reference(model: PyramidNet, images: torch.Tensor) -> torch.Tensor:
    """Evaluation of PyramidNet-8 by functions, from the tensors."""
    state = model.state_dict()

    def norm(values, name):
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(values, *parts)

    values = norm(functional.conv2d(images, state["conv1.weight"], state["conv1.bias"], padding=1), "bn1")
    for stage in range(3):
        unit, step = f"stages.{stage}.0", 2 if stage else 1
        branch = functional.conv2d(norm(values, f"{unit}.bn1"), state[f"{unit}.conv1.weight"], stride=step, padding=1)
        branch = norm(branch, f"{unit}.bn2").relu()
        branch = norm(functional.conv2d(branch, state[f"{unit}.conv2.weight"], padding=1), f"{unit}.bn3")
        shortcut = functional.avg_pool2d(values, 2) if stage else values
        zeros = torch.zeros(len(values), branch.shape[1] - values.shape[1], *branch.shape[2:])
        values = (1 - 0.5 * (stage + 1) / 3) * branch + torch.cat([shortcut, zeros], 1)
    values = functional.avg_pool2d(norm(values, "bn2").relu(), values.shape[-1]).flatten(1)
    return values @ state["fc.weight"].T + state["fc.bias"]


def test_forward_pass():
    torch.manual_seed(0)
    model = timm.create_model("pyramidnet", depth=8, alpha=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    images = torch.rand(2, 3, 16, 16)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(model, images))
        assert model(torch.rand(1, 3, 22, 22)).shape == (1, 10)  # 22, 11, 6


def test_shake_drop():
    torch.manual_seed(0)
    features = torch.rand(8, 3, 2, 2, requires_grad=True)
    shaken = ShakeDrop(1.0)(features)
    shaken.sum().backward()
    forwards, backwards = (shaken / features).detach().flatten(1), features.grad.flatten(1)
    for drawn in (forwards, backwards):
        torch.testing.assert_close(drawn, drawn[:, :1].expand_as(drawn))  # one number an image
        assert len(drawn[:, 0].unique()) == 8
    assert forwards.abs().max() <= 1
    assert forwards.min() < 0
    assert backwards.min() >= 0
    assert backwards.max() <= 1
    module = ShakeDrop(0.3)
    with torch.no_grad():
        passed = sum(torch.equal(module(features), features) for _ in range(400))
        torch.testing.assert_close(module.eval()(features), 0.7 * features)
    assert 220 < passed < 340  # of 280, 9 deviations are 82


@pytest.mark.parametrize(("name", "remedy"), [
    ("pyramidnet", "pyramidnet_<depth>_<alpha>, such as pyramidnet_110_270"),
    ("pyramidnet_20_24_2", "pyramidnet_<depth>_<alpha>"),
    ("pyramidnet_21_24", "depth 21 is not 6 k \\+ 2"),
    ("pyramidnet_0_24", "pyramidnet_<depth>_<alpha>"),
    ("convmixer", "convmixer_256_8_ks9_p1"),
    ("convmixer_256_8_p0", "convmixer_256_8_ks9_p1"),
    ("convmixer_128_4", "does not say the side of its patches; write convmixer_128_4_p4"),
])  # fmt: skip
def test_names_that_say_no_network(name, remedy):
    with pytest.raises(UsageError, match=remedy):
        parsed(name)


def test_names_of_timm_stay_its_own():
    assert parsed("convmixer_768_32.in1k") == ("convmixer_768_32.in1k", {})
    sizes = {"dim": 128, "depth": 4, "kernel_size": 5, "patch_size": 2}
    assert parsed("convmixer_128_4_ks5_p2") == ("convmixer", sizes)
    assert is_convolutional("pyramidnet_20_24")


def test_own_weights(tmp_path):
    first = load_backbone("pyramidnet_8_6", tmp_path, 32, pretrained=False)
    save_file(first.model.state_dict(), tmp_path / "model.safetensors")
    second = load_backbone("pyramidnet_8_6", tmp_path, 32)
    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=0)
    assert str(network_of(first.model.state_dict())).startswith("PyramidNet (1, 1, 1 blocks, width 16, 3 x 3 kernels")
    assert (first.mean, first.std) == ((0.0,) * 3, (1.0,) * 3)
