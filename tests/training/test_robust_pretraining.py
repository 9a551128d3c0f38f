"""Pre-training against an attack: ACL, DynACL and AdvCL, their pairs of normalisations and their losses."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from ppvit.config import Pretrain
from ppvit.core.errors import UsageError
from ppvit.evasion.ball import GREY_LEVEL, Ball
from ppvit.models import load_model
from ppvit.training.contrastive.networks import make_encoder
from ppvit.training.paired_norms import PairedNorm, keep_norm, pair_norms, through

pytest.importorskip("lightly", reason="pre-training without labels needs lightly: pip install 'ppvit[ssl]'")
from test_contrastive import QUICK, make_world, places_of, run, tiny_resnet

from ppvit.training.contrastive import robust
from ppvit.training.contrastive.robust import ATTACKED, CLEAN, Acl, AdvCl, Climb, DynAcl

CLIMB = Climb(Ball.of_grey_levels("linf", 8.0), 2, 4 * GREY_LEVEL)


@pytest.mark.parametrize("method", ["acl", "dynacl", "advcl"])
def test_a_run_ends_in_a_network_of_the_form_that_it_began_with(tmp_path, method):
    config = make_world(tmp_path, method=method, epochs=1, model=tiny_resnet())
    assert math.isfinite(run(tmp_path, config)["train_loss"])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("adapted", "pretrained"))
    assert {name: tensor.shape for name, tensor in before.items()} == {name: each.shape for name, each in after.items()}
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    load_model(places_of(tmp_path).pretrained, "adapt")


def test_acl_on_ciphertext_of_the_owners_views(tmp_path):
    """With the start of the attack drawn in the order of the ciphertext, the loss is the same but for that."""
    losses = {}
    for cipher in ("none", "block"):
        losses[cipher] = run(tmp_path, make_world(tmp_path, cipher, views=3, method="acl", epochs=1))["train_loss"]
    assert losses["block"] == pytest.approx(losses["none"], rel=0.05)
    with pytest.raises(UsageError, match=r"advcl: the high frequencies.*under block"):
        run(tmp_path, make_world(tmp_path, "block", views=3, method="advcl"))


def objective_of(kind, method, *more, model=None, **settings):
    torch.manual_seed(0)
    section = Pretrain(**{**QUICK, "method": method, **settings})
    encoder = make_encoder(model or tiny_resnet().model, section, torch.zeros(1, 3, 16, 16))
    return encoder.train(), kind(encoder, section, 4, CLIMB, torch.device("cpu"), *more)


def pictures(views=2):
    return torch.randint(0, 256, (6, views, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def nt_xent(rows, temperature=0.5):
    rows = functional.normalize(rows, dim=1)
    likeness = (rows @ rows.T / temperature).fill_diagonal_(-math.inf)
    half = len(rows) // 2
    return functional.cross_entropy(likeness, torch.cat([torch.arange(half, 2 * half), torch.arange(half)]))


def test_acl_is_half_the_clean_and_half_the_attacked_loss_through_normalisations_of_their_own(monkeypatch):
    encoder, objective = objective_of(Acl, "acl")
    images = pictures()
    clean = torch.cat([images[:, 0], images[:, 1]]).float() / 127.5 - 1
    moved = (clean + 0.03).clamp(-1, 1)
    monkeypatch.setattr(robust, "pgd", lambda *arguments: moved)
    twin = copy.deepcopy(encoder)
    loss, _ = objective.loss(encoder, images, torch.arange(6))
    with through(twin, CLEAN):
        natural = nt_xent(twin(clean))
    with through(twin, ATTACKED):
        attacked = nt_xent(twin(moved))
    assert loss.item() / 6 == pytest.approx((natural + attacked).item() / 2, rel=1e-5)
    first = encoder.backbone.bn1.norms
    assert not torch.equal(first[CLEAN].running_mean, first[ATTACKED].running_mean)


def test_the_attack_raises_the_loss_inside_its_ball_and_changes_no_network(monkeypatch):
    for kind, method in ((Acl, "acl"), (DynAcl, "dynacl")):
        encoder, objective = objective_of(kind, method)
        before = copy.deepcopy(encoder.state_dict())
        objective.begin_step(0, 0)
        clean = pictures().float().div(127.5).sub(1).unbind(1)
        inputs = torch.cat(clean)

        def loss_of(moved, objective=objective, encoder=encoder):
            return objective._contrasted(encoder, moved) * len(moved)

        moved = objective._perturbed(loss_of, inputs)
        assert 0 < (moved - inputs).abs().max() <= 8 * GREY_LEVEL + 1e-6
        encoder.eval()
        if method == "dynacl":
            objective.slow.eval()
        assert loss_of(moved) > loss_of(inputs)
        assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
        assert all(weight.grad is None for weight in encoder.parameters())


def test_dynacl_weighs_the_robust_loss_more_and_keeps_the_slow_network():
    _, objective = objective_of(DynAcl, "dynacl", epochs=40)
    weights = []
    for epoch in (0, 1, 2, 39):
        objective.begin_step(epoch, 0)
        weights.append(objective._robust_weight())
    assert weights == pytest.approx([1, 1, 1 + 2 / 3 * 0.05, 1 + 2 / 3 * 0.95])  # w of the paper's code
    assert objective.kept is objective.slow.backbone
    assert not any(weight.requires_grad for weight in objective.kept.parameters())
    assert not any(isinstance(module, PairedNorm) for module in objective.finished().modules())


def test_advcl_contrasts_four_views_like_the_straight_formula():
    projections = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = functional.normalize(projections.reshape(20, 8), dim=1)
    total = 0.0
    for anchor in range(20):  # Khosla et al., Eq. 2
        others = [row for row in range(20) if row != anchor]
        whole = sum(torch.exp(rows[anchor] @ rows[row] / 0.5) for row in others)
        same = [row for row in others if row % 5 == anchor % 5]
        total -= sum(torch.log(torch.exp(rows[anchor] @ rows[row] / 0.5) / whole) for row in same).item() / len(same)
    assert robust.one_of_many(projections, 0.5).item() == pytest.approx(total / 20 * 0.5 / 0.07)


def test_high_frequencies_are_what_a_disc_of_the_spectrum_leaves():
    image = np.random.default_rng(0).random((3, 32, 32))
    spectrum = np.fft.fftshift(np.fft.fft2(image))  # as published: centred, radius 8 of 32 pixels
    down, across = np.mgrid[:32, :32] - 16
    spectrum[:, np.hypot(down, across) <= 8] = 0
    expected = np.fft.ifft2(np.fft.ifftshift(spectrum)).real
    found = robust.high_frequencies(torch.from_numpy(2 * image - 1).float()[None])[0]
    np.testing.assert_allclose((found.numpy() + 1) / 2, expected, atol=1e-5)


def test_advcl_trains_a_head_for_each_set_of_pseudo_labels():
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    guesses = robust.pseudo_labels(features, seed=0)
    assert guesses.shape == (40, 2)  # 2 and 10 clusters: for 50 there are too few images
    assert [len(set(column)) for column in guesses.T] == [2, 10]
    encoder, objective = objective_of(AdvCl, "advcl", guesses)
    loss, _ = objective.loss(encoder, pictures(3), torch.arange(6))
    loss.backward()
    assert [head.out_features for head in encoder.guesses] == [2, 10]
    assert all(head.weight.grad.abs().sum() > 0 for head in encoder.guesses)
    norms = encoder.backbone.bn1.norms
    assert set(norms) == {"attacked", "clean", "guessed"}
    assert all(norm.weight.grad is not None for norm in norms.values())


def test_pairs_of_normalisations_come_and_go():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)), nn.Flatten(), nn.BatchNorm1d(16))
    plain, image = copy.deepcopy(model).eval(), torch.rand(5, 3, 2, 2)
    pair_norms(model, ("one", "other"))
    assert sum(isinstance(module, PairedNorm) for module in model.modules()) == 2
    with through(model.train(), "other"):
        model(image)
    assert torch.equal(model.eval()(image), plain(image))  # the other's statistics moved alone
    with through(model, "other"):
        assert not torch.equal(model(image), plain(image))
    assert torch.equal(keep_norm(model, "one")(image), plain(image))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_a_network_without_batch_normalisation_has_nothing_to_pair():
    model = tiny_backbone().model
    names = list(model.state_dict())
    assert list(pair_norms(model, (ATTACKED, CLEAN)).state_dict()) == names
