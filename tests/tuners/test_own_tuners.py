"""Our own methods as peft methods: registration, save, load, several adapters, disable, merge, unmerge, training."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import timm
import torch
import warm_python
from conftest import MADE, make_config, read_result, tiny_backbone
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from PIL import Image
from test_finetune import make_world, places_of, train
from timm.models.vision_transformer import Block
from torch import nn

from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import UsageError
from ppvit.data.plain import PlainImages
from ppvit.models import load_model, model_input, save_model
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import TUNERS, load_finetuned, make_tuner, save_finetuned, trainable_parameters
from ppvit.tuners.extension import ExtensionLayer
from ppvit.tuners.loading import is_mergeable
from ppvit.verbs import predict, verify

METHODS = [
    ("adapter", {}),
    ("vpt_deep", {}),
    ("aoft_lora", {"scaled": True}),
    ("aoft_lora", {"scaled": False}),
    ("aoft_lora", {"scaled": False, "target_modules": ["attn.k", "attn.proj", "mlp.fc1"]}),
    ("aoft_adapter", {"scaled": True}),
    ("aoft_adapter", {"scaled": False, "target_modules": ["attn.proj", "mlp.fc2"]}),
    ("aoft_vpt", {"scaled": True}),
    ("aoft_vpt", {"scaled": False}),
    ("hta_lora", {}),
    ("hta_adapter", {}),
]
MERGEABLE = [case for case in METHODS if TUNERS[case[0]].mergeable]
NAMES = [f"{method}-{number}" for number, (method, _) in enumerate(METHODS)]
each_method = pytest.mark.parametrize(("method", "values"), METHODS, ids=NAMES)
each_mergeable = pytest.mark.parametrize(("method", "values"), MERGEABLE)


def base_model() -> nn.Module:
    return tiny_backbone(num_classes=5).model


def make(method: str, model: nn.Module | None = None, **values) -> PeftModel:
    settings = make_config(finetune={"method": method, "rank": 3, **values}).finetune
    return make_tuner(settings).attach(base_model() if model is None else model)


def shake(model: nn.Module, seed: int = 9, size: float = 0.3) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def logits(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(image)


def untuned(model: PeftModel, image: torch.Tensor) -> torch.Tensor:
    """Logits of the base with the head that the model trains."""
    base = base_model()
    base.head.load_state_dict(model.base_model.model.head.modules_to_save["default"].state_dict())
    return logits(base, image)


@each_method
def test_starts_at_the_base_where_it_says_so(method, values, image):
    difference = (logits(make(method, **values), image) - logits(base_model(), image)).abs().max()
    assert (difference == 0) == TUNERS[method].zero_start


@each_method
def test_only_adapter_and_head_train(method, values):
    model = make(method, **values)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefix = model.base_model.prefix
    assert all(prefix in name or "head.modules_to_save" in name for name in trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = make_config(finetune={"method": method, "rank": 3, **values}).finetune
    optimizer = make_optimizer(settings, model)
    for _ in range(3):
        model.train()(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained


@each_method
def test_state_is_saved_and_loaded_exactly(method, values, image, tmp_path):
    model = make(method, **values)
    shake(model)
    model.save_pretrained(tmp_path)
    expected = logits(model, image)
    for arguments in ({}, {"low_cpu_mem_usage": True}):
        torch.manual_seed(77)  # other start values than those that were saved
        loaded = PeftModel.from_pretrained(base_model(), str(tmp_path), **arguments)
        torch.testing.assert_close(logits(loaded, image), expected, rtol=0, atol=0)
        assert trainable_parameters(loaded) == 0
        state, again = get_peft_model_state_dict(model), get_peft_model_state_dict(loaded)
        assert state.keys() == again.keys()
        assert all(torch.equal(state[name], again[name]) for name in state)
    trainable = PeftModel.from_pretrained(base_model(), str(tmp_path), is_trainable=True)
    assert trainable_parameters(trainable) == trainable_parameters(model)
    fresh = make(method, **values)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(fresh, image), expected, rtol=0, atol=0)


@each_method
def test_second_adapter_and_switching(method, values, image, tmp_path):
    first, second = make(method, **values), make(method, **values)
    shake(first, 1)
    shake(second, 2)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    model = PeftModel.from_pretrained(base_model(), str(tmp_path / "first"), adapter_name="one")
    model.load_adapter(str(tmp_path / "second"), adapter_name="two")
    expected = {"one": logits(first, image), "two": logits(second, image)}
    assert not torch.allclose(expected["one"], expected["two"])
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        torch.testing.assert_close(logits(model, image), expected[name], rtol=0, atol=0)
    model.set_adapter("two")
    model.delete_adapter("one")
    torch.testing.assert_close(logits(model, image), expected["two"], rtol=0, atol=0)


@each_method
def test_disabled_adapters_leave_the_base(method, values, image):
    model = make(method, **values)
    shake(model)
    expected = logits(model, image)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, image), logits(base_model(), image), rtol=0, atol=0)
    torch.testing.assert_close(logits(model, image), expected, rtol=0, atol=0)
    unloaded = model.unload()
    assert not any(isinstance(module, ExtensionLayer) for module in unloaded.modules())


@each_mergeable
@pytest.mark.parametrize("safe_merge", [False, True])
def test_merging_and_undoing_it(method, values, safe_merge, image):
    model = make(method, **values)
    shake(model)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "base_layer" in name}
    expected = logits(model, image)
    size = expected.abs().max().item()
    model.merge_adapter(safe_merge=safe_merge)
    torch.testing.assert_close(logits(model, image), expected, rtol=0, atol=1e-5 * size)
    assert any(not torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    model.unmerge_adapter()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    torch.testing.assert_close(logits(model, image), expected, rtol=0, atol=0)
    merged = model.merge_and_unload(safe_merge=safe_merge)
    torch.testing.assert_close(logits(merged, image), expected, rtol=0, atol=1e-5 * size)
    assert {name: value.shape for name, value in merged.state_dict().items()} == {
        name: value.shape for name, value in base_model().state_dict().items()
    }


@each_mergeable
def test_two_active_adapters_merge_to_what_they_give_together(method, values, image):
    # peft lets several adapters be active only where none brings a head of its own
    config = dataclasses.replace(make(method, **values).peft_config["default"], modules_to_save=None)
    model = get_peft_model(base_model(), config)
    model.add_adapter("second", dataclasses.replace(config))
    model.base_model.set_adapter(["default", "second"])
    shake(model)
    expected = logits(model, image)
    size = expected.abs().max().item()
    model.merge_adapter(adapter_names=["default", "second"])
    torch.testing.assert_close(logits(model, image), expected, rtol=0, atol=1e-5 * size)
    model.unmerge_adapter()
    model.base_model.set_adapter("default")
    assert (logits(model, image) - expected).abs().max() > 1e-3 * size


@each_method
def test_base_in_half_precision(method, values, image):
    """Adapters stay in float32, train, and merge into bfloat16 weights."""
    model = make(method, base_model().bfloat16(), **values)
    shake(model)
    own = {name: value for name, value in model.named_parameters() if model.base_model.prefix in name}
    assert {value.dtype for value in own.values()} == {torch.float32}
    model(image.bfloat16()).square().sum().backward()
    assert all(value.grad.isfinite().all() and value.grad.any() for value in own.values())
    if TUNERS[method].mergeable:
        expected = logits(model, image.bfloat16()).float()
        merged = model.merge_and_unload()
        assert {value.dtype for value in merged.parameters()} == {torch.bfloat16}
        # the merged weights are rounded to 8 bits once more
        assert (logits(merged, image.bfloat16()).float() - expected).norm() < 0.2 * expected.norm()


def test_broken_adapters_are_not_merged_safely():
    model = make("aoft_lora")
    with torch.no_grad():
        model.base_model.model.blocks[0].attn.qkv.aoft_down["default"]["q"][0] = torch.nan
    weight = model.base_model.model.blocks[0].attn.qkv.base_layer.weight.clone()
    with pytest.raises(ValueError, match=r"merged weights of blocks.0.attn.qkv are not finite"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(model.base_model.model.blocks[0].attn.qkv.base_layer.weight, weight)


@pytest.mark.parametrize("method", ["adapter", "vpt_deep", "aoft_vpt"])
def test_what_is_no_change_of_weights_is_not_merged(method, image):
    model = make(method)
    shake(model)
    expected = logits(model, image)
    assert not is_mergeable(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(UsageError, match="are no change of weights and cannot be merged; use the model with"):
            merge()
    torch.testing.assert_close(logits(model, image), expected, rtol=0, atol=0)  # nothing was half done


@pytest.mark.parametrize("method", ["adapter", "vpt_deep", "aoft_vpt"])
def test_finetuned_model_keeps_adapters_that_cannot_merge(method, image, tmp_path):
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    tuner = make_tuner(make_config(finetune={"method": method, "rank": 3}).finetune)
    model = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
    shake(model)
    record = {"num_classes": 5, **MADE}
    save_finetuned(tuner, model, tmp_path / "finetuned", tmp_path / "adapted", record)
    loaded = load_finetuned(tmp_path / "adapted", tmp_path / "finetuned", 5)
    torch.testing.assert_close(logits(loaded, image), logits(model, image), rtol=0, atol=0)
    assert isinstance(loaded, timm.models.VisionTransformer)
    assert loaded.patch_embed.proj.weight.shape == (24, 3, 4, 4)
    assert loaded.pos_embed.shape[1] == 17


@pytest.mark.parametrize("method", ["adapter", "aoft_lora", "aoft_adapter", "hta_lora", "hta_adapter", "vpt_deep"])
def test_dropout_acts_in_training_alone(method, image):
    model = make(method, dropout=0.5)
    shake(model)
    torch.testing.assert_close(logits(model, image), logits(model, image), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(image), model(image))
    with_zero = make(method, dropout=0.0)
    with_zero.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(with_zero, image), logits(model, image), rtol=0, atol=0)


def test_prompts_are_those_of_the_paper(image):
    """VPT-deep written out: prompts between class token and patches, replaced in front of every block."""
    base, model = base_model(), make("vpt_deep")
    shake(model)
    tokens = base._pos_embed(base.patch_embed(image))
    for block, wrapper in zip(base.blocks, model.base_model.model.blocks, strict=True):
        prompts = wrapper.vpt_prompts["default"]["free"].expand(len(image), -1, -1)
        tokens = block(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1))
        tokens = torch.cat([tokens[:, :1], tokens[:, 4:]], dim=1)
    expected = base.forward_head(base.norm(tokens), pre_logits=True)
    actual = model.base_model.model.forward_head(model.base_model.model.forward_features(image), pre_logits=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert model.base_model.model.blocks[0].attn.qkv.in_features == 24  # as in timm


def test_prompts_start_as_in_the_paper():
    """Uniform in +-sqrt(6 / (3 p p + D)), arXiv 2203.12119's code."""
    prompts = make("vpt_deep", rank=50).base_model.model.blocks[1].vpt_prompts["default"]["free"]
    bound = (6 / (3 * 4 * 4 + 24)) ** 0.5
    assert prompts.abs().max() <= bound
    assert prompts.abs().max() > 0.98 * bound
    assert abs(prompts.std().item() - bound / 3**0.5) < 0.03 * bound


def test_masks_let_every_token_see_the_prompts(image):
    """A padded token that attention masks out changes nothing, with prompts as without."""
    wrapper = make("vpt_deep").base_model.model.blocks[0]
    shake(wrapper)
    x, garbage = torch.randn(2, 5, 24), torch.randn(2, 2, 24)
    allowed = torch.ones(7, dtype=torch.bool)
    allowed[5:] = False
    expected = wrapper(x)
    for mask in (allowed.expand(7, 7), allowed.expand(1, 1, 1, 7), torch.where(allowed, 0.0, -torch.inf).expand(7, 7)):
        actual = wrapper(torch.cat([x, garbage], dim=1), attn_mask=mask)
        torch.testing.assert_close(actual[:, :5], expected, rtol=1e-4, atol=1e-5)


def test_prompts_work_with_stochastic_depth_and_register_tokens(image):
    backbone = tiny_backbone(num_classes=5, drop_path_rate=0.5, reg_tokens=2)
    model = make("vpt_deep", backbone.model)
    assert isinstance(model.base_model.model.blocks[1].base_layer, Block)
    assert model.train()(image).shape == (2, 5)
    assert not torch.equal(model(image), model(image))
    torch.testing.assert_close(logits(model, image), logits(model, image), rtol=0, atol=0)


@pytest.mark.parametrize("first", ["ppvit.tuners", "peft"])
def test_adapters_load_in_peft_as_their_readme_says(first, tmp_path, image):
    """In a fresh process with the two packages imported in either order."""
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    torch.save(image, tmp_path / "image.pt")
    code = [
        f"import {first}, peft, timm, json, torch",
        f"image = torch.load({str(tmp_path / 'image.pt')!r})",
        "found = {}",
    ]
    expected = {}
    for name, (method, values) in zip(NAMES, METHODS, strict=True):
        tuner = make_tuner(make_config(finetune={"method": method, "rank": 3, **values}).finetune)
        model = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
        shake(model)
        record = {"num_classes": 5, **MADE}
        save_finetuned(tuner, model, tmp_path / name, tmp_path / "adapted", record)
        expected[name] = logits(model, image)
        [example] = re.findall(r"(?:^    .*\n)+", (tmp_path / name / "README.md").read_text(), re.M)
        assert "import ppvit.tuners" in example
        code.append(re.sub(r"^    ", "", example, flags=re.M).replace("<this folder>", str(tmp_path / name)))
        code.append(f"found[{name!r}] = model.eval()(image).tolist()")
    code.append("print(json.dumps(found))")
    python = warm_python.python() if first == "peft" else sys.executable  # the former has loaded peft
    process = subprocess.run([python, "-c", "\n".join(code)], capture_output=True, text=True, env={**os.environ})
    assert process.returncode == 0, process.stderr
    for name, values in json.loads(process.stdout).items():
        torch.testing.assert_close(torch.tensor(values), expected[name], rtol=0, atol=0)


def test_readme_of_what_peft_knows_asks_for_no_ppvit(tmp_path):
    save_model(tmp_path / "adapted", tiny_backbone(), MADE)
    tuner = make_tuner(make_config().finetune)
    model = tuner.attach(load_model(tmp_path / "adapted", "adapt", 5))
    record = {"method": "lora", "num_classes": 5, "key_id": None, "cipher": {"name": "none"}}
    save_finetuned(tuner, model, tmp_path / "finetuned", tmp_path / "adapted", record)
    assert "import" not in (tmp_path / "finetuned/README.md").read_text()


def test_import_ppvit_imports_neither_torch_nor_peft():
    script = (
        "import sys, ppvit, ppvit.ciphers, ppvit.cli.command\n"
        "print([name for name in ('torch', 'peft', 'timm', 'transformers') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("method", ["adapter", "vpt_deep", "aoft_adapter"])
def test_owner_verifies_and_predicts(method, tmp_path):
    """From training on ciphertext to the owner's figures; undoing the adaptation works with adapters in the model."""
    config = make_world(tmp_path, "block_np", method=method, learning_rate=2e-2, target_modules=[])
    train(tmp_path, config)
    places = places_of(tmp_path)
    verify.run(config, places)
    result = read_result(places, "verify")
    assert result["plain_accuracy_percent"] == result["accuracy_percent"]
    plain = PlainImages(tmp_path / "raw", "test", config.dataset, config.encrypt).read(0, 1)[0]
    Image.fromarray(plain).save(tmp_path / "query.png")
    [answers] = predict.run(config, places, [tmp_path / "query.png"], top=3)
    encrypted = torch.from_numpy(load_cipher(config).encrypt(plain[None])).permute(0, 3, 1, 2)
    expected = logits(load_finetuned(places.adapted, places.finetuned, 3), model_input(encrypted)).softmax(1)[0]
    assert [answer.percent for answer in answers] == pytest.approx(sorted((100 * expected).tolist(), reverse=True))
