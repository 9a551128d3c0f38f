"""Every cipher through the whole pipeline, on a small data set: what the stages write and read fits together."""

from dataclasses import replace

import peft
import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, write_raw
from safetensors.torch import save_file

from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.core.errors import UsageError
from ppvit.data.shards import read_manifest
from ppvit.models import MICRO, MICRO_ARCHITECTURE, load_model
from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune, verify

VARIANTS = {name: {"name": name} for name in CIPHERS} | {
    "subblock_etc block keys": {"name": "subblock_etc", "key_scope": "block"},
    "orthogonal float16": {"name": "orthogonal", "storage": "float16"},
    "orthogonal uint8": {"name": "orthogonal", "storage": "uint8"},
    "pe image keys": {"name": "pe", "key_scope": "image"},
    **{name: {"name": name, "token_width": 16} for name in CIPHERS if name.startswith("neuracrypt")},
}
KEYS_ONLY = ["weights", "known_plaintext", "chosen_plaintext", "matching", "brute_force"]


def cipher_of(variant: str):
    return load_cipher(make_config(dataset={"image_size": 16}, cipher=VARIANTS[variant]))


UNADAPTED = {variant for variant in VARIANTS if cipher_of(variant).affine_map() is None}


class Run:
    """The stages from encrypt to audit in one folder."""

    def __init__(self, folder, cipher, model=None, method="linear"):
        adapted = cipher not in UNADAPTED and not (model or {}).get("adaptive_matrix")
        self.config = make_config(
            dataset={"image_size": 16},
            cipher=VARIANTS[cipher],
            model=model or {},
            adapt={"enabled": adapted},
            finetune={"method": method, "epochs": 2, "batch_size": 16, "learning_rate": 0.01},
            verify={"wrong_keys": 1},
            audit={"attacks": KEYS_ONLY, "known_pairs": [1, 4], "pooled_images": [4], "images": 4, "candidates": 12},
        )
        shared = make_places(folder)
        self.places = replace(make_places(folder / cipher / method), raw=shared.raw, embedded=shared.embedded)
        if not shared.raw.exists():
            write_raw(shared.raw, {"train": 48, "test": 12})
            torch.manual_seed(0)
            shared.embedded.parent.mkdir(parents=True)
            micro = timm.create_model(MICRO_ARCHITECTURE, **MICRO | {"img_size": 16})
            save_file(micro.state_dict(), shared.embedded)

    def result(self, stage):
        return read_result(self.places, stage)

    def train(self):
        for stage in (encrypt, adapt, finetune, evaluate):
            stage.run(self.config, self.places)
        return self

    def check(self):
        for stage in (verify, audit):
            stage.run(self.config, self.places)
        return self


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ciphers")


@pytest.fixture(scope="module")
def plain_loss(folder):
    return Run(folder, "none").train().result("finetune")["train_loss"]


@pytest.mark.parametrize("cipher", VARIANTS)
def test_all_stages_fit_together(cipher, folder, plain_loss):
    run = Run(folder, cipher).train().check()
    manifest, used = read_manifest(run.places.encrypted / "train"), cipher_of(cipher)
    assert manifest["dtype"] == used.dtype.name
    assert manifest["shape"] == list(used.shape)
    verified = run.result("verify")
    assert verified["accuracy_percent"] == run.result("evaluate")["accuracy_percent"]
    if cipher in UNADAPTED:
        assert "plain_accuracy_percent" not in verified
        return
    difference = run.result("adapt")["max_logit_difference_float64"]
    assert difference < 1e-6
    # training on ciphertext with the adapted model is training on plain images, up to how ciphertext is rounded
    exact = used.affine_map().matrix is None
    rounding = 1e-4 if exact else 1e-2 if used.lossless else 0.3
    assert run.result("finetune")["train_loss"] == pytest.approx(plain_loss, abs=rounding)
    if used.lossless:
        assert verified["plain_accuracy_percent"] == pytest.approx(verified["accuracy_percent"], abs=10)  # of 12 images


@pytest.mark.parametrize("method", ["full", "melo", "lora_patch", "lora"])
@pytest.mark.parametrize("cipher", ["etc", "ele", "neuracrypt"])
def test_every_method_trains_and_loads_models_with_other_first_layers(cipher, method, folder):
    run = Run(folder, cipher, method=method).train().check()
    assert run.result("verify")["accuracy_percent"] == run.result("evaluate")["accuracy_percent"]


@pytest.mark.parametrize(("cipher", "loader"), [("block", "timm.create_model"), ("etc", "ppvit.models.load_model")])
def test_the_adapter_says_how_its_base_is_loaded(cipher, loader, folder):
    run = Run(folder, cipher, method="lora").train()
    card = (run.places.finetuned / "README.md").read_text()
    assert f"base = {loader}(" in card
    line = card[card.index("base = ") :].splitlines()[0]
    from pathlib import Path  # noqa: F401

    import timm  # noqa: F401

    import ppvit.models  # noqa: F401

    base = eval(line.removeprefix("base = "))  # as written, it works
    peft.PeftModel.from_pretrained(base, run.places.finetuned)


def test_patch_embeddings_of_every_position_are_counted(folder):
    run = Run(folder, "etc", method="lora_patch").train()
    width, rank = MICRO["embed_dim"], run.config.finetune.rank
    melo = MICRO["depth"] * 2 * 2 * rank * width + 3 * (width + 1)
    assert run.result("finetune")["trainable_parameters"] == melo + 16 * width * 48 + width  # N kernels, one bias


@pytest.mark.parametrize("cipher", sorted(UNADAPTED))
def test_where_nothing_adapts_the_stage_says_so_and_what_to_do(cipher, folder):
    run = Run(folder, cipher)
    config = run.config.model_copy(update={"adapt": run.config.adapt.model_copy(update={"enabled": True})})
    with pytest.raises(UsageError, match="no exact adaptation exists .* set adapt.enabled=false"):
        adapt.run(config, replace(run.places, adapted=folder / "refused"))
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("cipher", ["block_np", "etc"])
def test_convmixer_with_a_learned_matrix_is_a_baseline(cipher, folder):
    model = {"name": "convmixer_micro_patch4", "pretrained": False, "adaptive_matrix": True}
    run = Run(folder, cipher, model, method="full").train().check()
    assert run.result("verify")["accuracy_percent"] == run.result("evaluate")["accuracy_percent"]
    trained = load_model(run.places.finetuned, "finetune")
    assert trained.stem[-1].matrix.shape == (16, 16)
    assert not torch.equal(trained.stem[-1].matrix, torch.eye(16))  # it learned
