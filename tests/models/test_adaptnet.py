"""AdaptNets and learned matrices: published counts, the forward pass against torch's own layers, penalties by hand."""

import copy

import pytest
import timm
import torch
from conftest import tiny_backbone
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import make_cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import Backbone, load_model, save_model
from ppvit.models.adaptive import AdaptivePermutation, l12, least_distance
from ppvit.models.adaptnet import EleAdaptNet, LeAdaptNet, add_adaptnet, make_adaptnet, smoothness
from ppvit.models.building import skeleton
from ppvit.models.stems import normalize_input, stem_of


@pytest.mark.parametrize(("kind", "classes", "whole", "own"), [
    ("le", 10, 28_500_165, 12_800),
    ("le", 100, 28_525_995, 12_800),
    ("ele", 10, 29_310_661, 823_296),
    ("ele", 100, 29_336_491, 823_296),
])  # fmt: skip
def test_published_counts(kind, classes, whole, own):
    model = skeleton("pyramidnet", {"num_classes": classes})
    with torch.device("meta"):
        add_adaptnet(model, kind, 4, 64)
    assert sum(value.numel() for value in model.parameters()) == whole
    assert sum(value.numel() for value in model.conv1[0].parameters()) == own


def blocks_of(images: torch.Tensor, side: int) -> list[torch.Tensor]:
    """Blocks as pictures (n, 3, side, side), row by row."""
    steps = range(0, images.shape[-1], side)
    return [images[:, :, top : top + side, left : left + side] for top in steps for left in steps]


def put_together(blocks: list[torch.Tensor], side: int) -> torch.Tensor:
    """(n, 16 side^2) each to a picture: pixel shuffle inside each block."""
    pictures = [torch.nn.functional.pixel_shuffle(block[:, :, None, None], side) for block in blocks]
    across = int(len(blocks) ** 0.5)
    rows = [torch.cat(pictures[row * across : (row + 1) * across], 3) for row in range(across)]
    return torch.cat(rows, 2)


def test_le_is_one_network_called_for_every_block():
    torch.manual_seed(0)
    net, images = LeAdaptNet(2, 9), torch.rand(5, 3, 6, 6)
    conv, bn = nn.Conv2d(3, 64, 2, 2, bias=False), nn.BatchNorm2d(64)
    conv.weight.data = net.weight.data.view(64, 3, 2, 2)
    blocks = [nn.functional.leaky_relu(bn(conv(block)), 0.1).flatten(1) for block in blocks_of(images, 2)]
    torch.testing.assert_close(net(images), put_together(blocks, 2))
    assert net.bn.num_batches_tracked == bn.num_batches_tracked == 9
    torch.testing.assert_close(net.bn.running_var, bn.running_var)
    assert net(images[:1]).isfinite().all()  # one image has no statistics


def test_ele_is_a_network_for_every_block_under_torchs_spectral_norm():
    torch.manual_seed(0)
    net, images = EleAdaptNet(2, 9), torch.rand(5, 3, 6, 6)
    blocks = []
    for number, block in enumerate(blocks_of(images, 2)):
        conv = nn.Conv2d(3, 64, 2, 2, bias=False)
        conv.weight.data = net.weight.data[number].view(64, 3, 2, 2).clone()
        conv = spectral_norm(conv)
        conv.parametrizations.weight[0]._u.copy_(net.left[number])
        conv.parametrizations.weight[0]._v.copy_(net.right[number])
        blocks.append(nn.functional.leaky_relu(nn.BatchNorm2d(64)(conv(block)), 0.2).flatten(1))
    features = torch.stack(blocks, 2) @ net.matrix  # (n, 64, 9)
    torch.testing.assert_close(net(images), put_together(list(features.unbind(2)), 2), rtol=1e-4, atol=1e-5)
    largest = torch.linalg.svdvals(net.normalized_weight().detach())[:, 0]
    torch.testing.assert_close(largest, torch.ones(9), rtol=0.05, atol=0)


def test_penalties_by_hand():
    torch.manual_seed(0)
    net, images = EleAdaptNet(4, 64), torch.rand(2, 3, 32, 32)
    assert net.matrix.abs().max() <= 1 / 8
    net.asked = True
    picture = net(images)
    matrix = net.matrix.detach().double()
    by_hand = sum(line.abs().sum() - line.square().sum().sqrt() for line in (*matrix, *matrix.T)) / 64**2
    assert net.penalties["permutation"].item() == pytest.approx(float(by_hand), rel=1e-5)
    seen, total = picture.detach().double(), 0.0
    for colour in range(3):
        for row in range(31):
            here = seen[:, colour, row, :31]
            total += float((seen[:, colour, row + 1, :31] - here).square().sum())
            total += float((seen[:, colour, row, 1:] - here).square().sum())
    assert net.penalties["smoothness"].item() == pytest.approx(total / (31 * 32 * 16) / 2, rel=1e-5)


def test_a_permutation_has_no_penalty_and_no_distance():
    permutation = torch.eye(6)[torch.tensor([3, 1, 0, 5, 2, 4])]
    assert l12(permutation) == 0
    assert least_distance(-2 * permutation) == 0
    assert float(l12(torch.ones(4, 4))) == pytest.approx(2 * 4 * (4 - 2) / 16)
    assert float(least_distance(torch.ones(4, 4))) == pytest.approx(3 / 4)
    assert smoothness(torch.ones(2, 16, 5, 5)) == 0


def test_sinkhorn_is_doubly_stochastic_and_sharpens():
    torch.manual_seed(0)
    layer = AdaptivePermutation(9, "sinkhorn")
    torch.testing.assert_close(layer.order().diagonal(), torch.full((9,), 0.5))
    layer.matrix.data.normal_()
    weights = layer.order()
    torch.testing.assert_close(weights.sum(0), torch.ones(9))
    torch.testing.assert_close(weights.sum(1), torch.ones(9), rtol=1e-3, atol=0)
    before = layer.distance()
    layer.set_progress(1.0)
    assert layer.temperature == pytest.approx(0.05)
    assert layer.distance() < before
    assert "temperature" in layer.state_dict()


def test_rows_of_length_one():
    layer = AdaptivePermutation(4, "l12")
    layer.matrix.data = torch.rand(4, 4)
    torch.testing.assert_close(layer.order().norm(dim=0), torch.ones(4))
    layer.asked = True
    features = torch.rand(2, 3, 2, 2)
    mixed = layer(features).flatten(2)
    torch.testing.assert_close(mixed[:, :, 1], features.flatten(2) @ layer.order()[:, 1])
    assert layer.penalties["permutation"] > 0


@pytest.mark.parametrize("kind", ["le", "ele"])
@pytest.mark.parametrize("name", ["pyramidnet", "resnet10_micro_cifar"])
def test_saved_and_loaded(kind, name, tmp_path):
    torch.manual_seed(0)
    arguments = {"depth": 8, "alpha": 6} if name == "pyramidnet" else {}
    model = timm.create_model(name, **arguments)
    add_adaptnet(model, kind, 4, 16)
    normalize_input(model, (0.0,) * 3, (1.0,) * 3)
    model(torch.rand(4, 3, 16, 16))
    model.eval()
    images = 2 * torch.rand(2, 3, 16, 16) - 1
    front = copy.deepcopy(model.conv1[1][0])
    torch.testing.assert_close(model.conv1[0](images), (images + 1) / 2)
    torch.testing.assert_close(model.conv1[:1](images), (images + 1) / 2)
    assert front((images + 1) / 2).shape == (2, 16, 16, 16)
    assert stem_of(model) == {"adaptnet": kind, "adaptnet_block": 4, "adaptnet_blocks": 16, "normalization": True}
    save_model(tmp_path / "it", Backbone(model, name, arguments, (0.5,) * 3, (0.5,) * 3), {"image_size": 16})
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "it", "adapt")(images), model(images))


@pytest.mark.parametrize("kind", ["le", "ele"])
def test_adapting_to_no_key_changes_nothing(kind):
    """The model is compared as it predicts: nothing of it moves meanwhile."""
    torch.manual_seed(0)
    arguments = {"depth": 8, "alpha": 6}
    model = timm.create_model("pyramidnet", **arguments).eval()
    add_adaptnet(model, kind, 4, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = Backbone(model, "pyramidnet", arguments, (0.0,) * 3, (1.0,) * 3)
    differences = adapt_model(backbone, make_cipher("none", None, 16, 4))
    assert differences["max_logit_difference_float64"] < 1e-12
    after = model.state_dict()
    assert all(torch.equal(value, after[name.replace("conv1.", "conv1.1.")]) for name, value in before.items())


def test_networks_without_a_place_for_it():
    for model in (tiny_backbone().model, timm.create_model("resnet26d")):  # a stem of three convolutions
        with pytest.raises(UsageError, match="adaptnet is for PyramidNets and ResNets"):
            add_adaptnet(model, "le", 4, 16)


def test_bad_sizes_make_no_network():
    with pytest.raises(PpvitError, match="AdaptNet is for images of 16 pixels, these have 20"):
        make_adaptnet("ele", 4, 16)(torch.rand(1, 3, 20, 20))
    with pytest.raises(ValueError, match="15 blocks are no square"):  # of a config.json that somebody wrote
        make_adaptnet("le", 4, 15)
