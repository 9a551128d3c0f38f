"""What `auto` chooses: by counted operations alone, never more than training took, larger where there is more of it."""

import pytest
import timm
import torch
from conftest import make_config, tiny_backbone
from torch.utils.flop_counter import FlopCounterMode

from ppvit.audit.attacks.inverse_network import pairs_to_solve
from ppvit.audit.effort import Geometry, chosen_steps
from ppvit.audit.solvers.linear_inverse import solve_linear
from ppvit.core.effort import FIRST_LOOK, SHARES
from ppvit.evasion import masking
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.evasion.cascade import Adversary
from ppvit.evasion.effort import Effort, chosen_effort, robustness_efforts, threats_efforts
from ppvit.evasion.verdicts import image_bounds
from ppvit.models.flops import forward_flops, training_flops

VIT_TI, MICRO = 2.507e9, 1.117e8  # operations of a forward pass at 224 and 32 px


def closed_form(tokens: int, width: int, depth: int, values: int, classes: int) -> int:
    """Of a ViT with an MLP four times as wide: 24 t d^2 of the matrices and 4 t^2 d of attention in each layer."""
    blocks = depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
    return blocks + 2 * (tokens - 1) * values * width + 2 * width * classes


def test_operations_are_those_of_the_closed_form():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert forward_flops(model, (3, 64, 64)) == closed_form(17, 192, 12, 768, 10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


def test_training_takes_three_passes_and_two_where_weights_are_frozen_or_attacked():
    lora = make_config(finetune={"epochs": 3}, adversarial={"steps": 7})
    assert training_flops(lora.finetune, lora.adversarial, 46, 10.0) == 3 * 46 * 2 * 10
    config = make_config(finetune={"epochs": 3, "method": "full"}, adversarial={"steps": 7})
    attacked = make_config(finetune={"epochs": 3, "method": "full", "adversarial": "trades"}, adversarial={"steps": 7})
    assert training_flops(config.finetune, config.adversarial, 46, 10.0) == 3 * 46 * 3 * 10
    assert training_flops(attacked.finetune, attacked.adversarial, 46, 10.0) == 3 * 46 * (3 + 14) * 10
    linear = make_config(finetune={"method": "linear"})
    assert training_flops(linear.finetune, None, 46, 10.0) == 460


def test_the_cost_of_robustness_is_that_of_its_passes():
    """PGD alone, 5 steps, on 4 images: attack 10, four more epsilons and 1 and 10 steps, a clean pass for each."""
    assert Effort(4, 5, "pgd").robustness(10, 1 / 16, 5) == 4 * (1 + 10 + 4 * 10 + 2 * 1.25 + 20 + 8)


def chosen(forward: float, images: int, epochs: int, tested: int, **sections):
    config = make_config(finetune={"epochs": epochs}, **sections)
    training = training_flops(config.finetune, config.adversarial, images, forward)
    efforts = [each.within(tested) for each in robustness_efforts(config.robustness)]
    robustness = {each: each.robustness(10, 1 / 16, 5) * forward for each in efforts}
    efforts = [each.within(tested) for each in threats_efforts(config.robustness, config.threats)]
    threats = {each: each.threats(10, 1 / 16, 3, images) * forward for each in efforts}
    return (
        training,
        chosen_effort("robustness", robustness, training),
        chosen_effort("threats", threats, training),
    )


def test_the_default_run_is_attacked_with_all_steps():
    training, robustness, threats = chosen(MICRO, 1293, 10, 360)
    assert training == 2 * 1293 * 10 * MICRO
    assert (robustness.effort.images, robustness.effort.steps, robustness.effort.apgd_steps) == (16, 20, 100)
    assert (threats.effort.images, threats.effort.steps, threats.effort.queries) == (12, 20, 100)
    assert chosen_steps(Geometry(32, 4), training) == 25


@pytest.mark.parametrize("epochs", [1, 3, 10, 30, 300])
@pytest.mark.parametrize("forward", [MICRO, VIT_TI, 14 * VIT_TI])
def test_attacks_take_no_more_than_training(epochs, forward):
    """64 own images, of which 46 are trained on and 13 tested."""
    training, robustness, threats = chosen(forward, 46, epochs, 13)
    for stage, found in (("robustness", robustness), ("threats", threats)):
        assert not found.fits or found.operations <= SHARES[stage] * training
        least = found.effort.images == 4 and found.effort.attack == "pgd"
        assert least or found.operations <= SHARES[stage] * training * 3 / 4  # the rest is for what is not counted
    assert robustness.fits == (epochs >= 10)
    assert threats.fits == (epochs >= 10)
    if epochs == 3:
        assert robustness.effort.images == 4  # what is refused is the least
    assert sum(SHARES.values()) <= 1.0001


def test_a_long_training_makes_room_for_a_first_look_and_no_more():
    for images in (2_000, 20_000):
        training, robustness, threats = chosen(VIT_TI, images, 10, 1000)
        assert training > FIRST_LOOK
        assert robustness.operations + threats.operations <= FIRST_LOOK
        assert robustness.fits
        assert threats.fits
    _, robustness, _ = chosen(14 * VIT_TI, 1_000, 10, 1000)  # a network too large for any first look: the least
    assert robustness.fits
    assert (robustness.effort.images, robustness.effort.attack) == (4, "pgd")


def test_one_override_publishes():
    _, robustness, threats = chosen(VIT_TI, 46, 1, 5000, robustness={"attack": "full"})
    assert (robustness.effort.images, robustness.effort.steps, robustness.effort.apgd_steps) == (1000, 20, 100)
    assert (threats.effort.images, threats.effort.queries) == (1000, 5000)
    assert robustness.fits
    assert threats.fits


def test_what_is_asked_for_is_done():
    sections = {"robustness": {"images": 40, "steps": 30}, "threats": {"images": 20, "queries": 7}}
    _, robustness, threats = chosen(VIT_TI, 46, 1, 5000, **sections)
    assert (robustness.effort.images, robustness.effort.steps, robustness.effort.attack) == (40, 30, "quick")
    assert (threats.effort.images, threats.effort.steps, threats.effort.queries) == (20, 30, 7)
    assert robustness.effort.apgd_steps == 100
    assert robustness.fits
    assert threats.fits


def test_few_steps_still_reach_epsilon():
    config = make_config(robustness={"epsilon": 16.0, "step_size": 1.0})
    assert {each.steps for each in robustness_efforts(config.robustness)} == {16, 20}


def test_the_owner_knows_how_few_images_the_trainer_may_take():
    for sections in ({}, {"attack": "full"}, {"images": 7}):
        settings = make_config(robustness=sections).robustness
        images = [each.images for each in robustness_efforts(settings)]
        assert (min(images), max(images)) == image_bounds(settings)


def test_the_inverse_network_of_the_audit_takes_what_its_layers_do():
    """32 px: 16 pairs, and twice three passes of 9 to 32 to 3 channels, dilated four times, at 3 x 3 weights."""
    geometry = Geometry(32, 4)
    refine = 2 * 9 * 32**2 * (9 * 32 + 4 * 32 * 32 + 3 * 32)
    critic = 2 * 16 * (16**2 * 3 * 32 + 8**2 * 32 * 64 + 4**2 * 64 * 64)
    linear = 2 * 64 * 96 * (64 + 48)
    assert geometry.step() == 16 * (3 * refine + linear) + 16 * 3 * (refine + linear + 3 * critic)
    assert chosen_steps(geometry, 0.0) == 5


@pytest.mark.parametrize(("image_size", "block_size"), [(32, 4), (32, 8)])
def test_solving_for_the_linear_part_is_counted(image_size, block_size):
    """Products as torch counts them, but those with 9 numbers a block that tell where it went; it counts no `solve`."""
    shape = (pairs_to_solve(image_size, 10), image_size, image_size, 3)
    plain = torch.randint(256, shape, dtype=torch.uint8).numpy()
    with FlopCounterMode(display=False) as counter:
        solve_linear(plain, plain, block_size, per_position=False)
    width, values = 6 * block_size**2, 3 * block_size**2
    solves = 2 * 4 * (2 / 3 * width**3 + 2 * width**2 * values)
    assert Geometry(image_size, block_size).solve(10) == pytest.approx(counter.get_total_flops() + solves, rel=0.05)


def test_a_network_for_tokens_is_counted_too():
    model = tiny_backbone(num_classes=3).model
    assert forward_flops(model, (3, 16, 16)) == closed_form(17, 24, 2, 48, 3)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_few_steps_find_a_planted_image_as_many_do(steps):
    """PGD that starts at random may have to cross the whole ball; and APGD has fewer steps as well."""
    settings = make_config().robustness
    effort = Effort(4, steps, "quick")
    asked = effort.settings(settings)
    ball = Ball.of_grey_levels("linf", settings.epsilon)
    strength = Adversary(ball, asked.step_size * GREY_LEVEL, 10, 0, steps, apgd_steps=effort.apgd_steps)
    assert masking.finds_planted(["pgd", "apgd-ce", "apgd-t"], strength, (3, 16, 16))
    assert asked.step_size == {5: 4.0, 10: 2.0, 20: 2.0}[steps]
