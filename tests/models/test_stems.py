"""First layers for ciphers with keys per position, nibbles or tokens: arithmetic, shapes, counts, rebuilding."""

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_backbone
from timm.models.convmixer import ConvMixer
from torch import nn
from torch.nn import functional

from ppvit.core.errors import UsageError
from ppvit.models import model_input
from ppvit.models.adaptive import AdaptivePermutation
from ppvit.models.projections import KeyedProjection, expand_to_nibbles, scaled_nibbles
from ppvit.models.stems import (
    TokenEmbedding,
    add_adaptive_matrix,
    install_stem,
    patch_projection,
    stem_of,
)

BYTES = torch.arange(256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def tiny_convmixer() -> ConvMixer:
    torch.manual_seed(0)
    return ConvMixer(dim=8, depth=1, kernel_size=3, patch_size=4, num_classes=5).eval()


# nibbles


@pytest.mark.parametrize("stored", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_nibbles_of_all_bytes_are_exact(stored):
    """Division and remainder by 16 of Python's integers, scaled from 0..15 to [-1, 1], in the input's precision."""
    images = model_input(BYTES.to(stored))
    assert images.dtype == (torch.float64 if stored == torch.float64 else torch.float32)
    nibbles = scaled_nibbles(images)
    assert nibbles.dtype == images.dtype
    assert nibbles.shape == (1, 6, 16, 16)
    high = torch.tensor([v // 16 for v in range(256)]).reshape(16, 16)
    low = torch.tensor([v % 16 for v in range(256)]).reshape(16, 16)
    for channel in range(3):  # all high nibbles before all low ones
        assert torch.equal(nibbles[0, channel], (high.to(images.dtype) - 7.5) / 7.5)
        assert torch.equal(nibbles[0, 3 + channel], (low.to(images.dtype) - 7.5) / 7.5)


@pytest.mark.parametrize("error", [-0.4, 0.0, 0.4])
def test_nibbles_survive_inexact_inputs(error):
    """float16 holds [-1, 1] to 2^-11, a sixteenth of a grey level: the byte is still the nearest whole number."""
    half = (BYTES.double() / 127.5 - 1).half()
    for images in (half, (BYTES + error).float() / 127.5 - 1):
        whole = torch.round(scaled_nibbles(images).double() * 7.5 + 7.5)
        assert torch.equal(whole[:, :3], BYTES.double() // 16)
        assert torch.equal(whole[:, 3:], BYTES.double() % 16)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-7), (torch.float64, 1e-15)])
def test_weights_over_nibbles_equal_those_over_bytes(dtype, tolerance):
    """x = 16 h + l for all 256 bytes: one weight of 1 over the byte, expanded, gives the byte's own scaled value."""
    images = BYTES[:, :1].to(dtype) / 127.5 - 1
    values = scaled_nibbles(images)[0].reshape(2, 256)
    weight = expand_to_nibbles(torch.ones(1, dtype=dtype))
    torch.testing.assert_close(weight @ values, images.reshape(256), rtol=0, atol=tolerance)


def test_expanded_weights_keep_the_order_of_values():
    weight = torch.arange(2 * 3 * 12, dtype=torch.float64).reshape(2, 3, 12)
    expanded = expand_to_nibbles(weight)
    assert expanded.shape == (2, 3, 24)
    torch.testing.assert_close(expanded[..., :12] * 17 / 16, weight)
    torch.testing.assert_close(expanded[..., 12:] * 17, weight)


# projections


@pytest.mark.parametrize("bias", [True, False])
def test_shared_projection_is_a_convolution(bias):
    convolution = randomised(nn.Conv2d(3, 10, 4, 4, bias=bias).double())
    projection = KeyedProjection(4, 10, bias=bias).double()
    projection.weight.data = convolution.weight.detach().flatten(1)
    if bias:
        projection.bias.data = convolution.bias.detach()
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)  # and not only of squares
    torch.testing.assert_close(projection(images), convolution(images))
    assert projection(images).shape == (2, 10, 3, 5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nibbles", [True, False])
def test_keyed_projection_is_a_linear_layer_for_each_position(bias, nibbles):
    projection = randomised(KeyedProjection(4, 10, blocks=9, nibbles=nibbles, bias=bias).double())
    images = torch.randint(0, 256, (5, 3, 12, 12)).double() / 127.5 - 1
    channels = scaled_nibbles(images) if nibbles else images
    found = projection(images)
    assert found.shape == (5, 10, 3, 3)
    for row in range(3):
        for column in range(3):
            layer = nn.Linear(48 * (1 + nibbles), 10, bias=bias).double()
            layer.weight.data = projection.weight[3 * row + column].detach()
            if bias:
                layer.bias.data = projection.bias.detach()
            patch = channels[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)  # C, h, w
            torch.testing.assert_close(found[:, :, row, column], layer(patch), rtol=0, atol=1e-12)


def test_each_position_has_a_gradient_of_its_own():
    projection = randomised(KeyedProjection(4, 10, blocks=9))
    images = torch.zeros(1, 3, 12, 12)
    images[:, :, 4:8, 8:12] = 1  # patch 5 alone
    projection(images).sum().backward()
    touched = projection.weight.grad.abs().amax((1, 2)) > 0
    assert touched.tolist() == [position == 5 for position in range(9)]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        # ViT-B/16 at 224: D = 768, B = 768, N = 196
        ({"patch_size": 16, "width": 768}, 768 * 768 + 768),
        ({"patch_size": 16, "width": 768, "bias": False}, 768 * 768),
        ({"patch_size": 16, "width": 768, "nibbles": True}, 768 * 1536 + 768),
        ({"patch_size": 16, "width": 768, "blocks": 196}, 196 * 768 * 768 + 768),
        ({"patch_size": 16, "width": 768, "blocks": 196, "nibbles": True}, 196 * 768 * 1536 + 768),
        ({"patch_size": 4, "width": 24, "blocks": 64}, 64 * 24 * 48 + 24),
    ],
)
def test_parameter_counts(arguments, count):
    with torch.device("meta"):
        projection = KeyedProjection(**arguments)
    assert sum(parameter.numel() for parameter in projection.parameters()) == count


def test_token_embedding_and_adaptive_permutation():
    embedding = randomised(TokenEmbedding(16, 2048, 24))
    assert sum(parameter.numel() for parameter in embedding.parameters()) == 2048 * 24 + 24
    assert (embedding.num_patches, embedding.grid_size) == (16, (4, 4))
    tokens = torch.randn(2, 16, 2048)
    torch.testing.assert_close(embedding(tokens), functional.linear(tokens, embedding.proj.weight, embedding.proj.bias))
    matrix = AdaptivePermutation(16)
    assert sum(parameter.numel() for parameter in matrix.parameters()) == 16 * 16
    features = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(matrix(features), features, rtol=0, atol=0)
    matrix.matrix.data = torch.randn(16, 16)
    expected = torch.zeros(2, 8, 16)  # position j is a mixture of all positions i
    for i in range(16):
        for j in range(16):
            expected[..., j] += features.flatten(2)[..., i] * matrix.matrix[i, j].item()
    torch.testing.assert_close(matrix(features).flatten(2), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(matrix(features.to(memory_format=torch.channels_last)), matrix(features))


# rebuilding a model's first layers


@pytest.mark.parametrize("make", [lambda: tiny_backbone().model, tiny_convmixer], ids=["vit", "convmixer"])
@pytest.mark.parametrize(
    "stem",
    [
        {"blocks": 16, "nibbles": False},
        {"blocks": 0, "nibbles": True},
        {"blocks": 16, "nibbles": True},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_installed_stems_say_what_they_are(make, stem, dtype):
    model = make().to(dtype)
    width = patch_projection(model).out_channels
    assert stem_of(model) is None
    install_stem(model, stem)
    assert stem_of(model) == stem
    projection = patch_projection(model)
    assert isinstance(projection, KeyedProjection)
    assert projection.weight.dtype == dtype
    assert projection.weight.shape[-2:] == (width, 48 * (1 + stem["nibbles"]))
    assert model(torch.zeros(1, 3, 16, 16, dtype=dtype)).isfinite().all()
    again = make().to(dtype)
    install_stem(again, stem_of(model))
    again.load_state_dict(randomised(model).state_dict())
    images = torch.randint(0, 256, (1, 3, 16, 16)).to(dtype) / 127.5 - 1
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


def test_a_stem_can_replace_a_stem():
    model = tiny_backbone().model
    install_stem(model, {"blocks": 16, "nibbles": False})
    install_stem(model, {"blocks": 0, "nibbles": True})
    assert stem_of(model) == {"blocks": 0, "nibbles": True}
    assert patch_projection(model).weight.shape == (24, 96)


def test_all_stems_of_a_convmixer_together():
    model = tiny_convmixer()
    install_stem(model, {"blocks": 16, "nibbles": True, "adaptive_matrix": 16})
    assert stem_of(model) == {"blocks": 16, "nibbles": True, "adaptive_matrix": 16}
    assert isinstance(model.stem[-1], AdaptivePermutation)
    assert len(model.stem) == 4  # projection, activation, batch norm, matrix
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 5)


def test_token_stem():
    model = tiny_backbone().model
    install_stem(model, {"tokens": 16, "token_width": 10})
    assert stem_of(model) == {"tokens": 16, "token_width": 10}
    assert patch_projection(model) is None
    assert model(torch.randn(2, 16, 10)).shape == (2, 7)


def test_adaptive_matrix_errors():
    for model in (tiny_backbone().model, timm.create_model("mixer_s32_224", img_size=32)):
        with pytest.raises(UsageError, match=r"is for ConvMixers, .* is none; set it to false or choose") as caught:
            add_adaptive_matrix(model, 16)
        assert "\n" not in str(caught.value)


def test_images_and_tokens_as_models_take_them():
    """x / 127.5 - 1 for pixels of all types; tokens only change their type."""
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64):
        images = BYTES.to(dtype)
        scaled = model_input(images)
        expected = np.arange(256).reshape(16, 16) / 127.5 - 1
        torch.testing.assert_close(scaled[0, 1].double(), torch.tensor(expected), rtol=0, atol=1e-7)
    tokens = torch.randn(2, 16, 10).half()
    assert model_input(tokens).dtype == torch.float32
    assert torch.equal(model_input(tokens), tokens.float())
