"""Fine-tuned models of somebody who lies: only what the method trains is loaded, and nothing from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MADE, make_config, tiny_backbone
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppvit.core.errors import PpvitError
from ppvit.models import load_model, save_model
from ppvit.training.attach import set_batch_norm
from ppvit.tuners import TUNERS, finetuned_id, load_adapter, load_finetuned, make_tuner, save_finetuned

CLASSES = 5
ADAPTER, SETTINGS, RECORD = "adapter_model.safetensors", "adapter_config.json", "ppvit.json"
FACTOR = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
NAMED = ("pretrained_cfg__first_conv", "pretrained_cfg__classifier")  # of which models with a stem say nothing


class Stored:
    """Folders of an adapted and a fine-tuned model, whose files a test changes."""

    def __init__(self, root: Path) -> None:
        self.root, self.adapted, self.finetuned = root, root / "adapted", root / "finetuned"

    def make(self, method: str) -> Stored:
        save_model(self.adapted, tiny_backbone(), MADE)
        settings = make_config(finetune={"method": method, "rank": 2, "frequencies": 9}).finetune
        tuner = make_tuner(settings)
        model = set_batch_norm(tuner.attach(load_model(self.adapted, "adapt", CLASSES)), settings.batch_norm)
        save_finetuned(tuner, model, self.finetuned, self.adapted, {**MADE, "num_classes": CLASSES})
        return self

    def copy(self, root: Path) -> Stored:
        shutil.copytree(self.root, root)
        return Stored(root)

    def load(self, num_classes: int = CLASSES) -> torch.nn.Module:
        return load_finetuned(self.adapted, self.finetuned, num_classes)

    def refused(self, num_classes: int = CLASSES) -> str:
        """The one line in which it is refused."""
        with pytest.raises(PpvitError) as error:
            self.load(num_classes)
        told = str(error.value)
        assert "\n" not in told
        assert len(told) < 1000
        return told

    def json(self, name: str, **changes: object) -> Stored:
        """Change values in a file; ``a__b`` is b in a."""
        path = self.finetuned / name
        values = json.loads(path.read_text())
        for key, value in changes.items():
            *outer, last = key.split("__")
            place = values
            for part in outer:
                place = place[part]
            if value is ...:
                del place[last]
            else:
                place[last] = value
        path.write_text(json.dumps(values))
        return self

    @property
    def weights(self) -> Path:
        names = (ADAPTER, "model.safetensors")
        return next(self.finetuned / name for name in names if (self.finetuned / name).exists())

    def tensors(self, **changes: Tensor | None) -> Stored:
        state = {**load_file(self.weights), **changes}
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, self.weights)
        return self


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fine-tuned models by method, made when they are asked for."""
    found: dict[str, Stored] = {}

    def make(method: str) -> Stored:
        if method not in found:
            found[method] = Stored(tmp_path_factory.mktemp(method) / "run").make(method)
        return found[method]

    return make


@pytest.fixture
def lora(made, tmp_path) -> Stored:
    return made("lora").copy(tmp_path / "run")


@pytest.fixture
def full(made, tmp_path) -> Stored:
    return made("full").copy(tmp_path / "run")


@pytest.mark.parametrize("method", TUNERS)
def test_tensors_are_exactly_those_that_the_method_trains(method, made, tmp_path):
    model = made(method)
    model.load()
    state = load_file(model.weights)
    name = max(state, key=lambda each: state[each].numel() * state[each].is_floating_point())
    longer = torch.cat([state[name], state[name]])
    broken = state[name].clone()
    broken.view(-1)[-1] = torch.nan
    base = "base_model.model.norm.weight" if model.weights.name == ADAPTER else "other.weight"
    cases = {
        "missing": ({name: None}, f"lacks '{name}'"),
        "more": ({base: torch.ones(24)}, f"holds '{base}', which is no tensor of"),
        "size": ({name: longer}, f"holds '{name}' of shape {len(longer)}"),
        "dtype": ({name: state[name].half()}, f"holds '{name}' as F16, not as float32"),
        "nan": ({name: broken}, f"holds values that are no numbers in '{name}'"),
    }
    for case, (change, told) in cases.items():
        refused = model.copy(tmp_path / case).tensors(**change).refused()
        assert f"{model.weights.name} {told}" in refused
        assert refused.endswith("make it again: dvc repro --force finetune")


@pytest.mark.parametrize("method", TUNERS)
def test_a_missing_file_is_named(method, made, tmp_path):
    model = made(method)
    for path in model.finetuned.iterdir():
        if path.name != "README.md":
            copy = model.copy(tmp_path / path.name)
            (copy.finetuned / path.name).unlink()
            assert f"{path.name} is missing; run the stage that writes it: dvc repro finetune" in copy.refused()


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": -16},
        {"lora_alpha": 32.0},
        {"lora_alpha": "16"},
        {"r": 200_000},
        {"r": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_10000000"},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": 1},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"rank_pattern": {"(a+)+$": 200_000}},
        {"alpha_pattern": {".*": -1}},
        {"target_modules": "(a*)*b"},
        {"target_modules": ["attn.qkv"]},
        {"modules_to_save": ["head", "norm"]},
        {"peft_type": "OFT"},
        {"task_type": "SEQ_CLS"},
        {"auto_mapping": {"base_model_class": "AutoModel", "parent_library": "evil"}},
        {"revision": "main"},
        {"base_model_name_or_path": None},
        {"peft_version": 1},
        {"layers_to_transform": [0]},
        {"trainable_token_indices": [1]},
        {"unheard_of": 1},
        {"r": ...},
    ],
)
def test_settings_of_an_adapter_are_those_of_its_record(changes, lora):
    [name] = changes
    assert f"{SETTINGS}: '{name}' " in lora.json(SETTINGS, **changes).refused()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 10**9}, "'num_classes': input should be less than"),
        ({"num_classes": 0}, "'num_classes': input should be greater than"),
        ({"num_classes": "5"}, "'num_classes': input should be a valid integer"),
        ({"num_classes": 6}, "was trained on 6 classes, the shards have 5"),
        ({"method": "lorra", "finetune__method": "lorra"}, "unknown finetune.method 'lorra'; did you mean 'lora'?"),
        ({"method": "full"}, "says method full and finetune.method lora"),
        ({"method": "full", "finetune__method": "full"}, "config.json is missing"),
        ({"method": "dora", "finetune__method": "dora"}, "adapter_config.json: 'use_dora' is false, but"),
        ({"finetune__rank": 3}, "'r' is 2, but ppvit.json makes it 3"),
        ({"finetune__rank": 8192}, "'r' is 2, but ppvit.json makes it 8192"),
        ({"finetune__rank": 10**29}, "'finetune.rank': input should be less than"),
        ({"finetune__rank": -1}, "'finetune.rank': input should be greater than"),
        ({"finetune__alpha": -16}, "'finetune.alpha': input should be greater than 0"),
        ({"finetune__alpha": 32.0}, "'lora_alpha' is 16.0, but ppvit.json makes it 32.0"),
        ({"finetune__target_modules": ["(a*)*b"]}, "finetune.target_modules: no linear layer ends in '(a*)*b'"),
        ({"finetune__unheard_of": 1}, "'finetune.unheard_of' does not belong there"),
        ({"finetune": ...}, "'finetune' is missing"),
        ({"key_id": "pk-1"}, "'key_id': string should match"),
        ({"cipher": {"name": {}}}, "'cipher.name"),
        ({"image_size": 10**9}, "'image_size': input should be less than"),
    ],
)
def test_records_are_those_of_the_method(changes, told, lora):
    assert told in lora.json(RECORD, **changes).refused()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 6}, "'pretrained_cfg' is not what"),
        (
            {"num_classes": 6, "pretrained_cfg__num_classes": 6},
            "holds 'head.weight' of shape 5 x 24, not 6 x 24 as in its config",
        ),
        (
            {"num_classes": 10**6, "pretrained_cfg__num_classes": 10**6},
            "holds 'head.weight' of shape 5 x 24, not 1000000 x 24",
        ),
        ({"num_classes": 10**9}, "'num_classes': input should be less than"),
        ({"architecture": "hf-hub:evil/model"}, "'architecture': string should match"),
        ({"architecture": "local-dir:elsewhere"}, "'architecture': string should match"),
        ({"architecture": "../elsewhere"}, "'architecture': string should match"),
        ({"architecture": "vit_tinny_patch16_224"}, "no model can be built of it (Unknown model"),
        ({"architecture": "vit_giant_patch14_224"}, "of shape 96 x 24, not 104 x 24 as in its config.json"),
        ({"model_args__depth": 5000}, "'model_args.depth': input should be less than"),
        ({"model_args__depth": 200}, "'model_args.depth' is more than there are tensors"),
        ({"model_args__depth": 3}, "lacks 'blocks.2."),
        ({"model_args__embed_dim": 65536, "num_features": 65536}, "of shape 1 x 1 x 24, not 1 x 1 x 65536"),
        ({"model_args__num_heads": 7}, "no model can be built of it"),
        ({"model_args__img_size": 65536}, "'pretrained_cfg' is not what"),
        ({"model_args__patch_size": 0}, "'model_args.patch_size': input should be greater than"),
        ({"model_args__checkpoint_path": "evil.pth"}, "'model_args.checkpoint_path' does not belong there"),
        ({"model_args__pretrained_cfg": {"hf_hub_id": "evil/model"}}, "'model_args.pretrained_cfg' does not belong"),
        ({"pretrained_cfg__hf_hub_id": "evil/model"}, "'pretrained_cfg.hf_hub_id' does not belong"),
        ({"pretrained_cfg__classifier": ""}, "'pretrained_cfg.classifier"),
        ({"pretrained_cfg__classifier": 5}, "'pretrained_cfg.classifier"),
        ({"pretrained_cfg__url": "http://192.0.2.1/"}, "'pretrained_cfg.url' does not belong"),
        ({"pretrained_cfg__file": "/etc/passwd"}, "'pretrained_cfg.file' does not belong"),
        ({"pretrained_cfg__custom_load": True}, "'pretrained_cfg.custom_load' does not belong"),
        ({"pretrained_cfg__classifier": "blocks"}, "'pretrained_cfg' is not what vit_tiny_patch16_224 has"),
        ({"stem": {"tokens": 10**6, "token_width": 10**4}}, "'pretrained_cfg' is not what vit_tiny_patch16_224 has"),
        (
            {"stem": {"tokens": 10**6, "token_width": 10**4}, **dict.fromkeys(NAMED)},
            "of shape 24 x 3 x 4 x 4",
        ),
        ({"stem": {"tokens": 10**9, "token_width": 3}}, "'stem.tokens': input should be less than"),
        ({"stem": {"normalization": True}}, "no model can be built of it"),
        ({"ppvit__method": "linear"}, "its record is another one than that in ppvit.json"),
        ({"ppvit": []}, "'ppvit': input should be"),
        ({"extra": 1}, "'extra' does not belong there"),
    ],
)
def test_configurations_of_whole_models_are_those_of_their_tensors(changes, told, full):
    assert told in full.json("config.json", **changes).refused()


def test_an_adapted_model_is_checked_alike(lora):
    """The trainer reads what the owner wrote, too."""
    path = lora.adapted / "config.json"
    path.write_text(path.read_text().replace('"depth": 2', '"depth": 200'))
    assert "adapted/config.json: 'model_args.depth' is more than there are tensors" in lora.refused()
    with pytest.raises(PpvitError, match=r"'model_args\.depth' is more than .*make it again: dvc repro --force adapt"):
        load_model(lora.adapted, "adapt", CLASSES)


def test_linear_trains_its_head_alone(made, tmp_path):
    model = made("linear").copy(tmp_path / "run").tensors(**{"norm.weight": torch.ones(24)})
    assert "'norm.weight' differs from the base, but linear does not train it" in model.refused()


def test_zeros_of_melo_stay_zeros(made, tmp_path):
    model = made("melo").copy(tmp_path / "run")
    name = "base_model.model.blocks.0.attn.qkv.lora_B.weight"  # (3 D, 2 r): its key rows are never trained
    factor = load_file(model.weights)[name]
    factor[24 + 3, 0] = 0.5
    assert "has values where method melo trains none" in model.tensors(**{name: factor}).refused()


HEADER = b'{"__metadata__":{"format":"pt"}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (2**40).to_bytes(8, "little") + HEADER,
        (2**63).to_bytes(8, "little") + HEADER,
        len(HEADER).to_bytes(8, "little") + HEADER,
        (5).to_bytes(8, "little") + b'{"a":',
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'[:60],
    ],
)
def test_files_that_are_no_tensors(content, lora):
    (lora.finetuned / ADAPTER).write_bytes(content)
    assert lora.refused().startswith(f"{lora.finetuned / ADAPTER} ")


def test_links_lead_to_no_device(lora):
    (lora.finetuned / ADAPTER).unlink()
    (lora.finetuned / ADAPTER).symlink_to("/dev/zero")
    assert f"{ADAPTER} is no regular file" in lora.refused()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_identity_covers_every_file_that_changes_the_outcome(method, made, tmp_path):
    model = made(method).copy(tmp_path / "run")
    ids = {finetuned_id(model.finetuned)}
    loaded = [path for path in sorted(model.finetuned.iterdir()) if path.name != "README.md"]
    assert len(loaded) == 3
    for path in loaded:
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        ids.add(finetuned_id(model.finetuned))
        path.write_bytes(before)
    assert len(ids) == 4
    (model.finetuned / "README.md").write_text("others may describe it")
    assert finetuned_id(model.finetuned) in ids
    assert all(len(identity) == 16 for identity in ids)


def test_adapters_alone_are_loaded_as_adapters(made):
    with pytest.raises(PpvitError, match="holds a whole model of method full, no adapter"):
        load_adapter(made("full").adapted, made("full").finetuned, CLASSES)
