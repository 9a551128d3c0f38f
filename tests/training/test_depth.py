"""Rates by depth, stochastic depth, weight decay and the patch embedding's rate, against timm and by hand."""

import pytest
import timm
import torch
from conftest import make_config, tiny_backbone
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay

from ppvit.core.errors import UsageError
from ppvit.pipeline import STAGES
from ppvit.training.attach import attach
from ppvit.training.depth import layer_rates, set_stochastic_depth
from ppvit.training.schedule import make_optimizer
from ppvit.tuners import make_tuner


def settings_of(**values):
    return make_config(finetune=values).finetune


def tuned(model=None, **values):
    """A model extended by ``finetune.method``, its settings and its method."""
    settings = settings_of(**values)
    tuner = make_tuner(settings)
    return attach(tuner, tiny_backbone().model if model is None else model, settings, [None] * 8), settings, tuner


def groups_by_name(model, settings, tuner) -> dict[str, dict]:
    """The optimiser's group of every trained parameter."""
    groups = make_optimizer(settings, model, tuner.learning_rates(), tuner.undecayed).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    "network", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18", "mixer_s32_224"]
)
@pytest.mark.parametrize("decay", [0.65, 0.9])
def test_rates_by_layer_are_those_of_timm(network, decay):
    """timm.optim.param_groups_layer_decay groups parameters by the same rule, for bare networks."""
    with torch.device("meta"):
        model = timm.create_model(network)
    theirs = {}
    for group in param_groups_layer_decay(model, layer_decay=decay):
        theirs |= {id(parameter): group["lr_scale"] for parameter in group["params"]}
    ours = layer_rates(model, decay)
    assert {id(parameter): ours[name] for name, parameter in model.named_parameters()} == pytest.approx(theirs)


def test_parts_that_a_method_adds_have_the_rate_of_their_block():
    """Embedding, two blocks and the head are four layers of the tiny network."""
    model, settings, tuner = tuned(method="lora", rank=2, layer_decay=0.5, target_modules=["attn.qkv"])
    rates = {name: group["lr"] for name, group in groups_by_name(model, settings, tuner).items()}
    for part, layers in (("blocks.0.", 2), ("blocks.1.", 1), ("head.", 0)):
        assert {rate for name, rate in rates.items() if part in name} == {settings.learning_rate * 0.5**layers}


def test_both_multiples_of_the_rate_are_factors():
    model, settings, tuner = tuned(method="full", layer_decay=0.5, patch_learning_rate=4.0)
    groups = groups_by_name(model, settings, tuner)
    assert groups["patch_embed.proj.weight"]["rate"] == groups["patch_embed.proj.bias"]["rate"] == 4 * 0.5**3
    assert groups["pos_embed"]["rate"] == 0.5**3


@pytest.mark.parametrize("method", ["full", "lora_patch"])
def test_patch_embedding_has_a_rate_of_its_own(method):
    model, settings, tuner = tuned(method=method, rank=2, patch_learning_rate=0.25)
    rates = {name: group["rate"] for name, group in groups_by_name(model, settings, tuner).items()}
    slower = {name for name, rate in rates.items() if rate != 1}
    assert slower == {name for name in rates if "patch_embed.proj" in name}
    assert {rates[name] for name in slower} == {0.25}
    assert len(slower) == 2  # weight and bias


@pytest.mark.parametrize(
    ("network", "values", "reason"),
    [
        ("resnet18_cifar", {"patch_learning_rate": 0.1}, "patch_learning_rate 0.1: CifarResNet has no patch embedding"),
        ("convmixer_micro_patch4", {"drop_path": 0.1}, "drop_path 0.1: ConvMixer has no blocks that timm can skip"),
        ("vgg11", {"drop_path": 0.1}, "drop_path 0.1: VGG has no blocks that timm can skip"),
        ("pit_ti_224", {"layer_decay": 0.5}, "layer_decay 0.5: timm does not number the layers of PoolingVisionTr"),
    ],
)
def test_networks_that_lack_it_are_told(network, values, reason):
    with pytest.raises(UsageError, match=rf"^finetune\.{reason}.*; set finetune\.{next(iter(values))}=\d$"):
        with torch.device("meta"):
            model = timm.create_model(network)
        model, settings, tuner = tuned(model, method="full", **values)
        make_optimizer(settings, model, tuner.learning_rates())


@pytest.mark.parametrize(
    "network",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "convnext_atto", "resnet18"],
)
def test_blocks_are_skipped_as_often_as_timm_would(network):
    def shares(model):
        found = {name: module.drop_prob for name, module in model.named_modules() if isinstance(module, DropPath)}
        return {name: share for name, share in found.items() if share}

    with torch.device("meta"):
        ours, theirs = timm.create_model(network), timm.create_model(network, drop_path_rate=0.2)
    set_stochastic_depth(ours, 0.2)
    assert shares(ours) == pytest.approx(shares(theirs))
    assert shares(ours)


def test_skipping_is_for_training_only_and_scales_what_is_kept():
    """At a share p the branch counts 1 / (1 - p) times or not at all, so that the mean is that of evaluation."""
    model = tiny_backbone().model
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.eval()(images)
        set_stochastic_depth(model, 0.5)
        assert torch.equal(model(images), before)
        block = model.train().blocks[-1]
        tokens = torch.randn(64, 16, 24, generator=torch.Generator().manual_seed(1))
        branch = block.ls1(block.attn(block.norm1(tokens)))
        kept = block.drop_path1(branch)
    skipped = (kept == 0).flatten(1).all(1)
    assert 10 < skipped.sum() < 54  # of 64 at a half
    torch.testing.assert_close(kept[~skipped], 2 * branch[~skipped])


def test_weight_decay_of_all_parameters_or_of_matrices():
    for decayed in ("matrices", "all"):
        model, settings, tuner = tuned(method="full", weight_decay=0.1, decayed=decayed)
        decays = {name: group["weight_decay"] for name, group in groups_by_name(model, settings, tuner).items()}
        vectors = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        assert {decays[name] for name in vectors} == {0.1 if decayed == "all" else 0.0}
        assert {share for name, share in decays.items() if name not in vectors} == {0.1}


def test_sgd_that_decays_all_shrinks_a_bias_without_gradient_as_the_formula_says():
    """w' = w - lr (g + decay w), with g = 0."""
    model, settings, tuner = tuned(method="full", optimizer="sgd", learning_rate=0.5, weight_decay=0.1, decayed="all")
    model.head.bias.data.fill_(2.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(settings, model, tuner.learning_rates()).step()
    torch.testing.assert_close(model.head.bias.data, torch.full_like(model.head.bias, 2 * (1 - 0.5 * 0.1)))


@pytest.mark.parametrize(
    ("values", "unread"),
    [
        ({"method": "lora"}, {"patch_learning_rate"}),
        ({"method": "lora", "weight_decay": 0.0}, {"patch_learning_rate", "decayed"}),
        ({"method": "linear"}, {"patch_learning_rate", "drop_path", "layer_decay"}),
        ({"method": "full"}, set()),
        ({"method": "lora_patch"}, set()),
    ],
)
def test_what_is_not_read_reruns_nothing(values, unread):
    names = {"patch_learning_rate", "decayed", "drop_path", "layer_decay", "ema_decay"}
    read = STAGES["finetune"].narrowed(make_config(finetune=values)).finetune.model_fields_set
    assert names - read == unread
