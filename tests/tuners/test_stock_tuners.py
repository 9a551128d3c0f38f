"""Methods that peft brings: their formulas, their starts, what is saved, and clear ends."""

import json
import subprocess
import warnings

import numpy as np
import peft
import pytest
import scipy.linalg
import torch
import warm_python
from conftest import MADE, make_config, tiny_backbone
from peft.tuners.tuners_utils import BaseTunerLayer
from sklearn.decomposition import PCA
from test_finetune import changed, make_world, train, with_tests_on_the_path
from torch.nn import functional

from ppvit.config import Finetune
from ppvit.core.errors import PpvitError, UsageError
from ppvit.models import load_model, save_model
from ppvit.tuners import load_finetuned, make_tuner, save_finetuned
from ppvit.tuners.lora_variants import Eva, equal_batches

STOCK = ["rslora", "dora", "pissa", "olora", "eva", "oft", "boft", "hra", "vera", "ia3", "fourierft"]
RANK, ALPHA, FREQUENCIES = 4, 6.0, 100


def settings(**values) -> Finetune:
    return make_config(finetune={"rank": RANK, "alpha": ALPHA, "frequencies": FREQUENCIES, **values}).finetune


def attached(method, **values):
    torch.manual_seed(1)
    tuner = make_tuner(settings(method=method, **values))
    return tuner, tuner.attach(tiny_backbone(num_classes=5).model)


def shake(model):
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


def pictures(count=4, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained_values(layer):
    """The parameters and shared projections of a tuned layer by the first part of their names, float64."""
    found = {
        name.split(".")[0]: value.detach().double().numpy()
        for name, value in layer.named_parameters()
        if "base_layer" not in name
    }
    return found | {
        name: dict(getattr(layer, name))["default"].double().numpy()
        for name in ("vera_A", "vera_B")
        if hasattr(layer, name)
    }


def low_rank(values):
    return values["lora_B"] @ values["lora_A"]


def dora(weight, values, layer):
    direction = weight + ALPHA / RANK * low_rank(values)
    return values["lora_magnitude_vector"][:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)


def pissa(weight, values, layer):
    left, singular, right = np.linalg.svd(weight)
    principal = left[:, :RANK] * singular[:RANK] @ right[:RANK]
    return weight - principal + ALPHA / RANK * low_rank(values)


def olora(weight, values, layer):
    q, r = np.linalg.qr(weight)
    return weight + ALPHA / RANK * (low_rank(values) - q[:, :RANK] @ r[:RANK])


def rotation(skew):
    """Block-diagonal Cayley transforms (I - S) (I + S)^-1."""
    eye = np.eye(skew.shape[-1])
    return scipy.linalg.block_diag(*[(eye - block) @ np.linalg.inv(eye + block) for block in skew])


def oft(weight, values, layer):
    upper = np.zeros((len(values["oft_R"]), RANK, RANK))
    upper[:, *np.triu_indices(RANK, 1)] = values["oft_R"]
    return weight @ rotation(upper - upper.transpose(0, 2, 1)).T


def boft(weight, values, layer):
    blocks = values["boft_R"][0]
    return values["boft_s"] * (weight @ rotation((blocks - blocks.transpose(0, 2, 1)) / 2).T)


def hra(weight, values, layer):
    for u in values["hra_u"].T:
        weight = weight - 2 * np.outer(weight @ u, u) / (u @ u)
    return weight


def vera(weight, values, layer):
    a, b = values["vera_A"][:, : weight.shape[1]], values["vera_B"][: weight.shape[0]]
    return weight + values["vera_lambda_b"][:, None] * b @ np.diag(values["vera_lambda_d"]) @ a


def fourierft(weight, values, layer):
    spectrum = np.zeros(weight.shape)
    spectrum[tuple(layer.indices["default"].numpy())] = values["fourierft_spectrum"]
    assert np.count_nonzero(spectrum) == FREQUENCIES
    return weight + ALPHA * np.fft.ifft2(spectrum).real


FORMULAS = {
    "rslora": lambda weight, values, layer: weight + ALPHA / np.sqrt(RANK) * low_rank(values),
    "eva": lambda weight, values, layer: weight + ALPHA / RANK * low_rank(values),
    # fc2 is scaled at its input, the inner activation of the MLP, the others at their output
    "ia3": lambda weight, values, layer: weight * values["ia3_l"],
    **{formula.__name__: formula for formula in (dora, pissa, olora, oft, boft, hra, vera, fourierft)},
}


@pytest.mark.parametrize("method", STOCK)
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc2", "blocks.0.attn.qkv"])
def test_trained_weights_are_those_of_the_formula(method, name):
    """Merged weights against the paper's formula in float64, and unmerged logits against merged ones."""
    weight = tiny_backbone(num_classes=5).model.get_submodule(name).weight.detach().double().numpy()
    _, tuned = attached(method)
    shake(tuned)
    tuned.eval()
    layer = tuned.get_base_model().get_submodule(name)
    expected = FORMULAS[method](weight, trained_values(layer), layer)
    assert np.abs(expected - weight).max() > 0.005
    with torch.no_grad():
        unmerged = tuned(pictures())
        merged = tuned.merge_and_unload()
        np.testing.assert_allclose(merged.get_submodule(name).weight.numpy(), expected, atol=2e-6)
        torch.testing.assert_close(merged(pictures()), unmerged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", STOCK)
def test_every_target_is_tuned_and_nothing_else(method):
    _, tuned = attached(method)
    found = [n for n, m in tuned.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)]
    kinds = ("attn.qkv", "mlp.fc2") if method == "ia3" else ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert found == [f"blocks.{block}.{kind}" for block in range(2) for kind in kinds]
    frozen = [name for name, p in tuned.named_parameters() if p.requires_grad and "default" not in name]
    assert frozen == []


@pytest.mark.parametrize("method", STOCK)
def test_one_step_changes_every_tuned_layer_without_warnings(method, tmp_path, monkeypatch):
    """Attached, trained in bf16 arithmetic, saved, loaded and merged, with warnings as errors."""
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner = make_tuner(settings(method=method, dropout=0.1))
        tuned = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
        tuner.initialise(tuned, iter([pictures(8, seed) for seed in range(3)]))
        optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
        before = {name: p.detach().clone() for name, p in tuned.named_parameters() if p.requires_grad}
        for _ in range(2):  # at the first step of LoRA, A has no gradient yet
            with torch.autocast("cpu", torch.bfloat16):
                logits = tuned(pictures())
            functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
            optimizer.zero_grad()
        changed = {name for name, p in tuned.named_parameters() if p.requires_grad and (p != before[name]).any()}
        assert changed == set(before)
        assert {p.dtype for p in tuned.parameters()} == {torch.float32}
        record = {"num_classes": 5, **MADE}
        save_finetuned(tuner, tuned, tmp_path / "finetuned", tmp_path / "adapted", record)
        with torch.no_grad():
            loaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)(pictures())
            torch.testing.assert_close(loaded, tuned.eval()(pictures()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_methods_that_change_the_base_save_a_stock_lora_for_the_unchanged_one(method, tmp_path):
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    tuner = make_tuner(settings(method=method))
    tuned = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
    base = load_model(tmp_path / "adapted", "adapt", 5)
    name = "blocks.0.mlp.fc1"
    moved = tuned.get_base_model().get_submodule(name).base_layer.weight - base.get_submodule(name).weight
    assert moved.abs().max() > 0.1  # so this is what the test is about
    shake(tuned)
    folder = tmp_path / "saved"
    tuner.save(tuned, folder)
    tuner.save(tuned, tmp_path / "again")  # saving leaves the model as it was
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (folder / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "again" / "adapter_model.safetensors"
    ).read_bytes()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (2 * RANK, 2 * ALPHA, True)
    with torch.no_grad():
        stock = peft.PeftModel.from_pretrained(base, folder).eval()
        torch.testing.assert_close(stock(pictures()), tuned.eval()(pictures()), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def eva():
    """The base model, the tuned one after its start was chosen, and the inputs this was done with."""
    batches = [pictures(12, seed) for seed in range(8)]
    tuner, tuned = attached("eva")
    tuner.initialise(tuned, iter(batches))
    return tiny_backbone(num_classes=5).model.eval(), tuned.eval(), torch.cat(batches)


def test_eva_starts_at_the_principal_directions_of_the_inputs(eva):
    base, tuned, inputs = eva
    seen = {}
    name = "blocks.1.mlp.fc1"
    base.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0].flatten(0, 1)))
    with torch.no_grad():
        base(inputs)
    a = tuned.get_base_model().get_submodule(name).lora_A["default"].weight.detach().numpy()
    expected = PCA(len(a)).fit(seen["inputs"].double().numpy()).components_
    # rows up to their sign; peft updates a truncated decomposition batch by batch until it changes by less than 1 %
    assert np.abs((a * expected).sum(1)).min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-4)


def test_eva_spreads_the_ranks_and_keeps_the_scale(eva):
    base, tuned, inputs = eva
    layers = [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]
    ranks = [layer.r["default"] for layer in layers]
    assert sum(ranks) == 8 * RANK  # of 8 layers
    assert len(set(ranks)) > 1
    assert max(ranks) <= Eva.rho * RANK
    assert {layer.scaling["default"] for layer in layers} == {ALPHA / RANK}
    with torch.no_grad():
        torch.testing.assert_close(tuned(inputs[:4]), base(inputs[:4]))


def test_eva_reads_a_bounded_number_of_batches_in_silence(capfd):
    read = []

    def batches():
        for seed in range(1000):
            read.append(seed)
            yield pictures(8, seed)

    tuner, tuned = attached("eva")
    tuner.initialise(tuned, batches())
    assert 8 * len(read) == Eva.images
    assert "".join(capfd.readouterr()) == ""


def test_eva_says_when_there_is_too_little_to_look_at(monkeypatch):
    tuner, tuned = attached("eva", rank=12)
    with pytest.raises(UsageError, match="24 directions in 1 training images of 17 tokens; lower finetune.rank"):
        tuner.initialise(tuned, [pictures(1)])
    monkeypatch.setattr(Eva, "most_steps", 2)
    tuner, tuned = attached("eva")
    with pytest.raises(PpvitError, match="did not settle in 2 steps"):
        tuner.initialise(tuned, [pictures(8, seed) for seed in range(3)])


@pytest.mark.parametrize("method", ["oft", "boft"])
def test_rotations_are_orthogonal_and_a_merge_can_be_undone(method):
    """Also far from the start, where the five terms of peft's default series are no rotation any more."""
    _, tuned = attached(method)
    layer = tuned.get_base_model().blocks[0].mlp.fc1
    weight = layer.get_base_layer().weight.detach().clone()
    with torch.no_grad():
        (layer.oft_R["default"].weight if method == "oft" else layer.boft_R["default"]).normal_()
        found = layer.get_delta_weight("default")
    matrix = (found if method == "oft" else found[0]).detach().double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)).double(), rtol=0, atol=1e-5)
    layer.merge()
    assert (layer.get_base_layer().weight - weight).abs().max() > 0.1
    layer.unmerge()
    torch.testing.assert_close(layer.get_base_layer().weight, weight, rtol=1e-5, atol=1e-5)


def test_vera_saves_its_projections_and_fourierft_the_seed_of_its_positions(tmp_path):
    from safetensors import safe_open

    tuner, tuned = attached("vera", seed=5)
    tuner.save(tuned, tmp_path / "vera")
    with safe_open(tmp_path / "vera" / "adapter_model.safetensors", "pt") as file:
        assert file.get_tensor("base_model.vera_A").shape == (RANK, 96)  # the widest input: 4 x 24
        assert file.get_tensor("base_model.vera_B").shape == (96, RANK)
    tuner, tuned = attached("fourierft", seed=5)
    tuner.save(tuned, tmp_path / "fourierft")
    assert json.loads((tmp_path / "fourierft" / "adapter_config.json").read_text())["random_loc_seed"] == 5
    others = [attached("fourierft", seed=seed)[1].get_base_model().blocks[0].mlp.fc1 for seed in (5, 6)]
    own = tuned.get_base_model().blocks[0].mlp.fc1.indices["default"]
    assert [torch.equal(other.indices["default"], own) for other in others] == [True, False]


def test_killed_runs_resume_to_the_identical_result(tmp_path):
    """The start is found anew after a kill, in another process, and must be the same to the bit."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ppvit.config import Config; from test_finetune import train\n"
        "def kill(epoch, metrics):\n"
        "    if epoch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder = Path(sys.argv[1])\n"
        "for config in map(Config.model_validate_json, sys.argv[2:]):\n"
        "    if not (child := os.fork()):\n"
        "        train(folder, config, 'x', kill)\n"
        "    assert os.waitpid(child, 0)[1] == signal.SIGKILL\n"
    )
    world = make_world(tmp_path)
    configs = [changed(world, method=method) for method in ("pissa", "eva")]
    arguments = [tmp_path, *(config.model_dump_json() for config in configs)]
    environment = with_tests_on_the_path()
    subprocess.run([warm_python.python(), "-c", script, *arguments], check=True, capture_output=True, env=environment)
    assert not (tmp_path / "x").exists()
    for config in configs:
        _resume_and_compare(tmp_path, config)


def _resume_and_compare(folder, config):
    epochs = []
    resumed = train(folder, config, "resumed", lambda epoch, metrics: epochs.append(epoch))
    assert epochs == [1, 2, 3]
    assert resumed["train_loss"] == train(folder, config, "uninterrupted")["train_loss"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / "resumed" / name).read_bytes() == (folder / "uninterrupted" / name).read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "oft", "rank": 7}, r"finetune\.rank 7: oft .* inputs \(24 and 96\); the nearest are 4, 6, 8"),
        ({"method": "boft", "rank": 1}, r"finetune\.rank 1: boft .* at least 2 .*; the nearest are 2, 3, 4"),
        ({"method": "hra", "rank": 3}, r"finetune\.rank 3: hra .* must be even; use 2 or 4"),
        ({"method": "hra", "rank": 1}, r"must be even; use 2$"),
        ({"method": "pissa", "rank": 25}, r"finetune\.rank 25 is too large for pissa, .* of 72 x 24; use at most 24"),
        ({"method": "olora", "rank": 25}, r"finetune\.rank 25 is too large for olora"),
        ({"method": "eva", "rank": 13}, r"finetune\.rank 13 is too large for eva, .*; use at most 12"),
        ({"method": "fourierft", "frequencies": 577},
         r"finetune\.frequencies 577 exceeds the 576 entries of blocks\.0\.attn\.proj; use at most that many"),
    ],
)  # fmt: skip
def test_settings_that_a_method_cannot_have(values, message):
    with pytest.raises(UsageError, match=message):
        attached(**values)


def test_layers_without_a_common_block():
    from ppvit.tuners.rotations import require_block_size

    model = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.Linear(9, 2))
    with pytest.raises(UsageError, match="oft: no block tiles inputs of 8 and 9 alike"):
        require_block_size(2, "oft", model, ".*")


def test_batches_are_gathered_to_one_size():
    batches = [torch.arange(start, start + 3) for start in range(0, 12, 3)]
    assert [part.tolist() for part in equal_batches(batches, 4, 9)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [part.tolist() for part in equal_batches(batches[:1], 4, 9)] == [[0, 1, 2]]
