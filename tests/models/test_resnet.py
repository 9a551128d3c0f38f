"""ResNets: the network for small images, normalisation, LoRA on convolutions, and the pipeline from adapt to export."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, write_raw
from torch import nn

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import NO_MODEL, Adversarial, Config
from ppvit.core.errors import UsageError
from ppvit.export import export
from ppvit.models import Backbone, load_backbone, load_model, model_input, save_model
from ppvit.models.adaptnet import add_adaptnet
from ppvit.models.attackable import attackable
from ppvit.models.batch_norm import batch_norm_names, set_batch_norm
from ppvit.models.stems import stem_of
from ppvit.places import Places
from ppvit.training.finetuning import finetune as train
from ppvit.tuners import (
    TUNERS,
    finetuned_id,
    load_adapter,
    load_finetuned,
    make_tuner,
    save_finetuned,
    trainable_parameters,
)
from ppvit.verbs import adapt, encrypt, evaluate, finetune, robustness, verify

MICRO = "resnet10_micro_cifar"
ON_CONVOLUTIONS = ("lora", "rslora", "dora", "hra", "ia3")
CLASSES = 3


def random_resnet(name: str = MICRO, seed: int = 0, **arguments) -> Backbone:
    """Random weights, biases and running statistics: timm's start would hide mistakes with them."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **arguments).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high)
    cfg = model.pretrained_cfg
    return Backbone(model, name, {**arguments, "num_classes": model.num_classes}, cfg["mean"], cfg["std"])


def adapted_resnet(folder, **arguments):
    """A folder as `adapt` writes it for cipher `none`."""
    backbone = random_resnet(**arguments)
    adapt_model(backbone, load_cipher(make_config(cipher={"name": "none"})))
    save_model(folder, backbone, {"key_id": None, "cipher": {"name": "none"}, "image_size": 32})
    return folder


def tuner_of(**settings):
    return make_tuner(make_config(finetune={"rank": 4, **settings}).finetune)


def images_of(count: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shift_trained(model: nn.Module, seed: int = 7) -> None:
    """Give everything that trains another value, as training would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


def test_shapes_of_the_stem_for_small_images():
    model = timm.create_model("resnet18_cifar").eval()
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    # He et al.'s ResNet-18 has 11,689,512 with 1000 classes; 64 * 3 * (49 - 9) fewer in the stem, 990 * 513 in the head
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512 - 64 * 3 * 40 - 990 * 513
    theirs = timm.create_model("resnet18").state_dict()
    assert model.state_dict().keys() == theirs.keys()


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet18_cifar.cifar100", MICRO, "resnet18"])
def test_load_backbone_builds_resnets(name, tmp_path):
    backbone = load_backbone(name, Path(NO_MODEL), 32, tmp_path / "unused", pretrained=False)
    assert "img_size" not in backbone.model_args
    assert backbone.model.num_classes == {"resnet18": 1000, "resnet18_cifar.cifar100": 100}.get(name, 10)
    assert backbone.mean == pytest.approx({"resnet18_cifar.cifar100": (0.5071, 0.4865, 0.4409)}.get(
        name, (0.485, 0.456, 0.406) if name == "resnet18" else (0.4914, 0.4822, 0.4465)
    ))  # fmt: skip


def test_small_resnets_have_no_weights_on_the_hub(tmp_path):
    with pytest.raises(UsageError, match="no pretrained weights of resnet18_cifar; set model.pretrained=false, or"):
        load_backbone("resnet18_cifar", Path(NO_MODEL), 32, tmp_path / "unused")


@pytest.mark.parametrize("name", [MICRO, "resnet18", "resnet26d"])
def test_normalisation_is_exact_at_the_border_too(name):
    backbone = random_resnet(name)
    measured = adapt_model(backbone, load_cipher(make_config(cipher={"name": "none"})))
    assert measured["max_logit_difference_float64"] < 1e-11
    assert measured["max_logit_difference_float32"] < 1e-3


def test_normalisation_against_the_plain_formula():
    backbone = random_resnet()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        expected = backbone.model((torch.from_numpy(pixels) / 255 - mean) / std)
        adapt_model(backbone, load_cipher(make_config(cipher={"name": "none"})))
        found = backbone.model(model_input(torch.from_numpy(pixels)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [None, 5])
def test_saved_and_loaded(classes, tmp_path):
    folder = adapted_resnet(tmp_path / "adapted")
    first, second = (load_model(folder, "adapt", classes) for _ in range(2))
    assert stem_of(first) == {"normalization": True}
    backbone = random_resnet()
    adapt_model(backbone, load_cipher(make_config(cipher={"name": "none"})))
    with torch.no_grad():
        if classes is None:
            assert torch.equal(first(images_of(2)), backbone.model(images_of(2)))
        else:
            assert first(images_of(2)).shape == (2, 5)
            features = [model.forward_features(images_of(2)) for model in (first, second, backbone.model)]
            assert torch.equal(features[0], features[1])
            assert torch.equal(features[0], features[2])


def test_without_a_normalisation_timm_alone_loads_the_folder(tmp_path):
    backbone = random_resnet("resnet18")
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    adapt_model(backbone, load_cipher(make_config(cipher={"name": "none"})))
    save_model(tmp_path / "adapted", backbone, {"image_size": 32})
    model = timm.create_model(f"local-dir:{tmp_path / 'adapted'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images_of(1)), backbone.model(images_of(1)))


@pytest.mark.parametrize("cipher", ["block", "shuffle", "neuracrypt"])
def test_no_key_can_be_put_into_a_resnet(cipher):
    with pytest.raises(UsageError, match="overlapping kernels.*set cipher.name=none, or adapt.enabled=false"):
        adapt_model(random_resnet(), load_cipher(make_config(cipher={"name": cipher})))


def test_unadapted_baseline_with_a_key():
    backbone = random_resnet()
    measured = adapt_model(backbone, load_cipher(make_config(cipher={"name": "block"})), enabled=False)
    assert measured["max_logit_difference_float64"] > 1e-3  # the cipher is not undone
    assert stem_of(backbone.model) == {"normalization": True}


@pytest.mark.parametrize(("rank", "lora", "percent"), [
    (2, 71_606, 0.637), (4, 143_212, 1.265), (8, 286_424, 2.499), (16, 572_848, 4.877)
])  # fmt: skip
def test_parameters_of_lora_on_all_convolutions(rank, lora, percent):
    """Shares of the LoFT paper's Table IV, 0.63, 1.27, 2.50 and 4.88 %, over the network and LoRA together."""
    model = timm.create_model("resnet18_cifar")
    base = sum(parameter.numel() for parameter in model.parameters())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    closed_form = sum(rank * (conv.kernel_size[0] ** 2 * conv.in_channels + conv.out_channels) for conv in convolutions)
    tuned = tuner_of(rank=rank).attach(model)
    assert trainable_parameters(tuned) - (512 * 10 + 10) == closed_form == lora
    assert 100 * lora / (base + lora) == pytest.approx(percent, abs=5e-4)


def test_targets_are_whole_names_and_the_head_is_none_of_them():
    model = timm.create_model("resnet18_cifar")
    tuned = tuner_of().attach(model)
    found = {name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
             for name, _ in tuned.named_parameters() if "lora_A" in name}  # fmt: skip
    fresh = timm.create_model("resnet18_cifar").named_modules()
    assert found == {name for name, module in fresh if isinstance(module, nn.Conv2d)}
    assert set(tuned.peft_config["default"].modules_to_save) == {"fc"}


def test_some_convolutions_by_their_ends():
    tuned = tuner_of(target_modules=["layer2.0.conv1", "downsample.0"]).attach(timm.create_model(MICRO))
    found = [name for name, _ in tuned.named_parameters() if "lora_A" in name]
    assert len(found) == 5
    with pytest.raises(UsageError, match="no ungrouped convolution ends in 'attn.qkv'; there are conv1, conv2"):
        tuner_of(target_modules=["attn.qkv"]).attach(timm.create_model(MICRO))


def test_grouped_convolutions_are_left_out():
    tuned = tuner_of().attach(timm.create_model("resnext50_32x4d"))
    wrapped = [module for module in tuned.modules() if isinstance(module, peft.tuners.lora.Conv2d)]
    assert len(wrapped) == 53 - 16  # one grouped convolution in each of 16 blocks
    assert {module.base_layer.groups for module in wrapped} == {1}


def test_dilated_convolutions_are_left_out():
    model = timm.create_model(MICRO, output_stride=8)
    dilated = [name for name, module in model.named_modules() if getattr(module, "dilation", None) == (4, 4)]
    tuned = tuner_of().attach(model)
    wrapped = {name for name, module in tuned.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert dilated
    assert not wrapped & set(dilated)
    assert tuned(images_of(1)).shape == (1, 10)


def test_patch_projections_are_left_out():
    """A ConvMixer's holds the key after adaptation; its convolutions over space are grouped."""
    tuned = tuner_of().attach(timm.create_model("convmixer_micro_patch4"))
    layers = [module.base_layer for module in tuned.modules() if isinstance(module, peft.tuners.lora.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(1, 1)] * 6


@pytest.mark.parametrize("name", [MICRO, "resnet26d"])
@pytest.mark.parametrize("mode", ["frozen", "stats", "affine"])
def test_what_trains_beside_lora(name, mode):
    """Every normalisation is copied once into the adapter, those of a stem of three convolutions too."""
    model = timm.create_model(name)
    channels = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    head = model.fc.weight.numel() + model.fc.bias.numel()
    tuned = set_batch_norm(tuner_of(batch_norm=mode).attach(model), mode)
    trained = [value for name, value in tuned.named_parameters() if value.requires_grad and "lora_" not in name]
    assert sum(value.numel() for value in trained) - head == (2 * sum(channels) if mode == "affine" else 0)
    saved = peft.get_peft_model_state_dict(tuned)
    statistics = sum(value.numel() for name, value in saved.items() if name.endswith("running_var"))
    assert statistics == (0 if mode == "frozen" else sum(channels))


@pytest.mark.parametrize("method", ON_CONVOLUTIONS)
def test_merged_equals_unmerged(method):
    # DoRA needs no other tolerance: its merged weight is what its forward pass computes
    tuned = tuner_of(method=method).attach(random_resnet().model).double().eval()
    with torch.no_grad():
        base = tuned(images_of(2).double())
        shift_trained(tuned)
        unmerged = tuned(images_of(2).double())
        merged = tuned.merge_and_unload()(images_of(2).double())
    assert (unmerged - base).abs().max() > 1e-3
    assert (merged - unmerged).abs().max() < 1e-10


@pytest.mark.parametrize("mode", ["frozen", "stats", "affine"])
@pytest.mark.parametrize("method", [*ON_CONVOLUTIONS, "full", "linear"])
def test_reloaded_logits_are_identical(method, mode, tmp_path):
    folder, tuner = adapted_resnet(tmp_path / "adapted"), tuner_of(method=method, batch_norm=mode)
    model = set_batch_norm(tuner.attach(load_model(folder, "adapt", CLASSES)), mode)
    model.train()
    model(images_of(8))  # running statistics move, where they may
    shift_trained(model)
    model.eval()
    record = {"method": method, "num_classes": CLASSES, "key_id": None, "cipher": {"name": "none"}, "image_size": 32}
    save_finetuned(tuner, model, tmp_path / "finetuned", folder, record)
    with torch.no_grad():
        expected = model(images_of(4))
        if method in ON_CONVOLUTIONS:
            unmerged = load_adapter(folder, tmp_path / "finetuned", CLASSES)
            assert torch.equal(unmerged(images_of(4)), expected)
            stock = peft.PeftModel.from_pretrained(load_model(folder, "adapt", CLASSES), str(tmp_path / "finetuned"))
            assert torch.equal(stock.eval()(images_of(4)), expected)
            expected = model.merge_and_unload()(images_of(4))
        assert torch.equal(load_finetuned(folder, tmp_path / "finetuned", CLASSES)(images_of(4)), expected)


def test_which_methods_work_without_linear_layers():
    assert {name for name, tuner in TUNERS.items() if tuner.convolutions} >= {*ON_CONVOLUTIONS, "full", "linear"}


@pytest.mark.parametrize("method", [name for name, tuner in TUNERS.items() if not tuner.convolutions])
def test_methods_for_linear_layers_say_so(method):
    works = ", ".join(name for name, tuner in TUNERS.items() if tuner.convolutions)
    with pytest.raises(UsageError, match=rf"(works without: {works}|finetune\.method=full)$"):
        tuner_of(method=method).attach(random_resnet().model)


@pytest.mark.parametrize(
    ("name", "adaptnet"),
    [
        (MICRO, "le"),
        (MICRO, "ele"),
        *((name, "none") for name in (MICRO, "resnet18", "resnet26d", "resnet50", "seresnet18", "resnetblur18")),
    ],
)
def test_a_model_under_attack_is_the_same_function_of_pixels(name, adaptnet):
    model = random_resnet(name, num_classes=CLASSES).model
    if adaptnet != "none":
        add_adaptnet(model, adaptnet, 8, 25)
    model.double().eval()
    pixels = torch.rand(2, 3, 40, 40, dtype=torch.float64, requires_grad=True)
    expected = model(pixels)
    gradient = torch.autograd.grad(expected.logsumexp(-1).sum(), pixels)[0]
    attacked = attackable(model, torch.device("cpu"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in attacked.modules())
    assert not any(module.training for module in attacked.modules())
    assert not any(parameter.requires_grad for parameter in attacked.parameters())
    logits = attacked(pixels)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(logits.logsumexp(-1).sum(), pixels)[0], gradient, rtol=1e-11, atol=1e-14
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Plain shards of noise whose brightness tells the class, and a random ResNet adapted to no key."""
    folder = tmp_path_factory.mktemp("resnet")
    config = make_config(cipher={"name": "none"}, model={"name": MICRO, "pretrained": False})
    places = make_places(folder, config)
    write_raw(places.raw, {"train": 30, "test": 12}, size=32)
    encrypt.run(config, places)
    adapt.run(config, places)
    return places, config


def places_of(world, tmp_path: Path) -> Places:
    """What is trained and measured goes into the test's own folder."""
    shared, own = world[0], make_places(tmp_path)
    return replace(own, raw=shared.raw, encrypted=shared.encrypted, adapted=shared.adapted)


def with_settings(world, **sections: dict) -> Config:
    """The world's configuration with other sections."""
    chosen = make_config(**sections)
    return world[1].model_copy(update={name: getattr(chosen, name) for name in sections})


@pytest.mark.parametrize(("method", "mode"), [("lora", "frozen"), ("lora", "affine"), ("full", "stats")])
def test_pipeline(method, mode, world, tmp_path):
    places = places_of(world, tmp_path)
    chosen = {"method": method, "batch_norm": mode, "rank": 4, "epochs": 6, "batch_size": 10, "learning_rate": 5e-3}
    config = with_settings(world, finetune=chosen)
    for stage in (finetune, evaluate, verify):
        stage.run(config, places)
    results = {name: read_result(places, name) for name in ("evaluate", "verify")}
    assert results["evaluate"]["accuracy_percent"] > 60  # a third is chance
    assert results["verify"]["accuracy_percent"] == results["evaluate"]["accuracy_percent"]
    assert results["verify"]["plain_accuracy_percent"] == results["evaluate"]["accuracy_percent"]
    base = load_model(places.adapted, "adapt", CLASSES)
    tuned = load_finetuned(places.adapted, places.finetuned, CLASSES)
    for name in batch_norm_names(base):
        before, after = base.get_submodule(name), tuned.get_submodule(name)
        assert torch.equal(before.running_mean, after.running_mean) == (mode == "frozen")
        assert torch.equal(before.weight, after.weight) == (mode != "affine")


@pytest.mark.parametrize("mode", ["frozen", "stats", "affine"])
def test_a_resnet_is_trained_against_an_attack_and_attacked(mode, world, tmp_path):
    """The attack is in eval mode, so it moves no statistics; a wide ball leaves nothing of what was learnt."""
    places = places_of(world, tmp_path)
    config = with_settings(
        world,
        finetune={"batch_norm": mode, "rank": 2, "epochs": 1, "batch_size": 15, "adversarial": "trades"},
        adversarial={"steps": 2, "step_size": 4},
        robustness={"attack": "pgd", "images": 6, "epsilon": 128, "step_size": 16, "epsilons": [128]},
    )
    finetune.run(config, places)
    trained = read_result(places, "finetune")
    assert trained["train_loss"] == pytest.approx(trained["train_natural_loss"] + 6 * trained["train_robust_loss"])
    robustness.run(config, places)
    measured = read_result(places, "robustness")
    assert measured["headline_accuracy_percent"] == 0
    base = load_model(places.adapted, "adapt", CLASSES)
    tuned = load_finetuned(places.adapted, places.finetuned, CLASSES)
    means = [model.get_submodule("bn1").running_mean for model in (base, tuned)]
    assert torch.equal(*means) == (mode == "frozen")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_was_trained_on_ciphertext_in_the_first_layer_is_key_material(method, tmp_path):
    config = make_config(
        cipher={"name": "block"},
        model={"name": MICRO, "pretrained": False},
        adapt={"enabled": False},
        finetune={"method": method, "rank": 2, "epochs": 1, "batch_size": 6},
    )
    places = make_places(tmp_path, config)
    write_raw(places.raw, {"train": 12, "test": 6}, size=32)
    for stage in (encrypt, adapt, finetune, evaluate, verify):
        stage.run(config, places)
    verified = read_result(places, "verify")
    assert "wrong_key_accuracy_percent" in verified
    assert "plain_accuracy_percent" not in verified  # there is no adaptation to undo
    with pytest.raises(UsageError, match=r"reveal the key .*conv1\.1"):
        export(config, places, tmp_path / "hub")
    revealing = export(config, places, tmp_path / "hub", with_key_material=True)
    assert revealing
    assert not any("layer" in name for name in revealing)


@pytest.mark.parametrize(("method", "mode"), [("lora", "affine"), ("full", "stats")])
def test_resumed_run_has_the_same_statistics(method, mode, world, tmp_path):
    places = places_of(world, tmp_path)
    chosen = {"method": method, "batch_norm": mode, "rank": 2, "epochs": 3, "batch_size": 10}
    settings = make_config(finetune=chosen).finetune

    def stop(epoch, metrics):
        if epoch == 2:
            raise KeyboardInterrupt

    def run(name, log=None):
        trained = train(settings, Adversarial(), places.encrypted, places.adapted, log)
        save_finetuned(trained.tuner, trained.model, tmp_path / name, places.adapted, trained.record)
        trained.written()

    run("uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        run("resumed", stop)
    epochs = []
    run("resumed", lambda epoch, metrics: epochs.append(epoch))
    assert epochs == [1, 2, 3]  # earlier ones are told again
    assert finetuned_id(tmp_path / "resumed") == finetuned_id(tmp_path / "uninterrupted")


@pytest.mark.parametrize(("method", "mode"), [("lora", "affine"), ("linear", "frozen"), ("full", "stats")])
def test_export_loads_as_its_card_says(method, mode, world, tmp_path):
    places = places_of(world, tmp_path)
    chosen = {"method": method, "batch_norm": mode, "rank": 2, "epochs": 1, "batch_size": 10}
    config = with_settings(world, finetune=chosen)
    finetune.run(config, places)
    evaluate.run(config, places)
    assert export(config, places, tmp_path / "hub") == []  # no key, so nothing reveals one
    card = (tmp_path / "hub" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    code = code.replace('"models/adapted"', repr(str(places.adapted))).replace(
        'FOLDER = "."', f"FOLDER = {str(tmp_path / 'hub')!r}"
    )
    found = {}
    exec(code, found)  # classifies a black image
    with torch.inference_mode():
        expected = load_finetuned(places.adapted, places.finetuned, CLASSES)(-torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(found["logits"], expected, rtol=1e-5, atol=1e-5)
    assert f"batch_norm: {mode}" in card
    assert "vision-transformer" not in card
    assert "attn.qkv" not in card
