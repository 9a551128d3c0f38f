"""Names and values that do not fit are found when parameters are loaded, with the nearest name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import make_config

from ppvit.adaptation.adapt import require_adaptable
from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import NO_DATA, load, parameters
from ppvit.config.choices import CHOICES, names_of
from ppvit.config.fitting import refusals_to_come, require_encryptable
from ppvit.config.networks import names, network, require_network
from ppvit.config.parsing import parse
from ppvit.core.declared import declared
from ppvit.core.errors import PpvitError, UsageError, brief
from ppvit.datasets import DATASETS, open_source
from ppvit.models import hub
from ppvit.models.names import MICRO, MICRO_ARCHITECTURE
from ppvit.pipeline import STAGES
from ppvit.pipeline.settings import write_settings
from ppvit.places import Places
from ppvit.tuners import TUNERS
from ppvit.tuners.base import linear_layers

ROOT = Path(__file__).parents[2]


def refused(*overrides: str) -> str:
    """The line in which parameters are refused, by what every stage of the owner does first."""
    with pytest.raises(UsageError) as caught:
        require_encryptable(load(ROOT / "params.yaml", overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cipher.name=blok", "unknown cipher.name 'blok'; did you mean 'block'?"),
        ("cipher.name=Block", "unknown cipher.name 'Block'; did you mean 'block'?"),
        ("cipher.name=xyzzy", "unknown cipher.name 'xyzzy'; there are block, block_np, "),
        ("finetune.method=lorra", "unknown finetune.method 'lorra'; did you mean 'lora'?"),
        ("finetune.recipe=loff", "unknown finetune.recipe 'loff'; did you mean 'loft'?"),
        ("dataset.name=cifar", "unknown dataset.name 'cifar'; did you mean 'cifar10'?"),
        ("dataset.name=cifar 10", "must be letters, digits, - and _ alone, got 'cifar 10'; did you mean 'cifar10'?"),
        ("dataset.name=pathmnist_64", "set dataset.name=pathmnist and dataset.source_size=64"),
        ("augment.names=[mixup, cutmix]", "unknown augment.names 'cutmix'; did you mean 'cutmix_blocks'?"),
        ("augment.names=mixup", "input should be a valid list, got 'mixup'; write [mixup]"),
        ("audit.attacks=[weigths]", "unknown audit.attacks 'weigths'; did you mean 'weights'?"),
        ("he.algorithm=tile", "got 'tile'; did you mean 'tiles'?"),
        ("pretrain.method=byoll", "got 'byoll'; did you mean 'byol'?"),
        ("encrypt.view_recipe=flipcrop", "got 'flipcrop'; did you mean 'flip_crop'?"),
        ("encrypt.view_key_id=mine", "must be a key id such as pk-0123456789abcdef"),
        ("robustness.attack=fast", "input should be 'pgd', 'quick' or 'full', got 'fast'"),
        ("threats.surrogates=1", "input should be greater than or equal to 3, got 1; it takes 3 to 100"),
        ("audit.known_pairs=[0]", "got 0; it takes 1 to 100,000"),
        ("adapt.enabled=yes", "got 'yes'; write true or false"),
        ("model.mean=nane", "input should be a valid list, got 'nane'; it takes a list or none; did you mean 'none'?"),
        ("model.mean=0.5", "input should be a valid list, got 0.5; write [0.5, 0.5, 0.5] or none"),
        ("audit.known_pairs=3", "input should be a valid list, got 3; write [3]"),
        ("audit.pooled_images=20", "input should be a valid list, got 20; write [20]"),
        ("audit.known_pairs=0", "input should be a valid list, got 0; it takes a list, each 1 to 100,000"),
        ("finetune.target_modules=[attn.qvk]", "no linear layer ends in 'attn.qvk'; there are attn.proj, attn.qkv, "),
        ("finetune.target_modules=[attn.qvk]", "mlp.fc2; did you mean 'attn.qkv'?"),
        ("finetune.target_modules=[blocks.4.mlp.fc1]", "no linear layer ends in 'blocks.4.mlp.fc1'"),
        ("finetune.target_modules=[attn.q]", "no linear layer ends in 'attn.q'"),
        ("model.name=nope", "unknown model.name 'nope'; take vit_micro_patch4_32, "),
        ("model.name=vit_tinny_patch16_224", "did you mean vit_tiny_patch16_224, "),
        (
            "model.name=vit_base_patch16_224.augreg_in2k",
            "timm's vit_base_patch16_224 has no weights of that name; did you mean vit_base_patch16_224.augreg_in21k, ",
        ),
        ("model.name=convmixer_256_9", "write convmixer_256_9_p4 for 4 px"),
        ("finetune.image_size=64", "did you mean 'batch_size'? (dataset.image_size is in another section)"),
        ("+finetune.rank=4", "begins with +, which only `dvc exp run -S` knows; leave it out"),
        ("rank=4", "is not of the form section.name=value, such as cipher.name=block_np; did you mean finetune.rank?"),
    ],
)
def test_a_name_that_there_is_not_is_told_with_the_nearest(override: str, told: str):
    assert told in refused(override)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["cipher.block_size=8"],
            "patches of model.name vit_micro_patch4_32 have 4 pixels a side; set cipher.block_size=4",
        ),
        (
            ["model.name=vit_base_patch16_224"],
            "have 16 pixels a side; set cipher.block_size=16, or adapt.enabled=false",
        ),
        (
            ["model.name=vit_small_patch14_dinov2"],
            "block_size=14 and dataset.image_size to a multiple of it, such as 98",
        ),
        (["model.name=convmixer_256_8_p2"], "have 2 pixels a side; set cipher.block_size=2"),
        (["model.name=resnet18"], "finetune.method lora"),
        (
            ["model.name=resnet18", "finetune.method=full"],
            "overlapping kernels, so that it cannot be adapted to cipher",
        ),
        (["model.name=resnet18", "cipher.name=none", "finetune.method=melo"], "set finetune.method to one of "),
        (
            ["model.name=swin_base_patch4_window7_224", "finetune.method=vpt_deep"],
            "finetune.method vpt_deep needs a plain Vision Transformer, and model.name swin_base",
        ),
        (["model.adaptnet=le"], "model.adaptnet le is for PyramidNets and ResNets"),
        (["model.adaptive_matrix=true"], "model.adaptive_matrix is for ConvMixers"),
        (["cipher.name=disposable"], "no exact adaptation exists for cipher.name disposable, because every image"),
        (["cipher.name=subblock_etc", "cipher.sub_block_size=3"], "cipher.sub_block_size 3 does not divide"),
        (["cipher.name=subblock_etc", "cipher.key_scope=image"], "cipher.key_scope 'image' does not exist for cipher"),
        (
            ["cipher.name=orthogonal", "finetune.adversarial=at"],
            "keeps Euclidean distances only; set adversarial.norm=l2",
        ),
        (["cipher.name=le", "augment.names=[mixup]"], "'mixup' does not commute with cipher.name le"),
        (["finetune.adversarial=trades", "adversarial.branch=lora"], "set finetune.method=full, not lora"),
        (["cipher.key_id=pk-0123456789abcdef", "encrypt.views=2"], "encrypt.view_key_id is the public demo key"),
        (["finetune.gradient_checkpointing=true", "finetune.batch_norm=stats"], "every image would count twice"),
        (
            ["finetune.method=vpt_deep", "finetune.target_modules=[attn.qkv]"],
            "vpt_deep puts prompts into every block; leave finetune.target_modules empty",
        ),
        (
            ["dataset.val_fraction=0", "finetune.patience=3"],
            "finetune.patience 3 needs validation images, and there will be none with dataset.val_fraction 0",
        ),
        (
            ["dataset.name=emnist", "dataset.val_fraction=0", "finetune.schedule=halving", "finetune.adversarial=at"],
            "finetune.schedule halving needs validation images",
        ),
        (  # whatever it brings is trained on
            ["dataset.name=pathmnist", "dataset.own_val=train", "dataset.val_fraction=0", "finetune.patience=3"],
            "raise it, or set finetune.patience=0",
        ),
    ],
)
def test_values_that_do_not_go_together_are_told(overrides: list[str], told: str):
    if "finetune.method lora" in told:  # which works on convolutions
        assert "overlapping" in refused(*overrides)
        return
    assert told in refused(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["cipher.block_size=8", "adapt.enabled=false"],
        ["model.name=vit_base_patch16_224.augreg_in21k", "cipher.block_size=16", "dataset.image_size=224"],
        ["model.name=vit_tiny_patch16_224_in21k", "cipher.block_size=16"],  # a name that timm keeps for old code
        ["model.name=resnet18_cifar.cifar10", "cipher.name=none", "finetune.method=full"],
        ["model.name=pyramidnet_20_24", "cipher.name=ele", "adapt.enabled=false", "finetune.method=full"],
        ["model.name=convmixer_256_8", "cipher.block_size=1", "finetune.method=full", "cipher.name=shuffle"],
        ["cipher.name=neuracrypt", "adapt.enabled=false", "finetune.method=full"],
        ["audit.attacks=[all]", "finetune.recipe=loft"],
        ["finetune.target_modules=[qkv, blocks.3.mlp.fc2]"],
        ["finetune.method=aoft_lora", "finetune.target_modules=[attn.q, blocks.0.attn.k]"],  # rows of layers
        ["finetune.method=full", "finetune.target_modules=[attn.qvk]"],  # which nothing reads
        ["dataset.val_fraction=0", "finetune.select=best"],
        ["dataset.name=pathmnist", "dataset.val_fraction=0", "finetune.patience=3"],
        ["dataset.name=imagefolder", "dataset.path=data/local/x", "dataset.val_fraction=0", "finetune.patience=3"],
        ["dataset.name=emnist", "dataset.path=data/local/x", "dataset.val_fraction=0", "finetune.patience=3"],
    ],
)
def test_values_that_go_together_are_taken(overrides: list[str]):
    require_encryptable(load(ROOT / "params.yaml", overrides))


@pytest.mark.parametrize("parameter", CHOICES)
def test_names_read_from_sources_are_those_of_the_registry(parameter: str):
    choice = CHOICES[parameter]
    assert names_of(parameter) == [*choice.besides, *sorted(choice.registered())]
    assert set(declared(choice.folder, choice.decorator).facts) <= set(choice.registered())


def test_facts_read_from_sources_are_those_of_the_methods():
    for name, facts in declared("tuners").facts.items():
        assert facts.get("convolutions", False) == TUNERS[name].convolutions
        assert facts.get("plain_vit", False) == TUNERS[name].plain_vit


def test_layers_of_the_embedded_network_are_those_that_take_an_adapter():
    with torch.device("meta"):
        model = timm.create_model(MICRO_ARCHITECTURE, **MICRO)
    found = network("vit_micro_patch4_32")
    assert found is not None
    assert list(found.linear) == linear_layers(model)


def test_data_sets_without_validation_images_bring_none(tmp_path):
    for name, brings in (("digits", False), ("dsprites_standin", True)):
        assert (open_source(name, NO_DATA, tmp_path, 0.2, 0).val is not None) == brings
        assert getattr(DATASETS[name], "brings_val", True) == brings


@pytest.mark.parametrize("name", [name for name, default, _ in parameters() if isinstance(default, list)])
def test_a_list_that_an_error_tells_to_write_is_taken(name: str):
    for item in (3, 0.5, "attn.qkv", "mixup", "all"):
        with pytest.raises(UsageError) as caught:
            load(ROOT / "params.yaml", [f"{name}={item}"])
        if written := re.search(r"; write (\[.*\])", str(caught.value)):
            assert parse(written[1]) == [item] * (3 if name in ("model.mean", "model.std") else 1)
        else:
            assert "; it takes a list" in str(caught.value)


def test_names_of_networks_are_timms():
    ours = {"vit_micro_patch4_32"}
    listed = {each.partition(":")[2] or each for each in timm.list_models()} | set(timm.models.list_models())
    there = {each for each in listed if timm.model_entrypoint(each).__module__.startswith("timm.")}  # tests add others
    assert names() >= there
    assert {name for name in names() - ours if not timm.is_model(name.partition(".")[0])} == set()
    for name in timm.list_pretrained()[::40]:
        require_network(name)


def test_patches_read_from_sources_are_those_of_the_networks():
    for name in ("vit_tiny_patch16_224", "deit_small_patch16_224", "vit_base_patch32_384", "mixer_b16_224"):
        with torch.device("meta"):
            model = timm.create_model(name)
        found = network(name)
        assert found is not None
        layer = model.stem if name.startswith("mixer") else model.patch_embed
        assert found.patch == layer.proj.kernel_size[0]
        assert found.plain_vit == isinstance(model, timm.models.VisionTransformer)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("cipher", sorted(CIPHERS))
def test_what_is_refused_at_the_start_is_what_adaptation_refuses(name: str, cipher: str):
    config = make_config(
        cipher={"name": cipher, "block_size": 16},
        dataset={"image_size": 32},
        model={"name": name},
        finetune={"method": "full"},
    )
    lines = []
    model = timm.create_model(name, **({"img_size": 32} if name[0] == "v" else {}))
    for check in (lambda: require_encryptable(config), lambda: require_adaptable(model, load_cipher(config))):
        try:
            check()
            lines.append("")
        except UsageError as error:
            lines.append(str(error))
    assert bool(lines[0]) == bool(lines[1]), lines


def test_stages_to_come_are_told_of():
    config = load(ROOT / "params.yaml", ["cipher.name=orthogonal"])
    assert refusals_to_come(config) == [
        "robustness: cipher.name orthogonal keeps Euclidean distances only; set robustness.norm=l2"
    ]
    config = load(ROOT / "params.yaml", ["he.mode=refresh", "he.patience=2", "dataset.val_fraction=0"])
    assert refusals_to_come(config) == [
        "he: he.patience 2 needs validation images, and there will be none with dataset.val_fraction 0; raise it"
    ]
    assert refusals_to_come(load(ROOT / "params.yaml")) == []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], []),
        (["dataset.name=emnist", "dataset.subset=letters"], []),
        (["dataset.subset=foo"], ["dataset.subset foo: nothing reads it with dataset.name digits"]),
        (["dataset.source_size=64"], ["dataset.source_size 64: nothing reads it with dataset.name digits"]),
        (
            ["dataset.val_fraction=0", "finetune.select=best"],
            [
                "the last epoch will be kept: the best one needs validation images, and there will be none with "
                "dataset.val_fraction 0"
            ],
        ),
    ],
)
def test_values_without_effect_are_told_of(overrides, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_settings(load(ROOT / "params.yaml", overrides))
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "finetune will stop" not in line] == [f"note: {line}" for line in told]


def test_loading_imports_neither_torch_nor_timm():
    code = (
        "import sys; from ppvit.config import load\n"
        "try: load('params.yaml', sys.argv[1:])\n"
        "except Exception as error: print(error)\n"
        "print({'torch', 'timm', 'peft', 'ppvit.ciphers'} & set(sys.modules))"
    )
    for override in ("model.name=nope", "finetune.method=lorra", "finetune.epochs=1"):
        done = subprocess.run(
            [sys.executable, "-c", code, override], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["dataset.name=emnist", "dataset.subset=lettrs"],
            "emnist has balanced, .* but no 'lettrs'; did you mean 'letters'",
        ),
        (["dataset.name=dsprites_standin", "dataset.subset=locaton"], "but no 'locaton'; did you mean 'location'"),
        (["dataset.name=imagefolder"], "dataset.name=imagefolder needs images: set dataset.path to class folders"),
        (["dataset.name=webdataset"], "dataset.name=webdataset needs shards: set dataset.path"),
        (["dataset.name=huggingface"], "dataset.name=huggingface needs a data set: set dataset.path"),
        (["dataset.name=vtab_cifar100"], "dataset.name=vtab_cifar100 is not fetched: set dataset.path"),
        (["dataset.name=fgvc_cars"], "dataset.name=fgvc_cars is not fetched: set dataset.path"),
        (["dataset.path=data/local/full"], "dataset.name=digits takes no dataset.path"),
        (["dataset.name=imagefolder", "dataset.path=data/local/empty"], "data/local/empty is an empty folder"),
        (["dataset.name=imagefolder", "dataset.path=data/local/full/a.txt"], "is neither a folder nor a tar or zip"),
        (["dataset.own_val=train"], "dataset.own_val=train: digits brings no validation images"),
        (["dataset.name=organmnist3d"], "holds volumes, not images; set dataset.slices=middle"),
        (["dataset.name=imagefolder", "dataset.path=data/local/nope"], "dataset.path: data/local/nope does not exist"),
        (["model.checkpoint=models/local/nope.pth"], "model.checkpoint: models/local/nope.pth does not exist"),
        (["cipher.name=disposable"], "no exact adaptation exists"),
    ],
)
def test_the_first_stage_refuses_and_leaves_settings_as_they_are(overrides, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/local/empty").mkdir(parents=True)
    Path("data/local/full").mkdir()
    Path("data/local/full/a.txt").touch()
    path = tmp_path / "settings.json"
    path.write_text("as it was")
    config = load(ROOT / "params.yaml", overrides)
    with pytest.raises(UsageError, match=told):
        write_settings(config, path)
    assert path.read_text() == "as it was"


def test_a_path_that_was_run_may_be_gone(tmp_path, monkeypatch):
    """A trainer has not the images of the owner."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("stages:\n  download:\n    deps:\n    - path: data/local/mine\n      size: 1\n")
    write_settings(load(ROOT / "params.yaml", ["dataset.name=imagefolder", "dataset.path=data/local/mine"]))
    assert Path("settings.json").exists()


@pytest.mark.parametrize("stage", ["verify", "audit", "threats"])
def test_a_trainer_is_told_what_there_is_for_him(stage, tmp_path):
    config = load(ROOT / "params.yaml")
    with pytest.raises(PpvitError, match="which the owner alone has. Owner: run dvc repro download. Trainer: "):
        STAGES[stage].run_as_asked(config, Places.of(config, raw=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError(101), "it is damaged or cut short"),
        (ValueError("cannot identify image file <_io.BytesIO object at 0x7f>"), "cannot identify image file"),
        (ValueError("a\n b"), "it is damaged or cut short"),
        (OSError("Truncated\nfile"), "Truncated file"),
    ],
)
def test_what_libraries_say_is_told_in_words(error, told):
    assert brief(error) == told


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answers", lambda address: False)
    with pytest.raises(ConnectionError, match="does not answer, and they are not in the cache"), hub.tried_once():
        assert constants.HF_HUB_OFFLINE
        raise OSError
    assert not constants.HF_HUB_OFFLINE
