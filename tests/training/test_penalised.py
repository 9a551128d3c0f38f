"""Terms of the loss of learned layers: their weights, what is measured, the whole way from views to export, resume."""

import re

import pytest
import timm
import torch
from conftest import make_config, make_places, read_result, write_raw
from torch.nn import functional

from ppvit.ciphers import make_cipher
from ppvit.config import Adversarial, Finetune
from ppvit.core.errors import UsageError
from ppvit.evaluation.owner_checks import learned_order_percent
from ppvit.export import export
from ppvit.models import load_model, read_record
from ppvit.models.adaptive import AdaptivePermutation
from ppvit.models.adaptnet import add_adaptnet
from ppvit.models.stems import add_adaptive_matrix
from ppvit.models.tasks import MULTICLASS
from ppvit.pipeline import STAGES
from ppvit.training.finetuning import finetune as train
from ppvit.training.objective import Objective
from ppvit.training.penalised import PenalisedObjective, objective_of, require_none
from ppvit.tuners import finetuned_id, load_finetuned, save_finetuned
from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune, verify


def pyramidnet(kind: str = "ele"):
    torch.manual_seed(0)
    model = timm.create_model("pyramidnet", depth=8, alpha=6, shake_drop=0.0)
    add_adaptnet(model, kind, 4, 16)
    return model


def test_the_loss_is_cross_entropy_and_weighted_terms():
    model, images, labels = pyramidnet(), torch.rand(6, 3, 16, 16), torch.arange(6)
    objective = objective_of(model, Finetune(permutation_penalty=2.0, smoothness_penalty=3.0), MULTICLASS)
    assert isinstance(objective, PenalisedObjective)
    front = model.conv1[0]
    front.asked = True
    logits = model(images)
    terms = {name: value.item() for name, value in front.penalties.items()}
    model.load_state_dict(pyramidnet().state_dict())  # its running statistics have moved
    loss, measured = objective.loss(model, images, labels)
    expected = functional.cross_entropy(logits, labels).item() + 2 * terms["permutation"] + 3 * terms["smoothness"]
    assert loss.item() / 6 == pytest.approx(expected, rel=1e-5)
    names = ("train_loss", "train_accuracy_percent", "train_permutation_loss", "train_smoothness_loss")
    assert objective.measures == names
    assert float(measured[2]) / 6 == pytest.approx(terms["permutation"], rel=1e-5)
    assert float(measured[3]) / 6 == pytest.approx(terms["smoothness"], rel=1e-5)
    loss.backward()
    assert front.matrix.grad.abs().max() > 0
    assert front.penalties == {}  # no graph stays behind
    assert 0 < objective.end_epoch({})["train_permutation_distance_percent"] < 100


def test_models_without_such_layers_have_the_loss_of_the_task():
    settings = Finetune()
    assert type(objective_of(timm.create_model("resnet10_micro_cifar"), settings, MULTICLASS)) is Objective
    assert type(objective_of(pyramidnet().requires_grad_(False), settings, MULTICLASS)) is Objective
    assert type(objective_of(pyramidnet("le"), settings, MULTICLASS)) is Objective


def test_the_temperature_falls_by_the_same_share_every_epoch():
    model = timm.create_model("convmixer", dim=8, depth=1, kernel_size=3, patch_size=4)
    add_adaptive_matrix(model, 16, "sinkhorn")
    objective = objective_of(model, Finetune(epochs=4), MULTICLASS)
    temperatures = []
    for epoch in range(4):
        objective.begin_step(epoch, 0)
        temperatures.append(float(model.stem[-1].temperature))
    assert temperatures == pytest.approx([0.05 ** (epoch / 4) for epoch in (1, 2, 3, 4)])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards under ele with two views of each image, and a PyramidNet with Madono's AdaptNet."""
    config = make_config(
        dataset={"image_size": 16},
        cipher={"name": "ele"},
        encrypt={"views": 2},
        model={"name": "pyramidnet_8_6", "pretrained": False, "adaptnet": "ele"},
        adapt={"enabled": False},
        finetune={"method": "full", "batch_norm": "affine", "epochs": 2, "batch_size": 10, "learning_rate": 0.01},
        verify={"wrong_keys": 1},
    )
    places = make_places(tmp_path_factory.mktemp("pyramid"), config)
    write_raw(places.raw, {"train": 31, "test": 12})  # the last batch is of one image
    for stage in (encrypt, adapt, finetune, evaluate, verify):
        stage.run(config, places)
    return config, places


def test_from_views_to_export(world, tmp_path):
    config, places = world
    trained = read_result(places, "finetune")
    assert 0 < trained["train_permutation_distance_percent"] < 100
    assert trained["train_loss"] > 0.1 * trained["train_smoothness_loss"] > 0
    results = [read_result(places, stage) for stage in ("evaluate", "verify")]
    assert results[0]["accuracy_percent"] == results[1]["accuracy_percent"]
    assert 0 <= results[1]["learned_order_percent"] < 50
    revealing = export(config, places, tmp_path / "hub", with_key_material=True)
    assert "conv1.1.0.matrix" in revealing
    assert not any("stages" in name for name in revealing)
    card = (tmp_path / "hub" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    code = code.replace('"models/adapted"', repr(str(places.adapted)))
    found = {}
    exec(code.replace('FOLDER = "."', f"FOLDER = {str(tmp_path / 'hub')!r}"), found)
    with torch.inference_mode():
        expected = load_finetuned(places.adapted, places.finetuned, 3)(-torch.ones(1, 3, 16, 16))
    torch.testing.assert_close(found["logits"], expected)


def test_the_start_is_always_the_same(world, tmp_path):
    config, places = world
    again = make_places(tmp_path, config, raw=places.raw)
    adapt.run(config, again)
    states = [load_model(folder, "adapt").state_dict() for folder in (places.adapted, again.adapted)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert read_record(again.adapted, "adapt")["model"] == "pyramidnet_8_6"


def test_a_resumed_run_ends_with_the_same_weights(world, tmp_path):
    """With ShakeDrop, spectral norms and statistics of batch normalisation."""
    config, places = world

    def stop(epoch, metrics):
        if epoch == 1:
            raise KeyboardInterrupt

    def run(log=None):
        trained = train(config.finetune, Adversarial(), places.encrypted, places.adapted, log)
        save_finetuned(trained.tuner, trained.model, tmp_path / "again", places.adapted, trained.record)
        trained.written()

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    run()
    assert finetuned_id(tmp_path / "again") == finetuned_id(places.finetuned)


def test_an_attack_leaves_no_place_for_terms():
    convmixers = [timm.create_model("convmixer", dim=8, depth=1, kernel_size=3, patch_size=4) for _ in range(3)]
    for model, form in zip(convmixers, ("free", "l12", "sinkhorn"), strict=True):
        add_adaptive_matrix(model, 16, form)
    for model in (pyramidnet(), *convmixers[1:]):
        with pytest.raises(UsageError, match="adversarial at has no terms for .*; set finetune.adversarial=none"):
            require_none(model, "at")
    for model in (pyramidnet("le"), convmixers[0]):
        require_none(model, "at")


def test_only_what_is_read_is_in_the_settings():
    def read(**sections):
        narrowed = STAGES["finetune"].narrowed(make_config(**sections)).finetune.model_fields_set
        return {name for name in ("permutation_penalty", "smoothness_penalty", "nesterov") if name in narrowed}

    assert read() == set()
    assert read(model={"adaptnet": "le"}, finetune={"optimizer": "sgd"}) == {"nesterov"}
    assert read(model={"adaptnet": "ele"}) == {"permutation_penalty", "smoothness_penalty"}
    assert read(model={"adaptive_matrix": True, "matrix_form": "l12"}) == {"permutation_penalty"}
    assert read(model={"adaptive_matrix": True, "matrix_form": "sinkhorn"}) == set()
    adapts = STAGES["adapt"].narrowed(make_config(model={"name": "pyramidnet_20_24"})).model.model_fields_set
    assert "shake_drop" in adapts
    assert not {"shake_drop", "matrix_form"} & STAGES["adapt"].narrowed(make_config()).model.model_fields_set


@pytest.mark.parametrize("form", ["l12", "sinkhorn"])
def test_convmixers_with_a_matrix_of_another_form(form, tmp_path):
    model = {"name": "convmixer_8_1_ks3_p4", "pretrained": False, "adaptive_matrix": True, "matrix_form": form}
    config = make_config(
        dataset={"image_size": 16},
        cipher={"name": "block_np"},
        model=model,
        adapt={"enabled": False},
        finetune={"method": "full", "batch_norm": "affine", "epochs": 2, "batch_size": 15, "learning_rate": 0.01},
    )
    places = make_places(tmp_path, config)
    write_raw(places.raw, {"train": 30, "test": 12})
    for stage in (encrypt, adapt, finetune, evaluate):
        stage.run(config, places)
    trained = read_result(places, "finetune")
    assert ("train_permutation_loss" in trained) == (form == "l12")
    layer = load_model(places.finetuned, "finetune").stem[-1]
    assert isinstance(layer, AdaptivePermutation)
    assert layer.form == form
    assert float(100 * layer.distance()) == pytest.approx(trained["train_permutation_distance_percent"], rel=1e-4)


def test_a_learned_order_is_compared_with_the_key(key):
    model = timm.create_model("convmixer", dim=8, depth=1, kernel_size=3, patch_size=4)
    cipher = make_cipher("block", key, 16, 4)
    assert learned_order_percent(model, cipher) is None
    add_adaptive_matrix(model, 16)
    blocks = torch.as_tensor(cipher.affine_map().block_permutation)
    right = torch.zeros(16, 16)
    right[torch.arange(16), blocks] = 1  # block t of the ciphertext is plain block blocks[t]
    turned = right.view(16, 4, 4).rot90(1, (1, 2)).flip(2).reshape(16, 16)
    for matrix in (right, -0.1 * right, turned):
        model.stem[-1].matrix.data = matrix
        assert learned_order_percent(model, cipher) == 100
    right[blocks.argsort()[:4]] = right[blocks.argsort()[:4].roll(1)]  # four rows in a circle
    model.stem[-1].matrix.data = right
    assert learned_order_percent(model, cipher) == 75
    assert learned_order_percent(model, make_cipher("shuffle", key, 16, 4)) is None  # has no order
    assert learned_order_percent(model, make_cipher("disposable", key, 16, 4)) is None  # has many


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_smaller_than_blocks_all_the_way(patch, tmp_path):
    """ConvMixers on EtC images as published: nothing is exact, and nothing is undone."""
    config = make_config(
        dataset={"image_size": 16},
        cipher={"name": "etc"},
        model={"name": f"convmixer_8_1_ks3_p{patch}", "pretrained": False},
        adapt={"enabled": False},
        finetune={"method": "full", "batch_norm": "affine", "epochs": 1, "batch_size": 15},
        verify={"wrong_keys": 1},
        audit={"attacks": ["weights", "brute_force"], "images": 2, "candidates": 4},
    )
    places = make_places(tmp_path, config)
    write_raw(places.raw, {"train": 30, "test": 12})
    for stage in (encrypt, adapt, finetune, evaluate, verify, audit):
        stage.run(config, places)
    verified = read_result(places, "verify")
    assert verified["accuracy_percent"] == read_result(places, "evaluate")["accuracy_percent"]
    assert "plain_accuracy_percent" not in verified


def test_patches_that_are_no_blocks(tmp_path):
    model = {"name": "convmixer_8_1_ks3_p2", "pretrained": False, "adaptive_matrix": True}
    config = make_config(dataset={"image_size": 16}, model=model, adapt={"enabled": False})
    places = make_places(tmp_path, config)
    write_raw(places.raw, {"train": 6, "test": 3})
    with pytest.raises(UsageError, match="mixes blocks of 4 pixels a side, and the model's patches have 2"):
        adapt.run(config, places)
