"""AOFT and HTA against their formulas: orthogonality, Gram matrix, fast products, counts, precision, LoRA export."""

import peft
import pytest
import timm
import torch
from conftest import make_config, tiny_backbone
from hypothesis import assume, given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ppvit.core.errors import UsageError
from ppvit.tuners import export_lora, make_tuner, trainable_parameters
from ppvit.tuners.orthogonal import (
    SMALLEST_DENOMINATOR,
    difference_update,
    orthogonal_columns,
    product_update,
    random_vector,
)
from ppvit.tuners.structured import Update, add_update

WIDTH = 24  # of tiny_backbone


def make(method: str, model: nn.Module | None = None, **values) -> PeftModel:
    tuner = make_tuner(make_config(finetune={"method": method, "rank": 3, **values}).finetune)
    return tuner.attach(tiny_backbone(num_classes=5).model if model is None else model)


def shake(model: nn.Module, size: float = 0.1) -> None:
    """Move every trained value away from its start."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)


def elementwise(q: Tensor) -> Tensor:
    """Q of arXiv 2507.13260, entry by entry: (N, N)."""
    n = len(q)
    matrix = torch.zeros(n, n, dtype=q.dtype)
    for i in range(n):
        for j in range(n):
            if i == 0:
                matrix[i, j] = q[0] if j == 0 else -q[j]
            elif j == 0:
                matrix[i, j] = q[i]
            else:
                matrix[i, j] = (1.0 if i == j else 0.0) - q[i] * q[j] / (1 + q[0])
    return matrix


vectors = st.builds(
    lambda seed, size, length: length * torch.nn.functional.normalize(seeded(seed, size), dim=0),
    st.integers(0, 2**31),
    st.integers(2, 12),
    st.floats(0.1, 2.0),
)


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(vectors, st.data())
def test_columns_are_those_of_the_definition(q, data):
    assume(1 + q[0] > 0.01)
    columns = data.draw(st.integers(1, len(q)))
    torch.testing.assert_close(orthogonal_columns(q, columns), elementwise(q)[:, :columns])


@given(vectors, st.data())
def test_columns_are_orthonormal_for_a_unit_vector(q, data):
    q = q / q.norm()
    assume(1 + q[0] > 0.01)
    columns = data.draw(st.integers(1, len(q)))
    matrix = orthogonal_columns(q, columns)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(columns, dtype=q.dtype))


@given(vectors, st.data())
def test_gram_matrix_and_singular_values_off_the_sphere(q, data):
    """AO^T AO = I + (|q|^2 - 1) w w^T with w = (1, -q_1 / (1 + q_0), ...): d - 1 singular values are 1."""
    assume(1 + q[0] > 0.05)
    columns = data.draw(st.integers(1, len(q)))
    matrix = orthogonal_columns(q, columns)
    w = torch.cat([torch.ones(1, dtype=q.dtype), -q[1:columns] / (1 + q[0])])
    expected = torch.eye(columns, dtype=q.dtype) + (q.square().sum() - 1) * torch.outer(w, w)
    torch.testing.assert_close(matrix.T @ matrix, expected)
    distances = (torch.linalg.svdvals(matrix) - 1).abs().sort().values
    assert (distances[: columns - 1] < 1e-9).all()


def test_pole_is_guarded():
    """At q_0 = -1 the definition divides by zero; values and gradients stay finite, and above nothing is changed."""
    for q_0 in (-1.0, -1 + SMALLEST_DENOMINATOR / 2, -1 - SMALLEST_DENOMINATOR / 2, -3.0):
        q = torch.tensor([q_0, 0.1, -0.2], requires_grad=True)
        matrix = orthogonal_columns(q, 2)
        matrix.sum().backward()
        assert torch.isfinite(matrix).all()
        assert torch.isfinite(q.grad).all()
    q = torch.tensor([-1 + 2 * SMALLEST_DENOMINATOR, 0.1, -0.2], dtype=torch.float64)
    torch.testing.assert_close(orthogonal_columns(q, 2), elementwise(q)[:, :2])


def test_start_vector_is_a_unit_vector_far_from_the_pole():
    for seed in range(20):
        torch.manual_seed(seed)
        q = random_vector(5)
        assert q.dtype == torch.float32
        torch.testing.assert_close(q.norm(), torch.tensor(1.0))
        assert q[0] >= 0


@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(2, 9), st.data())
def test_fast_product_is_the_product_of_the_definition(seed, width, height, data):
    """x -> x AO(q_down) diag(lambda) AO(q_up)^T without any matrix, against the matrices written out."""
    columns = data.draw(st.integers(1, min(width, height)))
    down, up, scale = seeded(seed, width), seeded(seed + 1, height), seeded(seed + 2, columns)
    assume(1 + down[0] > 0.05 and 1 + up[0] > 0.05)
    x, y = seeded(seed + 3, 2, 3, width), seeded(seed + 4, 2, 3, height)
    update = product_update(down[None], up[None], scale[None])
    expected = y + x @ elementwise(down)[:, :columns] @ torch.diag(scale) @ elementwise(up)[:, :columns].T
    torch.testing.assert_close(add_update(y, x, update, (0,)), expected)
    torch.testing.assert_close(
        update.dense()[0], elementwise(up)[:, :columns] @ torch.diag(scale) @ elementwise(down)[:, :columns].T
    )


@pytest.mark.parametrize("with_diagonal", [True, False])
def test_gradients_of_the_fast_product(with_diagonal):
    """Our backward pass against finite differences, two row blocks of a wider output."""
    output, source = seeded(0, 2, 2, 9), seeded(1, 2, 2, 4)
    update = Update(seeded(2, 2, 3) if with_diagonal else None, seeded(3, 2, 2, 4), seeded(4, 2, 2, 3))
    arguments = [value.requires_grad_() for value in (output, source, *update) if value is not None]

    def product(output, source, *values):
        values = values if with_diagonal else (None, *values)
        return add_update(output, source, Update(*values), (0, 6))

    assert torch.autograd.gradcheck(product, arguments)


def test_gradients_reach_the_vectors():
    """From the logits of the layer's product to q and lambda, scaled and unscaled, against finite differences."""
    down, up, scale = (seeded(seed, 2, size).requires_grad_() for seed, size in ((0, 5), (1, 4), (2, 3)))
    x, y = seeded(3, 2, 5), seeded(4, 2, 8)
    start = product_update(seeded(5, 2, 5), seeded(6, 2, 4), torch.ones(2, 3, dtype=torch.float64))

    def scaled(down, up, scale):
        return add_update(y, x, product_update(down, up, scale), (0, 4))

    def unscaled(down, up):
        now = product_update(down, up, torch.ones(2, 3, dtype=torch.float64))
        return add_update(y, x, difference_update(now, start), (0, 4))

    assert torch.autograd.gradcheck(scaled, (down, up, scale))
    assert torch.autograd.gradcheck(unscaled, (down, up))


@pytest.mark.parametrize("scaled", [True, False])
def test_aoft_lora_is_its_formula_on_query_and_value(scaled):
    """W' = W + (alpha / r) (AO(q_up) diag(lambda) AO(q_down)^T [- the same at the start]), alpha smaller than r."""
    base = tiny_backbone(num_classes=5).model.double()
    weight, bias = (value.detach().clone() for value in (base.blocks[1].attn.qkv.weight, base.blocks[1].attn.qkv.bias))
    layer = make("aoft_lora", base, alpha=1.0, scaled=scaled).base_model.model.blocks[1].attn.qkv
    start = {
        part: elementwise(layer.aoft_up["default"][part].detach().double())[:, :3]
        @ elementwise(layer.aoft_down["default"][part].detach().double())[:, :3].T
        for part in ("q", "v")
    }
    shake(layer)
    x = seeded(0, 2, 7, WIDTH)
    expected = x @ weight.T + bias
    for part, rows in (("q", slice(0, WIDTH)), ("v", slice(2 * WIDTH, None))):
        down, up = (values["default"][part].detach().double() for values in (layer.aoft_down, layer.aoft_up))
        factors = layer.aoft_scale["default"][part].detach().double() if scaled else torch.ones(3).double()
        product = elementwise(up)[:, :3] @ torch.diag(factors) @ elementwise(down)[:, :3].T
        expected[..., rows] += 1 / 3 * x @ (product if scaled else product - start[part]).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)  # the vectors are float32
    assert (expected - x @ weight.T - bias).abs().max() > 0.01


@pytest.mark.parametrize("scaled", [True, False])
def test_aoft_adapter_is_its_formula(scaled):
    """out' = out + out AO(q_down) diag(lambda) AO(q_up)^T."""
    base = tiny_backbone(num_classes=5).model.double()
    weight, bias = (value.detach().clone() for value in (base.blocks[0].mlp.fc2.weight, base.blocks[0].mlp.fc2.bias))
    layer = make("aoft_adapter", base, scaled=scaled).base_model.model.blocks[0].mlp.fc2

    def product() -> Tensor:
        down, up = (values["default"]["whole"].detach().double() for values in (layer.aoft_down, layer.aoft_up))
        factors = layer.aoft_scale["default"]["whole"].detach().double() if scaled else torch.ones(3).double()
        return elementwise(down)[:, :3] @ torch.diag(factors) @ elementwise(up)[:, :3].T

    start = product()
    shake(layer)
    x = seeded(0, 2, 7, 4 * WIDTH)
    out = x @ weight.T + bias
    expected = out + out @ (product() - start)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert (expected - out).abs().max() > 0.01


def hta(layer: nn.Module, part: str) -> Tensor:
    """W_HTA + b a^T as the paper writes it: no factor 2, no normalisation."""
    left, right, diagonal, down, up = (
        getattr(layer, f"hta_{name}")["default"][part].detach().double()
        for name in ("left", "right", "diagonal", "down", "up")
    )
    eye = torch.eye(len(left), dtype=torch.float64)
    householder = (eye - torch.outer(left, left)) @ torch.diag(diagonal) @ (eye - torch.outer(right, right))
    return householder + torch.outer(up, down)


def test_hta_lora_is_its_formula():
    base = tiny_backbone(num_classes=5).model.double()
    qkv, proj = base.blocks[0].attn.qkv, base.blocks[0].attn.proj
    tuned = make("hta_lora", base)
    shake(tuned)
    layers = tuned.base_model.model.blocks[0].attn
    x = seeded(0, 2, 7, WIDTH)
    expected = x @ qkv.weight.T + qkv.bias
    for number, part in enumerate("qkv"):
        expected[..., number * WIDTH : (number + 1) * WIDTH] += x @ hta(layers.qkv, part).T
    torch.testing.assert_close(layers.qkv(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        layers.proj(x), x @ (proj.weight + hta(layers.proj, "whole")).T + proj.bias, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("name", "width"), [("attn.proj", WIDTH), ("mlp.fc2", 4 * WIDTH)])
def test_hta_adapter_is_its_formula_behind_attention_and_mlp(name, width):
    base = tiny_backbone(num_classes=5).model.double()
    plain = base.blocks[0].get_submodule(name)
    tuned = make("hta_adapter", base)
    shake(tuned)
    layer = tuned.base_model.model.blocks[0].get_submodule(name)
    out = seeded(0, 2, 7, width) @ plain.weight.T + plain.bias
    expected = out + out @ hta(layer, "whole").T
    torch.testing.assert_close(layer(seeded(0, 2, 7, width)), expected, rtol=1e-5, atol=1e-6)


def test_start_of_hta_are_reflections():
    layer = make("hta_lora").base_model.model.blocks[0].attn.proj
    v = layer.hta_left["default"]["whole"].detach()
    reflection = torch.eye(WIDTH) - torch.outer(v, v)
    torch.testing.assert_close(reflection @ reflection.T, torch.eye(WIDTH), atol=1e-6, rtol=0)


def vit_base() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("vit_base_patch16_224", num_classes=0)


@pytest.mark.parametrize(
    ("method", "values", "parameters"),
    [
        # arXiv 2507.13260: 12 layers, D = 768
        ("aoft_lora", {"scaled": False}, 36_864),
        ("aoft_lora", {"scaled": True, "rank": 4}, 36_864 + 4 * 2 * 12),
        ("aoft_adapter", {"scaled": False}, 18_432),
        ("aoft_adapter", {"scaled": True, "rank": 4}, 18_432 + 4 * 12),
        ("aoft_vpt", {"scaled": False}, 9_216),
        ("aoft_vpt", {"scaled": True, "rank": 4}, 9_216 + 4 * 12),
        # arXiv 2410.22952: 5 D a matrix, four matrices a layer
        ("hta_lora", {}, 12 * 4 * 5 * 768),
        ("hta_adapter", {}, 12 * 2 * 5 * 768),
        # one q down and one up a matrix whatever it is attached to
        ("aoft_lora", {"scaled": False, "target_modules": ["mlp.fc1"]}, 12 * (768 + 3072)),
        ("adapter", {"rank": 16}, 12 * (2 * 768 * 16 + 768 + 16)),
        ("vpt_deep", {"rank": 10}, 12 * 10 * 768),
    ],
)
def test_counts_on_vit_base(method, values, parameters):
    model = vit_base()
    model.pretrained_cfg["classifier"] = "no_such_head"
    assert trainable_parameters(make(method, model, **values)) == parameters


def test_vectors_stay_in_float32_and_get_no_weight_decay():
    from ppvit.training.schedule import make_optimizer

    settings = make_config(
        finetune={"method": "aoft_lora", "vector_learning_rate": 5.0, "scale_learning_rate": 7.0}
    ).finetune
    tuner = make_tuner(settings)
    model = tuner.attach(tiny_backbone(num_classes=5).model.bfloat16())
    groups = make_optimizer(settings, model, tuner.learning_rates()).param_groups
    by_parameter = {id(each): group for group in groups for each in group["params"]}
    found = set()
    for name, parameter in model.named_parameters():
        if "aoft_" in name:
            kind = name.split("aoft_")[1].split(".")[0]
            group = by_parameter[id(parameter)]
            assert parameter.dtype == torch.float32
            assert group["weight_decay"] == 0
            assert group["lr"] == settings.learning_rate * (7.0 if kind == "scale" else 5.0)
            found.add(kind)
    assert found == {"down", "up", "scale"}


@pytest.mark.parametrize("method", ["aoft_lora", "aoft_adapter", "hta_lora"])
def test_half_precision_gives_what_float32_gives(method):
    """A base in bfloat16, and autocast to it; both round to 8 bits, the vectors stay in float32."""
    name = "blocks.0.mlp.fc2" if method == "aoft_adapter" else "blocks.0.attn.qkv"
    x = torch.randn(2, 7, 4 * WIDTH if method == "aoft_adapter" else WIDTH)
    layers = []
    for base in (tiny_backbone(num_classes=5).model, tiny_backbone(num_classes=5).model.bfloat16()):
        torch.manual_seed(3)
        tuned = make(method, base)
        shake(tuned, 0.5)
        layers.append(tuned.base_model.model.get_submodule(name))
    expected = layers[0](x)
    size = expected.abs().max().item()
    half = layers[1](x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        automatic = layers[0](x)
    automatic.sum().backward()
    for output in (half, automatic):
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02 * size)
    assert (expected - layers[0].base_layer(x)).abs().max() > 0.2 * size
    trained = [parameter for parameter in layers[0].parameters() if parameter.requires_grad]
    assert all(parameter.grad.dtype == torch.float32 for parameter in trained)


EXPORTED = [
    ("aoft_lora", {"scaled": True}, 6),
    ("aoft_lora", {"scaled": False}, 12),
    ("aoft_lora", {"scaled": True, "target_modules": ["attn.q", "attn.v", "mlp.fc1"]}, 6),
    ("aoft_adapter", {"scaled": True}, 3),
    ("aoft_adapter", {"scaled": False, "target_modules": ["attn.proj", "mlp.fc2"]}, 6),
]


@pytest.mark.parametrize(("method", "values", "rank"), EXPORTED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_exported_lora_gives_the_same_logits(method, values, rank, dtype, tolerance, tmp_path):
    tuned = make(method, tiny_backbone(num_classes=5).model, **values).to(dtype)
    shake(tuned)
    export_lora(tuned, tmp_path)
    stock = PeftModel.from_pretrained(tiny_backbone(num_classes=5).model.to(dtype), str(tmp_path)).eval()
    assert stock.peft_config["default"].peft_type == "LORA"
    assert stock.peft_config["default"].r == rank
    image = seeded(0, 2, 3, 16, 16).to(dtype)
    with torch.no_grad():
        expected = tuned.eval()(image)
        size = expected.abs().max()
        torch.testing.assert_close(stock(image) / size, expected / size, rtol=0, atol=tolerance)
        torch.testing.assert_close(stock.merge_and_unload()(image) / size, expected / size, rtol=0, atol=tolerance)
        assert (expected - tiny_backbone(num_classes=5).model.to(dtype)(image)).abs().max() > 0.01


def test_exported_lora_of_query_and_value_leaves_the_key_alone(tmp_path):
    tuned = make("aoft_lora")
    shake(tuned)
    export_lora(tuned, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    b = state["base_model.model.blocks.0.attn.qkv.lora_B.weight"]
    assert (b[WIDTH : 2 * WIDTH] == 0).all()
    assert (b[:WIDTH, 3:] == 0).all()
    assert (b[2 * WIDTH :, :3] == 0).all()


def test_lora_export_keeps_plain_lora_and_refuses_what_is_none(tmp_path):
    tuned = make("melo")
    shake(tuned)
    export_lora(tuned, tmp_path / "melo")
    stock = PeftModel.from_pretrained(tiny_backbone(num_classes=5).model, str(tmp_path / "melo")).eval()
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(stock(image), tuned.eval()(image), rtol=0, atol=0)
    reasons = {"hta_lora": "full rank", "hta_adapter": "full rank", "adapter": "not linear", "vpt_deep": "no weights"}
    for method, reason in reasons.items():
        with pytest.raises(UsageError, match=f"has no exact LoRA: .*{reason}; keep the adapter as it is"):
            export_lora(make(method), tmp_path / "refused")
    with pytest.raises(UsageError, match="IA3 has no exact LoRA"):
        export_lora(make("ia3"), tmp_path / "refused")
    with pytest.raises(UsageError, match="variant of LoRA has no exact plain LoRA"):
        export_lora(make("dora"), tmp_path / "refused")
    with pytest.raises(UsageError, match="pissa changed its base"):
        export_lora(make("pissa"), tmp_path / "refused")
    merged = make("aoft_lora")
    merged.merge_adapter()
    with pytest.raises(UsageError, match="needs one active adapter that is not merged"):
        export_lora(merged, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_errors_name_the_parameter():
    with pytest.raises(
        UsageError, match=r"finetune.rank 25 is more columns than a 24 x 24 update of blocks.0.attn.qkv"
    ):
        make("aoft_lora", rank=25)
    with pytest.raises(UsageError, match=r"finetune.rank 25 exceeds the width 24"):
        make("aoft_vpt", rank=25)
    with pytest.raises(UsageError, match=r"HTA is for square matrices, blocks.0.mlp.fc1 maps 24 to 96"):
        make("hta_lora", target_modules=["mlp.fc1"])
    with pytest.raises(UsageError, match=r"HTA is for square matrices, blocks.0.attn.qkv maps 24 to 72"):
        make("hta_lora", target_modules=["attn.qkv"])
    with pytest.raises(UsageError, match=r"'q' of attn.qkv, but the method adapts the output of whole layers only"):
        make("aoft_adapter", target_modules=["attn.q"])
    with pytest.raises(UsageError, match=r"'q' of attn.qkv, but the method adapts attn.qkv already"):
        make("aoft_lora", target_modules=["attn.q", "attn.qkv"])
    with pytest.raises(UsageError, match=r"no linear layer ends in 'attn.out'"):
        make("adapter", target_modules=["attn.out"])
    with pytest.raises(UsageError, match="leave finetune.target_modules empty"):
        make("vpt_deep", target_modules=["attn.proj"])
    uneven = tiny_backbone(num_classes=5).model
    uneven.blocks[0].attn.qkv = nn.Linear(WIDTH, 3 * WIDTH - 1)
    with pytest.raises(UsageError, match="query, key and value must be of equal width, blocks.0.attn.qkv has 71 rows"):
        make("aoft_lora", uneven)
    assert peft.__version__.startswith("0.21")
