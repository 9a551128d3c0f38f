"""Adversarial fine-tuning: balls that hold, attacks that leave no trace, and losses equal to their formulas."""

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import CIPHERS, make_cipher
from ppvit.ciphers.gather import FlatMap
from ppvit.core.errors import PpvitError, UsageError
from ppvit.evasion.ball import TOLERANCE, Ball
from ppvit.evasion.isometry import plain_ball
from ppvit.evasion.pgd import PgdAttack, frozen, pgd
from ppvit.models import model_input
from ppvit.models.batch_norm import set_batch_norm
from ppvit.models.tasks import MULTICLASS
from ppvit.tuners.base import keep_zero

SIGNED_PERMUTATIONS = [name for name, kind in CIPHERS.items() if kind.isometry(kind.options) == "values"]
NORMS = st.sampled_from(["linf", "l2"])


def noise_images(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def as_input(images: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(n, H, W, 3), 0..255, as the model takes it."""
    return model_input(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(dtype))


@given(NORMS, st.floats(0.01, 300), st.booleans(), st.integers(0, 2**32 - 1))
def test_projection_stays_in_ball_and_box(norm, grey_levels, box, seed):
    ball = Ball.of_grey_levels(norm, grey_levels, box)
    generator = torch.Generator().manual_seed(seed)
    origin = 2 * torch.rand(3, 3, 5, 5, generator=generator) - 1
    far = origin + 10 * torch.randn(origin.shape, generator=generator)
    for moved in (ball.project(far, origin), ball.random_start(origin, generator)):
        assert (ball.radius(moved, origin) <= ball.epsilon + TOLERANCE).all()
        assert not box or moved.abs().max() <= 1
        torch.testing.assert_close(ball.project(moved, origin), moved)  # what is inside stays


@given(
    NORMS,
    st.floats(0.1, 255),
    st.floats(0.01, 500),
    st.sampled_from(["none", "noise", "uniform", "n_fgsm"]),
    st.integers(0, 2**32 - 1),
)
def test_an_attack_never_exceeds_epsilon(norm, epsilon, step, start, seed):
    ball = Ball.of_grey_levels(norm, epsilon)
    generator = torch.Generator().manual_seed(seed)
    origin = as_input(noise_images(2, 4, seed))
    weight = torch.randn(origin.shape, generator=generator)
    moved = pgd(lambda images: (weight * images**3).sum(), origin, ball, 3, step / 127.5, start, generator)
    assert (ball.radius(moved, origin) <= ball.epsilon + TOLERANCE).all()
    assert moved.abs().max() <= 1


@pytest.mark.parametrize("epsilon", [300, 765])
def test_l2_balls_of_large_images_hold(epsilon):
    """The length of 384 px is summed over 442,368 values, which float32 does too coarsely."""
    origin = 1.8 * torch.rand(2, 3, 384, 384, generator=torch.Generator().manual_seed(0)) - 0.9
    weight = torch.randn(origin.shape, generator=torch.Generator().manual_seed(1))
    ball = Ball.of_grey_levels("l2", epsilon)
    moved = pgd(lambda images: (weight * images).sum(), origin, ball, 3, ball.epsilon / 2, "uniform")
    assert ball.radius(moved, origin) == pytest.approx(ball.epsilon, rel=1e-6)


def test_starts_are_those_of_the_papers():
    """TRADES: 0.001 N(0, 1) on a scale of 0..1, which is 2 wide here. N-FGSM: uniform in twice the ball."""
    grey, ball = torch.zeros(20, 3, 16, 16), Ball("linf", 0.1)
    generator = torch.Generator().manual_seed(0)
    noise = pgd(lambda images: images.sum(), grey, ball, 0, 0.01, "noise", generator)
    assert noise.std().item() == pytest.approx(0.002, rel=0.03)
    seen = []
    pgd(lambda images: seen.append(images.detach()) or images.sum(), grey, ball, 1, 0.1, "n_fgsm", generator)
    assert 0.19 < seen[0].abs().max() <= 0.2
    assert seen[0].std().item() == pytest.approx(0.2 / 3**0.5, rel=0.03)


def test_grey_levels():
    black, white = (as_input(np.full((1, 2, 2, 3), value, np.uint8)) for value in (0, 255))
    assert Ball.of_grey_levels("linf", 255).epsilon == pytest.approx(Ball("linf", 1).radius(black, white).item())
    assert Ball.of_grey_levels("l2", 255 * 12**0.5).epsilon == pytest.approx(Ball("l2", 1).radius(black, white).item())


@pytest.mark.parametrize("start", ["none", "noise"])
def test_on_a_linear_model_the_attack_is_the_closed_form(start):
    """The worst point of a ball for w x is sign(w) epsilon (Linf) and epsilon w / |w| (L2)."""
    weight = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    images = torch.zeros(5, 3, 4, 4, dtype=torch.float64)
    for norm, direction in (("linf", weight.sign()), ("l2", weight / weight.norm())):
        ball = Ball(norm, 0.3)
        moved = pgd(lambda images: (weight * images).sum(), images, ball, 200, 0.01, start)
        torch.testing.assert_close(moved, (0.3 * direction).expand_as(moved), atol=1e-3, rtol=0)


def test_pixels_at_the_edge_of_the_range_stay_valid():
    white = torch.ones(1, 3, 2, 2)
    moved = pgd(lambda images: images.sum(), white, Ball("linf", 0.1), 3, 0.05, "none")
    assert torch.equal(moved, white)


@pytest.mark.parametrize("inner_loss", ["ce", "kl"])
def test_an_attack_leaves_no_gradient_and_the_model_as_it_was(inner_loss):
    model = tiny_backbone().model.train()
    model.norm.eval()  # a mode of its own, as frozen batch norms have
    model.head.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    images, labels = as_input(noise_images(2)), torch.tensor([0, 1])
    while_attacked = []
    model.norm.register_forward_hook(
        lambda *_: while_attacked.extend(parameter.requires_grad for parameter in model.parameters())
    )
    moved = PgdAttack(Ball.of_grey_levels("linf", 8), 2, 2 / 127.5, "noise", inner_loss).perturb(model, images, labels)
    assert while_attacked
    assert not any(while_attacked)  # nothing but the input takes a gradient
    assert not moved.requires_grad
    assert (moved != images).any()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("mode", ["frozen", "stats", "affine"])
def test_an_attack_leaves_running_statistics_alone(mode):
    model = set_batch_norm(timm.create_model("resnet18_cifar", num_classes=3), mode).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    attack = PgdAttack(Ball.of_grey_levels("linf", 8), 1, 8 / 127.5, "noise", "kl")
    attack.perturb(model, as_input(noise_images(2, 32)), torch.tensor([0, 1]))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert [module.training for module in model.modules()] == modes


def test_frozen_puts_all_back_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        1 / 0  # noqa: B018 - the error is the point
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_structural_zeros_survive_an_attack():
    """The hook that keeps entries of a low-rank update at zero still works after the parameter was frozen."""
    layer = nn.Linear(2, 2)
    keep_zero(layer.weight, torch.eye(2, dtype=torch.bool))
    with frozen(layer):
        pass
    layer(torch.ones(1, 2)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.eye(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_told(bad):
    with pytest.raises(PpvitError, match="the loss under attack or its gradient is not a number"):
        pgd(lambda images: images.sum() * bad, torch.zeros(1, 3, 2, 2), Ball("linf", 0.1), 2, 0.1)


def test_divergence_is_the_formula():
    clean, moved = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    p, q = (torch.exp(z) / torch.exp(z).sum(1, keepdim=True) for z in (clean, moved))
    torch.testing.assert_close(MULTICLASS.divergence(clean, moved), (p * (p / q).log()).sum())


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_table_of_isometries_is_what_the_ciphers_do(name, norm, key):
    """Distances between ciphertexts against distances between plain images, and the refusals where they differ."""
    cipher = make_cipher(name, key, 16, 4, **({"token_width": 64} if name.startswith("neuracrypt") else {}))
    plain, ids = noise_images(8), np.arange(8)
    near = np.clip(plain.astype(int) + np.random.default_rng(1).integers(-8, 9, plain.shape), 0, 255).astype(np.uint8)
    # both versions of an image are the same image, under the same sub-key
    before, after = (cipher.encrypt(images, ids).astype(np.float64).reshape(8, -1) for images in (plain, near))
    order = np.inf if norm == "linf" else 2
    expected = np.linalg.norm((near.astype(float) - plain).reshape(8, -1), ord=order, axis=1)
    keeps = np.allclose(np.linalg.norm(after - before, ord=order, axis=1), expected, rtol=1e-2)
    if keeps:
        ball = plain_ball(norm, 8, cipher.record)
        assert ball.epsilon == pytest.approx(8 / 127.5)
        assert ball.box == (before.min() >= 0 and before.max() <= 255)
    else:
        with pytest.raises(UsageError, match=r"cipher\.name"):
            plain_ball(norm, 8, cipher.record)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [name for name in SIGNED_PERMUTATIONS if name != "disposable"])  # which none adapts to
def test_attack_on_ciphertext_decrypts_to_the_attack_on_plain_images(name, norm, key):
    """The isometry: the trainer's attack, without the key, is the one that the owner would run on plain images."""
    cipher = make_cipher(name, key, 16, 4)
    plain, adapted = tiny_backbone(), tiny_backbone()
    adapt_model(adapted, cipher)
    labels = torch.tensor([0, 3])
    images = noise_images(2)
    attack = PgdAttack(plain_ball(norm, 8, cipher.record), 3, 2 / 127.5, "none")
    clean = as_input(images, torch.float64)
    on_plain = attack.perturb(plain.model.double(), clean, labels)
    ciphertext = as_input(cipher.encrypt(images), torch.float64)
    on_cipher = attack.perturb(adapted.model.double(), ciphertext, labels)
    assert attack.ball.radius(on_plain, clean).min() > 1 / 127.5
    torch.testing.assert_close(decrypted(cipher, on_cipher), on_plain, atol=1e-6, rtol=0)


def decrypted(cipher, moved: torch.Tensor) -> torch.Tensor:
    """What decryption does to values between grey levels: the inverse gather, and -u for an inverted value."""
    flat = FlatMap.of(cipher.affine_map(), cipher.image_size, cipher.block_size)
    ciphertext = moved.numpy().transpose(0, 2, 3, 1)
    plain = np.empty((len(moved), flat.gather.size))
    plain[:, flat.gather] = np.where(flat.flip, -1, 1) * ciphertext.reshape(plain.shape)
    return torch.from_numpy(plain.reshape(ciphertext.shape).transpose(0, 3, 1, 2).copy())


def test_attack_on_rotated_blocks_rotates_back_to_the_attack_on_plain_images(key):
    """Under ``orthogonal`` too, in L2, where the attack does not know the box of valid pixels."""
    cipher = make_cipher("orthogonal", key, 16, 4)
    plain, adapted = tiny_backbone(), tiny_backbone()
    adapt_model(adapted, cipher)
    images, labels = noise_images(2), torch.tensor([0, 3])
    attack = PgdAttack(plain_ball("l2", 300, cipher.record), 3, 1.0, "none")
    on_plain = attack.perturb(plain.model.double(), as_input(images, torch.float64), labels)
    ciphertext = as_input(cipher.encrypt_exactly(images), torch.float64)
    on_cipher = attack.perturb(adapted.model.double(), ciphertext, labels)
    assert on_plain.abs().max() > 1  # outside of the box
    torch.testing.assert_close(_blocks(on_cipher) @ _inverse(cipher).T, _blocks(on_plain), atol=1e-4, rtol=0)


def _inverse(cipher) -> torch.Tensor:
    return torch.from_numpy(np.linalg.inv(cipher.affine_map().matrix))


def _blocks(images: torch.Tensor, side: int = 4) -> torch.Tensor:
    """(n, 3, H, W) to (n, N, 3 side^2), values of a block as C, h, w."""
    return functional.unfold(images, side, stride=side).transpose(1, 2)
