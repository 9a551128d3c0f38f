"""Export: what leaves and what must not, the card as the Hub reads it, and loading it in a fresh process."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import peft
import pytest
import torch
import warm_python
import yaml
from conftest import make_config, make_places, tiny_backbone, write_raw
from hub import TOKEN, problems_of_card, serving
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from secret_forms import forms_of_bytes
from torch import nn
from typer.testing import CliRunner

from ppvit import cli
from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.stream import KeyStream
from ppvit.cli.command import app
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import write_json
from ppvit.core.provenance import identities
from ppvit.core.reading import read_json, sha256_of
from ppvit.core.results import read_times
from ppvit.export import export
from ppvit.export.card import _in_words
from ppvit.models import load_model, save_model
from ppvit.pipeline import STAGES
from ppvit.places import Places
from ppvit.tuners import TUNERS, make_tuner, save_finetuned

OWN = [name for name, tuner in TUNERS.items() if not tuner.stock]  # methods that peft does not have
LORA = ["aoft_lora", "aoft_adapter"]  # those of them that equal a LoRA
CLASSES = ["heron", "otter", "newt"]
AUDIT = {
    "audited_images": 20,
    "ssim_of_guess": 0.01,
    "ssim_of_ciphertext": 0.02,
    "weights_key_recovered_percent": 98.76,
    "weights_ssim": 0.987,
    "weights_wall_seconds": 0.5,
    "weights_strength_percent": 97.0,
    "jigsaw_key_recovered_percent": None,
    "jigsaw_ssim": 0.05,
    "jigsaw_wall_seconds": 0.5,
    "jigsaw_strength_percent": 3.0,
    "verdict": "Broken: unseen images can be read. Strongest attack: weights.",
}


@dataclass(frozen=True)
class World:
    """A project folder after a run."""

    root: Path
    config: Config

    @property
    def places(self) -> Places:
        return make_places(self.root, self.config)

    def place(self, name: str) -> Path:
        return getattr(self.places, name)

    def export(self, out: str = "hub", **options) -> Path:
        export(self.config, self.places, self.root / out, **options)
        return self.root / out

    def result(self, stage: str, **changes) -> dict:
        path = self.places.result(stage)
        write_json(path, {**read_json(path, stage), **changes})
        times = path.parent / "times" / path.name
        if times.exists():  # they are of the result as it is now
            measured = read_json(times, stage)
            write_json(times, {stage: {**measured[stage], "result_sha256": sha256_of(path)}})
        return read_json(path, stage)

    def measured_anew(self) -> None:
        """Pass the results there are off as those of the models that are there now."""
        for path in (self.root / "results").glob("*.json"):
            self.result(path.stem, **identities(self.place("adapted"), self.place("finetuned")))

    def audited(self) -> None:
        """A result of the audit as if it had attacked the model that is there."""
        write_json(
            self.root / "results/audit.json", {**AUDIT, **identities(self.place("adapted"), self.place("finetuned"))}
        )

    def copy(self, folder: Path) -> "World":
        shutil.copytree(self.root, folder)
        return replace(self, root=folder)


def settings(method: str = "lora", key_id: str = "", **sections) -> Config:
    cipher = {"name": "block", "block_size": 4} | ({"key_id": key_id} if key_id else {}) | sections.pop("cipher", {})
    chosen = {"method": method, "rank": 2, "epochs": 2, "batch_size": 8} | sections.pop("finetune", {})
    return make_config(dataset={"image_size": 16}, cipher=cipher, finetune=chosen, **sections)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ring")
    keys.save(keys.Key(bytes(range(32))), folder, "")
    return folder


def build(root: Path, keyring: Path, config: Config) -> World:
    """The real stages on noise, the audit excepted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPVIT_KEYRING", str(keyring))
        patch.setenv("PPVIT_SCRATCH", str(root / "scratch"))
        world = World(root, config)
        raw = write_raw(world.place("raw"), {"train": 24, "test": 12})
        write_json(raw / "dataset.json", {**read_json(raw / "dataset.json", "download"), "classes": CLASSES})
        STAGES["encrypt"].run(config, world.places)
        cipher, backbone = load_cipher(config), tiny_backbone()
        adapt_model(backbone, cipher, config.adapt.enabled)
        record = {**cipher.record, "model": config.model.name, "adapted": config.adapt.enabled}
        save_model(world.place("adapted"), backbone, record)
        for stage in ("finetune", "evaluate", "verify"):
            STAGES[stage].run(config, world.places)
        return world


@pytest.fixture(scope="module")
def finished(tmp_path_factory, keyring) -> World:
    key_id = keys.Key(bytes(range(32))).id
    return build(tmp_path_factory.mktemp("run"), keyring, settings(key_id=key_id))


@pytest.fixture
def world(finished, tmp_path) -> World:
    """The run's own copy for a test that changes files."""
    return finished.copy(tmp_path / "run")


def retrain(world: World, method: str, model: nn.Module | None = None, **changes) -> tuple[World, nn.Module]:
    """Put a model in place that another method trained: every trained parameter is moved from its start."""
    config = settings(method, world.config.cipher.key_id, finetune={"rank": 2, **changes})
    config = config.model_copy(update={"cipher": world.config.cipher, "adapt": world.config.adapt})
    tuner = make_tuner(config.finetune)
    torch.manual_seed(1)
    if model is None:
        model = tuner.attach(load_model(world.place("adapted"), "adapt", len(CLASSES)))
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter) * getattr(parameter, "structural_mask", 1)
    record = read_json(world.place("finetuned") / "ppvit.json", "finetune")
    record |= {"method": method, "finetune": config.finetune.model_dump()}
    save_finetuned(tuner, model, world.place("finetuned"), world.place("adapted"), record)
    world.result("finetune", method=method)
    world.measured_anew()
    return replace(world, config=config), model.eval()


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model((images - 127.5) / 127.5)


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return code


IMAGES = "torch.zeros(1, 3, 16, 16)"


def run_cards(exports: dict[str, Path], base: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Run the code of each card on images of noise, all in one fresh process; returns the logits.

    Those that do without ppvit come first, and ppvit must not be loaded when they are done.
    """
    torch.save(test_images(), tmp_path / "images.pt")
    alone, lines = ["import sys, torch"], []
    for name, folder in exports.items():
        code = code_of(folder)
        assert code.count(IMAGES) == 1
        code = code.replace('"models/adapted"', repr(str(base))).replace('FOLDER = "."', f"FOLDER = {str(folder)!r}")
        code = code.replace(IMAGES, f"torch.load({str(tmp_path / 'images.pt')!r})")
        (lines if "import ppvit" in code else alone).extend([code, f"torch.save(logits, {str(tmp_path / name)!r})"])
    script = tmp_path / "fresh.py"
    script.write_text("\n".join([*alone, "assert 'ppvit' not in sys.modules", *lines]))
    done = subprocess.run([warm_python.python(), script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: torch.load(tmp_path / name) for name in exports}


def test_images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(4)).float()


test_images.__test__ = False


def test_cards_load_the_model_in_a_fresh_process(finished, tmp_path):
    """To the trained model's logits, bit for bit: an adapter, a head and a whole model with timm and peft alone.

    Our own methods likewise after ``import ppvit.tuners``, and without it where they are exported as LoRA, up to
    rounding.
    """
    exports, expected, exact = {}, {}, {}

    def add(name: str, method: str, as_lora: bool = False, **changes) -> None:
        world, model = retrain(finished.copy(tmp_path / f"run-{name}"), method, **changes)
        exports[name] = world.export(as_lora=as_lora, with_key_material=method == "full")
        assert ("import ppvit.tuners" in code_of(exports[name])) == (method in OWN and not as_lora)
        expected[name], exact[name] = logits(model, test_images()), not as_lora

    for method in ("lora", "linear", "full", *OWN):
        add(method, method)
    for method in LORA:
        add(f"{method}-as-lora", method, as_lora=True)
        add(f"{method}-unscaled-as-lora", method, as_lora=True, scaled=False)
    for name, found in run_cards(exports, finished.place("adapted"), tmp_path).items():
        tolerance = 0.0 if exact[name] else 1e-5
        torch.testing.assert_close(found, expected[name], rtol=tolerance, atol=tolerance)


def test_nothing_but_the_head_leaves_where_nothing_else_was_trained(world):
    world, model = retrain(world, "linear")
    folder = world.export()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "head.safetensors", "ppvit.json"]
    head = load_file(folder / "head.safetensors")
    assert set(head) == {"head.weight", "head.bias"}
    torch.testing.assert_close(head["head.weight"], model.head.weight, rtol=0, atol=0)


@pytest.mark.parametrize("method", LORA)
def test_as_lora_is_stock_lora(method, world):
    world, _ = retrain(world, method)
    folder = world.export(as_lora=True)
    configuration = read_json(folder / "adapter_config.json", "finetune")
    assert configuration["peft_type"] == "LORA"
    assert "-adapted-to-pk-" in configuration["base_model_name_or_path"]
    text = (folder / "README.md").read_text()
    assert "is written here as plain LoRA" in text
    assert "import ppvit" not in text


@pytest.mark.parametrize("method", ["adapter", "vpt_deep", "hta_lora", "dora", "full"])
def test_what_is_no_lora_is_not_written_as_one(method, world):
    world, _ = retrain(world, method)
    with pytest.raises(UsageError, match="LoRA"):
        world.export(as_lora=True)
    assert not (world.root / "hub").exists()


def test_front_matter_is_what_the_hub_reads(finished, tmp_path):
    folder = finished.copy(tmp_path / "run").export()
    card = ModelCard.load(folder / "README.md")
    values = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(), re.S)[1])
    assert card.data.library_name == values["library_name"] == "peft"
    assert card.data.pipeline_tag == "image-classification"
    assert {"ppvit", "cipher-block", "lora"} <= set(card.data.tags)
    assert "base_model" not in values  # the embedded model is on no hub
    assert (card.data.license, card.data.datasets, card.data.metrics) == ("apache-2.0", ["digits"], ["accuracy"])
    assert problems_of_card(str(card)) == []
    assert model_index_to_eval_results(values["model-index"])[0] == values["model-index"][0]["name"]
    encrypted, plain = card.data.eval_results
    accuracy = read_json(finished.root / "results/evaluate.json", "evaluate")["accuracy_percent"]
    assert (encrypted.metric_type, encrypted.metric_value) == ("accuracy", round(accuracy, 2))
    assert (encrypted.dataset_name, encrypted.dataset_split, encrypted.task_type) == (
        "digits",
        "test",
        "image-classification",
    )
    assert "plain" in plain.dataset_config


@pytest.mark.parametrize(
    ("model", "base", "licence"),
    [
        ({"name": "vit_base_patch16_224.augreg_in21k"}, "timm/vit_base_patch16_224.augreg_in21k", "apache-2.0"),
        ({"name": "vit_base_patch16_224.mae"}, "timm/vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ({"name": "vit_base_patch16_224", "checkpoint": "/models/mine.safetensors"}, None, "unknown"),
        ({"name": "vit_base_patch16_224", "pretrained": False}, None, "unknown"),
    ],
)
def test_base_model_and_its_licence_are_named_where_it_came_from_the_hub(model, base, licence, world):
    config = make_config(**{**world.config.model_dump(), "model": model})
    path = world.place("adapted") / "config.json"
    configuration = read_json(path, "adapt")
    configuration["ppvit"]["model"] = model["name"]
    write_json(path, configuration)
    world.measured_anew()
    card = ModelCard.load(replace(world, config=config).export() / "README.md")
    assert card.data.get("base_model") == base
    assert card.data.get("base_model_relation") == (base and "adapter")
    assert "/models/mine" not in str(card)
    assert card.data.license == licence
    assert f"- **License:** `{licence}`, " in str(card)
    assert problems_of_card(str(card)) == []


def test_a_licence_of_ones_own(world):
    card = ModelCard.load(world.export(licence="cc-by-4.0") / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "- **License:** `cc-by-4.0`. " in str(card)
    for name, told in (("MIT", "did you mean mit"), ("Apache 2.0", "did you mean apache-2.0"), ("!", "licenses$")):
        with pytest.raises(UsageError, match=rf"--license '{name}': the Hub names licences as.*{told}"):
            world.export("other", licence=name)
    assert not (world.root / "other").exists()


def test_card_says_what_was_done_and_measured(world):
    world.audited()
    world.result("evaluate", accuracy_percent=87.654)
    world.result("verify", accuracy_percent=87.456, plain_accuracy_percent=76.543, wrong_key_accuracy_percent=23.456)
    world.result("finetune", trainable_parameters=1_234_567)
    made = read_times(world.places.result("finetune"))
    text = (world.export() / "README.md").read_text()
    key_id = world.config.cipher.key_id
    for told in (
        "87.65 % on 12 encrypted test images",
        "| encrypted again by the owner of the key | 12 | 87.46 % |",
        "| plain, adaptation undone by the owner | 12 | 76.54 % |",
        "| encrypted with a wrong key (mean of 3) | 12 | 23.46 % |",
        "3 classes, 24 training and 12 test images of 16 x 16 pixels",
        "1,234,567 (1.177 Mi)",
        f"key_id: {key_id}",
        "block_size: 4",
        AUDIT["verdict"],
        "| weights | 98.76 % | 0.987 |",
        "No more than a guess from: jigsaw.",
        "key material itself",
        made["versions"],
        made["device"],
    ):
        assert told in text, told
    assert "⚠️" not in text
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])["finetune"]
    expected = world.config.finetune.model_dump()
    assert settings.items() >= {name: expected[name] for name in ("method", "rank", "alpha", "epochs", "seed")}.items()
    assert settings["target_modules"] == ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert not {"frequencies", "scaled", "momentum"} & settings.keys()


def test_card_of_a_trainer_who_can_neither_verify_nor_audit(world):
    (world.root / "results/verify.json").unlink()
    shutil.rmtree(world.root / "results/times")  # as where the model was trained on another machine
    text = (world.export() / "README.md").read_text()
    assert "Made with" not in text
    assert "**Leak:** not audited" in text
    assert "The owner of the key has not verified" in text
    assert "undone" not in text


@pytest.mark.parametrize("method", TUNERS)
def test_methods_describe_themselves_in_markdown(method):
    text = _in_words(method)
    assert text
    assert "``" not in text
    assert not re.search(r":\w+:`", text)


def test_trained_patch_embedding_is_refused(world):
    world, _ = retrain(world, "lora_patch")
    with pytest.raises(UsageError) as refused:
        world.export()
    assert str(refused.value) == (
        "these tensors reveal the key to whoever has the public checkpoint: base_model.model.patch_embed.proj.bias, "
        "base_model.model.patch_embed.proj.weight; export them with --with-key-material, or train without them "
        "(finetune.method, target_modules)"
    )
    assert not list(world.root.glob("*hub*"))
    text = (world.export(with_key_material=True) / "README.md").read_text()
    assert "⚠️ This folder holds key material" in text
    assert "`base_model.model.patch_embed.proj.weight`" in text.split("## ")[0]


def test_whole_model_is_refused_and_its_keyed_tensors_named(world):
    world, _ = retrain(world, "full")
    with pytest.raises(UsageError, match=r"patch_embed\.proj\.bias, patch_embed\.proj\.weight, pos_embed; export"):
        world.export()
    text = (world.export(with_key_material=True) / "README.md").read_text()
    assert "⚠️ This folder holds key material" in text
    assert "library_name: timm" in text


@pytest.mark.parametrize("modules", [["patch_embed.proj"], ["patch_embed"], ["norm"]])
def test_an_adapter_of_more_than_its_method_trains_is_refused(world, modules):
    """A file said to be LoRA that replaces more of the model than its head."""
    base = load_model(world.place("adapted"), "adapt", len(CLASSES))
    config = LoraConfig(r=2, lora_alpha=16.0, target_modules=r"(.*\.)?(attn\.qkv)", modules_to_save=["head", *modules])
    world, _ = retrain(world, "lora", get_peft_model(base, config), target_modules=["attn.qkv"])
    with pytest.raises(PpvitError, match=r"adapter_config\.json: 'modules_to_save' is .*, but ppvit\.json makes it "):
        world.export()


def test_update_of_the_patch_embedding_is_refused(world):
    base = load_model(world.place("adapted"), "adapt", len(CLASSES))
    config = LoraConfig(r=2, lora_alpha=16.0, target_modules=["patch_embed.proj"], modules_to_save=["head"])
    world, _ = retrain(world, "lora", get_peft_model(base, config))
    with pytest.raises(PpvitError, match=r"adapter_config\.json: 'target_modules' is .*patch_embed"):
        world.export()


def test_unadapted_run_reveals_the_key_as_well(tmp_path, keyring, finished):
    config = settings("lora_patch", finished.config.cipher.key_id, adapt={"enabled": False})
    world = build(tmp_path, keyring, config)
    with pytest.raises(UsageError, match="reveal the key"):
        world.export()
    world, _ = retrain(world, "lora")
    text = (world.export() / "README.md").read_text()
    assert "not adapted to the key" in text
    assert "holds no key" in text
    configuration = read_json(world.root / "hub/adapter_config.json", "finetune")
    assert configuration["base_model_name_or_path"] == "vit_micro_patch4_32-from-ppvit-adapt"


def test_without_encryption_nothing_is_refused(tmp_path, keyring):
    world = build(tmp_path, keyring, settings("full", cipher={"name": "none"}))
    folder = world.export()
    text = (folder / "README.md").read_text()
    assert (folder / "model.safetensors").exists()
    assert "**not encrypted** (cipher `none`)" in text
    assert "pk-" not in text
    assert "⚠️" not in text


def test_demo_key_is_told(tmp_path, keyring):
    text = (build(tmp_path, keyring, settings()).export() / "README.md").read_text()
    assert "⚠️ Encrypted with a public key" in text


@pytest.mark.parametrize(
    ("method", "cipher", "adapted", "shape"),
    [
        ("lora", {"name": "etc"}, True, (1, 3, 16, 16)),
        ("lora_patch", {"name": "neuracrypt", "token_width": 24}, False, (1, 16, 24)),
    ],
)
def test_first_layer_that_timm_does_not_have(tmp_path, keyring, finished, method, cipher, adapted, shape):
    """The card's code loads the base by ppvit; tokens are not scaled."""
    config = settings(method, finished.config.cipher.key_id, cipher=cipher, adapt={"enabled": adapted})
    world = build(tmp_path, keyring, config)
    code = code_of(world.export(with_key_material=not adapted))
    assert "load_model(Path(BASE)" in code
    assert "timm" not in code.replace("that timm does not have", "")
    namespace: dict = {}
    code = code.replace('"models/adapted"', repr(str(world.place("adapted"))))
    exec(code.replace('FOLDER = "."', f"FOLDER = {str(world.root / 'hub')!r}"), namespace)
    base = load_model(world.place("adapted"), "adapt", len(CLASSES))
    trained = peft.PeftModel.from_pretrained(base, str(world.place("finetuned"))).eval()
    with torch.inference_mode():
        expected = trained(torch.zeros(shape) if len(shape) == 3 else torch.full(shape, -1.0))
    torch.testing.assert_close(namespace["logits"], expected, rtol=0, atol=0)


def test_same_run_same_bytes(world):
    world.audited()
    first, second = world.export("one"), world.export("elsewhere/two")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "ppvit.json"]
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_no_secret_no_class_name_no_path(world, keyring):
    """In any file; the secret as bytes, hex and base64, and what is derived from it."""
    world.audited()
    key = keys.load(world.config.cipher.key_id, keyring)
    derived = KeyStream(key, ("block", "scramble", 4, 16)).permutation(16).tolist()
    needles = [key.secret, key.secret.hex().encode(), base64.b64encode(key.secret), str(derived)[1:-1].encode()]
    needles += [name.encode() for name in CLASSES]
    needles += [str(world.root).encode(), str(Path.cwd()).encode(), str(Path.home()).encode() + b"/"]
    needles += [os.fspath(world.place("adapted").relative_to(world.root)).encode()]
    for path in world.export().iterdir():
        data = path.read_bytes()
        if path.name == "README.md":  # which tells where ppvit keeps the base
            data = data.replace(b'BASE = "models/adapted"', b"")
        assert not [needle for needle in needles if needle in data], path
        assert not re.search(rb'["\'(\s]/\w+/', data if path.suffix != ".safetensors" else b"")
    configuration = json.loads((world.root / "hub/adapter_config.json").read_text())
    assert configuration["base_model_name_or_path"] == f"vit_micro_patch4_32-adapted-to-{key.id}"


def damage(path: str, text: str | None = None):
    def change(world: World) -> World:
        place = world.root / path
        if text is None:
            data = place.read_bytes()
            place.write_bytes(data[: len(data) // 2])
        else:
            place.write_text(text)
        return world

    return change


def without_a_tensor(world: World) -> World:
    from safetensors.torch import save_file

    path = world.place("finetuned") / "adapter_model.safetensors"
    state = load_file(path)
    del state["base_model.model.blocks.0.attn.qkv.lora_A.weight"]
    save_file(state, path)
    world.measured_anew()
    return world


def truncated(world: World) -> World:
    damage("models/finetuned/adapter_model.safetensors")(world)
    world.measured_anew()
    return world


def about_another_model(stage: str):
    def change(world: World) -> World:
        if stage == "audit":
            world.audited()
        world.result(stage, finetuned_id="0" * 16)
        return world

    return change


def nothing_finetuned(world: World) -> World:
    shutil.rmtree(world.place("finetuned"))
    return world


def other_key(world: World) -> World:
    path = world.place("adapted") / "config.json"
    path.write_text(path.read_text().replace(world.config.cipher.key_id, "pk-0123456789abcdef"))
    return world


def other_parameters(**sections):
    def change(world: World) -> World:
        values = world.config.model_dump()
        return replace(world, config=make_config(**{name: values[name] | sections.get(name, {}) for name in values}))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (nothing_finetuned, r"finetuned/ppvit\.json is missing; run the stage that writes it: dvc repro finetune"),
        (truncated, r"adapter_model\.safetensors cannot be read \(.*\); make it again: dvc repro --force finetune"),
        (
            without_a_tensor,
            r"adapter_model\.safetensors lacks 'base_model\.model\.blocks\.0\.attn\.qkv\.lora_A.* of method lora; ",
        ),
        (damage("models/finetuned/ppvit.json", "{}"), r"ppvit\.json: 'key_id' is missing; make it again"),
        (damage("models/finetuned/adapter_config.json"), r"finetune\.json is about the fine-tuned model"),
        (
            other_key,
            r"finetuned was made with cipher\.key_id pk-.*adapted with pk-0123456789abcdef; make them again: "
            "dvc repro finetune adapt$",
        ),
        (
            damage("results/evaluate.json", '{"accuracy_percent": "high"}'),
            r"evaluate\.json: 'accuracy_percent': .* valid number",
        ),
        *(
            (about_another_model(stage), rf"{stage}\.json is about the fine-tuned model 0+, .* holds [0-9a-f]+; run")
            for stage in ("finetune", "evaluate", "verify", "audit")
        ),
        (lambda world: world.result("evaluate", images=13) and world, r"says images 13, the test shards hold 12; run"),
        (other_parameters(finetune={"method": "melloo"}), r"unknown finetune\.method 'melloo'; did you mean 'melo'"),
        (
            other_parameters(finetune={"method": "melo"}),
            r"was trained with finetune\.method lora, params\.yaml says melo; set it back or run dvc repro finetune",
        ),
        (other_parameters(finetune={"rank": 3}), r"with finetune\.rank 2, params\.yaml says 3; set it back"),
        (other_parameters(cipher={"key_id": "pk-0123456789abcdef"}), r"cipher\.key_id pk-.*params\.yaml says pk-0123"),
        (other_parameters(cipher={"name": "shuffle"}), r"cipher\.name block, params\.yaml says shuffle; set it back"),
        (other_parameters(adapt={"enabled": False}), r"adapt\.enabled True, params\.yaml says False; set it back"),
    ],
)
def test_files_that_are_not_of_one_run(world, change, told):
    with pytest.raises(PpvitError, match=told) as error:
        change(world).export()
    assert "\n" not in str(error.value)
    assert not list(world.root.glob("*hub*"))


def test_folder_in_use(world):
    folder = world.export()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"hub is not empty; choose another folder, or replace it with --force"):
        world.export()
    changed, _ = retrain(world, "lora_patch")
    with pytest.raises(UsageError, match="reveal the key"):
        changed.export(force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # a refusal leaves it alone
    linear, _ = retrain(world, "linear")
    linear.export(force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "head.safetensors", "ppvit.json"]


def test_force_replaces_nothing_but_an_export(world):
    (world.root / "mine").mkdir()
    (world.root / "mine/thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"mine holds 'thesis\.tex', which no export wrote"):
        world.export("mine", force=True)
    (world.root / "read").mkdir()
    (world.root / "read/README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"read holds 'README\.md', which no export wrote"):
        world.export("read", force=True)
    with pytest.raises(UsageError, match="models/finetuned, which the pipeline keeps"):
        world.export("models/finetuned", force=True)
    (world.root / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file; choose a folder"):
        world.export("file", force=True)


def test_verb(world, monkeypatch, capsys):
    """The command in a project folder, as a person runs it."""
    world, _ = retrain(world, "lora_patch")
    (world.root / "params.yaml").write_text(yaml.safe_dump(world.config.model_dump()))
    monkeypatch.chdir(world.root)
    monkeypatch.setattr(sys, "argv", ["ppvit", "export", "hub"])
    with pytest.raises(SystemExit, match="2"):
        cli.run()
    assert re.fullmatch(r"error: these tensors reveal the key .*\n", capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["ppvit", "export", "hub", "--with-key-material"])
    with pytest.raises(SystemExit, match="0"):
        cli.run()
    told = capsys.readouterr()
    assert told.out == "hub\n"
    assert told.err == ("warning: hub reveals the secret key to whoever has the public checkpoint; do not publish it\n")


@pytest.mark.parametrize(
    ("sections", "read"),
    [
        ({"finetune": {"frequencies": 5, "momentum": 0.5}, "adversarial": {"steps": 7}}, False),
        ({"finetune": {"alpha": 5.0}}, True),
    ],
)
def test_a_parameter_that_nothing_read_may_have_changed(world, monkeypatch, capsys, sections, read):
    """LoRA by adamw, trained against no attack: what only other methods, optimisers or attacks read does not matter."""
    values = world.config.model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    (world.root / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(world.root)
    monkeypatch.setattr(sys, "argv", ["ppvit", "export", "hub"])
    with pytest.raises(SystemExit, match="1" if read else "0"):
        cli.run()
    told = capsys.readouterr().err
    assert ("finetune.alpha 16.0, params.yaml says 5.0; set it back" in told) == read
    assert (world.root / "hub/README.md").exists() != read


def test_push_by_command(world, monkeypatch):
    monkeypatch.chdir(world.root)
    (world.root / "params.yaml").write_text(yaml.safe_dump(world.config.model_dump()))
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        done = CliRunner().invoke(app, ["export", "hub", "--push", "digits", "--json"], catch_exceptions=False)
        told = json.loads(done.stdout)
        assert told == {"folder": "hub", "reveals_key": [], "pushed": f"{hub.address}/me/digits"}
        sent = hub.repositories["me/digits"]
        assert sent["README.md"] == (world.root / "hub/README.md").read_bytes()
        for words in (("--with-key-material", "--push", "digits"), ("--public",)):
            refused = CliRunner().invoke(app, ["export", "other", *words])
            assert isinstance(refused.exception, UsageError)
        received = b"".join(hub.received)
    assert not any(name.encode() in received for name in CLASSES)
    assert not any(form in received for form in forms_of_bytes(bytes(range(32))))
    assert not (world.root / "other").exists()
