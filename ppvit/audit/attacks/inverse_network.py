"""Learned inverse: a network that turns ciphertexts back into images, from pairs or from unpaired plain images.

With pairs (:func:`train_inverse`) this is the inverse transformation network attack: the attacker encrypts public
images under keys of its own, and hopes that what the network learns holds for the key under attack too. Ito, Kinoshita
and Kiya, "Image transformation network for privacy-preserving deep neural networks and its security evaluation", arXiv
2008.03143. Without pairs (:func:`train_inverse_unpaired`) it is the GAN attack, which Sirichotedumrong and Kiya compare
with it: "Visual security evaluation of learnable image encryption methods against ciphertext-only attacks", arXiv
2010.06198.

The papers train for hours; the audit has half a minute. So the linear maps of the paired network are not trained but
solved for, which finds a permutation, inversion or rotation at once where gradient descent on the nearly dependent
pixels of photographs takes very many steps. Only the convolutions behind them are trained. A byte enters as its two
nibbles, so that ciphers of nibbles are linear too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppvit.audit.base import attack
from ppvit.audit.score import mean_ssim
from ppvit.audit.solvers.linear_inverse import Linear, as_tensor, block_inputs, solve_linear, to_image
from ppvit.audit.view import Finding, View, not_attacked
from ppvit.core.device import device
from ppvit.core.progress import tqdm

SamplePairs = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

WIDTH = 32  # channels of the convolutions at 32 px; more sees finer structure and costs its square
PAIRS_TO_SOLVE = 384  # most pairs that the linear maps are solved from; a quarter of them decides how
_FEWEST_TO_SOLVE = 16
_PIXELS_TO_SOLVE = 64 * 224 * 224  # bounds these pairs for large images, by memory
_PAIRS_PER_CALL = 4  # few, so that a batch has many keys even where each call draws one
PIXELS_AT_ONCE = 16 * 32 * 32  # batch size times pixels of a step


@attack(
    "inverse_network",
    "inverse",
    ciphertext_only=True,
    reads=("training_steps", "pooled_images", "known_pairs"),
    variants={"paired": "from pairs under other keys", "unpaired": "without pairs"},
    place=8,
)
def find(view: View) -> Iterator[Finding]:
    """Train a network to decrypt, on pairs under keys of the attacker's own, and another without pairs."""
    space, public, pool = view.space, view.public_plain, view.pooled
    if view.encrypted.ndim != 4 or public is None or not len(public) or pool is None:
        yield not_attacked("there is no picture here whose blocks a network could map back.")
        return

    def own_pairs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        plain = public[rng.integers(0, len(public), count)]
        return plain, space.own_cipher(rng).encrypt(plain, np.arange(count))

    geometry = {"block_size": view.block_size, "image_size": view.image_size, "seed": view.seed}
    network = train_inverse(own_pairs, steps=view.training_steps, per_position=space.per_position, **geometry)
    images = reconstruct(network, view.encrypted)
    mean = np.round(public.mean(axis=0)).astype(np.uint8)
    trivial = np.repeat(mean[None], len(images), axis=0)
    yield Finding("pairs under keys of one's own", images, variant="paired", headline=True, trivial=trivial)
    generator = train_inverse_unpaired(pool, public, steps=view.training_steps, **geometry)

    def align(images: np.ndarray, plain: np.ndarray) -> np.ndarray:
        return max(images, 255 - images, key=lambda each: mean_ssim(each, plain))

    images = reconstruct(generator, view.encrypted)
    needs = "ciphertexts and other plain images"
    free = "the negative of all pictures alike"
    yield Finding(needs, images, variant="unpaired", free=free, align=align, trivial=trivial)


def train_inverse(
    sample_pairs: SamplePairs, block_size: int, image_size: int, *, steps: int, seed: int, per_position: bool
) -> InverseNetwork:
    """Learn to invert a cipher from pairs.

    Args:
        sample_pairs: makes n new pairs, (generator, n) -> (plain, ciphertext): uint8 (n, H, W, 3), and that, float of
            that shape, or tokens (n, N, width). An attacker without the key draws a new key in every call.
        block_size, image_size: sides in pixels.
        steps: of the convolutions; 200 take about 15 s on one core at 32 px, 40 about 30 s at 224 px.
        seed: of all random choices.
        per_position: a linear map for every block position instead of one for all; for keys that differ by position.

    Returns:
        The network, for :func:`reconstruct`.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():  # what callers draw afterwards stays the same
        torch.manual_seed(seed)
        plain, encrypted = _draw(sample_pairs, rng, pairs_to_solve(image_size, steps))
        network = InverseNetwork(solve_linear(plain, encrypted, block_size, per_position), image_size).to(device())
        optimizer = torch.optim.Adam(network.refine.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(steps, 2))
        for _ in tqdm(range(steps), desc="audit: inverse network", unit="step", leave=False, file=sys.stderr):
            plain, encrypted = _draw(sample_pairs, rng, pairs_of_step(image_size))
            loss = functional.mse_loss(network(as_tensor(encrypted)), as_tensor(plain).permute(0, 3, 1, 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    plain, encrypted = _draw(sample_pairs, rng, 8 * _PAIRS_PER_CALL)
    refined = np.mean((reconstruct(network, encrypted) - plain.astype(np.float32)) ** 2)
    trained = network.refine.switch_off()
    if refined < np.mean((reconstruct(network, encrypted) - plain.astype(np.float32)) ** 2):
        network.refine.last.load_state_dict(trained)
    return network.eval()


def pairs_to_solve(image_size: int, steps: int) -> int:
    """Pairs that the linear maps are solved from: no more than the convolutions see."""
    most = min(PAIRS_TO_SOLVE, _PIXELS_TO_SOLVE // image_size**2)
    return max(_FEWEST_TO_SOLVE, min(most, steps * pairs_of_step(image_size)))


def pairs_of_step(image_size: int) -> int:
    """Pairs in a step of the convolutions."""
    return max(_PAIRS_PER_CALL, PIXELS_AT_ONCE // image_size**2)


def _draw(sample_pairs: SamplePairs, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At least ``count`` pairs, from several calls."""
    calls = [sample_pairs(rng, _PAIRS_PER_CALL) for _ in range(-(-count // _PAIRS_PER_CALL))]
    plain, encrypted = (np.concatenate(side) for side in zip(*calls, strict=True))
    return plain, encrypted


def reconstruct(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """What a trained network makes of ciphertexts: shape and dtype as in training, to uint8 (n, H, W, 3)."""
    found = []
    with torch.inference_mode():
        for batch in np.array_split(images, max(1, -(-len(images) // 16))):
            found.append(((network(as_tensor(batch)) + 1) * 127.5).round().clamp(0, 255).byte().cpu())
    return torch.cat(found).permute(0, 2, 3, 1).contiguous().numpy()


class InverseNetwork(nn.Module):
    """``refine(linear(mix(ciphertext)), ciphertext)``; ciphertexts in units of -1 .. 1, (n, H, W, 3) or (n, N, width).

    Args:
        linear: the linear part, see :class:`ppvit.audit.solvers.linear_inverse.Linear`.
        image_size: side in pixels.
    """

    down: Tensor | None

    def __init__(self, linear: Linear, image_size: int) -> None:
        super().__init__()
        self.mixing, self.up, self.bias = (
            nn.Parameter(each, requires_grad=False) for each in (linear.mixing, linear.up, linear.bias)
        )
        self.register_buffer("down", linear.down)
        self.block_size = round((self.bias.shape[1] // 3) ** 0.5)
        self.refine = Refine(image_size)

    def forward(self, encrypted: Tensor) -> Tensor:  # -> (n, 3, H, W)
        inputs = torch.einsum("st,ntf->nsf", self.mixing, block_inputs(encrypted, self.block_size))  # (n, N, F)
        blocks = Linear(self.mixing, self.down, self.up, self.bias).blocks(inputs)
        images: Tensor = self.refine(to_image(blocks, self.block_size), encrypted)
        return images


def fold_of(image_size: int) -> int:
    """By how much a side is folded into channels, so that at least 28 px are left."""
    return max(fold for fold in (1, 2, 4, 8, 16) if fold == 1 or (not image_size % fold and image_size // fold >= 28))


class Refine(nn.Module):
    """Residual convolutions over a first guess and, where it is an image, the ciphertext v and |v|, free of inversion.

    They start as the identity. Large images are folded to 28 .. 55 px (pixel unshuffle), which bounds the cost.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.fold = fold_of(image_size)
        squared, width = self.fold**2, WIDTH if self.fold == 1 else 2 * WIDTH
        self.first = nn.Conv2d(9 * squared, width, 3, padding=1)
        self.between = nn.ModuleList(nn.Conv2d(width, width, 3, padding=step, dilation=step) for step in (1, 2, 4, 1))
        self.last = nn.Conv2d(width, 3 * squared, 3, padding=1)
        self.switch_off()

    def switch_off(self) -> dict[str, Tensor]:
        """Make this the identity; returns the weights that said otherwise."""
        weights = {name: value.clone() for name, value in self.last.state_dict().items()}
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        return weights

    def forward(self, guess: Tensor, encrypted: Tensor) -> Tensor:
        seen = encrypted.permute(0, 3, 1, 2).clamp(-2, 2) if encrypted.ndim == 4 else torch.zeros_like(guess)
        hidden = self.first(functional.pixel_unshuffle(torch.cat([guess, seen, seen.abs()], dim=1), self.fold))
        for layer in self.between:
            hidden = hidden + layer(functional.silu(hidden))
        return guess + functional.pixel_shuffle(self.last(functional.silu(hidden)), self.fold)


# --- without pairs


def train_inverse_unpaired(
    encrypted: np.ndarray, public_plain: np.ndarray, block_size: int, image_size: int, *, steps: int, seed: int
) -> InverseNetwork:
    """Learn a map of ciphertexts to images that a discriminator cannot tell from public ones; hinge loss.

    Args:
        encrypted: ciphertexts under the key under attack, (n, H, W, 3) or tokens (n, N, width).
        public_plain: other images of that kind, uint8, (k, H, W, 3).
        block_size, image_size: sides in pixels.
        steps: of generator and discriminator each; 200 take about 30 s on one core at 32 px.
        seed: of all random choices.

    Returns:
        The network, for :func:`reconstruct`. A negative looks nearly as natural as an image, so scores of these images
        should take the better of the two.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():  # what callers draw afterwards stays the same
        torch.manual_seed(seed)
        inputs = block_inputs(as_tensor(encrypted[:1]), block_size)
        generator = _untrained(inputs, block_size, image_size).to(device())
        critic = discriminator(image_size).to(device())
        # the linear map undoes the cipher; convolutions as fast as it would paint textures over what it has not found
        rates: list[dict[str, Any]] = [
            {"params": [generator.up.requires_grad_()]},
            {"params": generator.refine.parameters(), "lr": 1e-4},
        ]
        of_generator = torch.optim.Adam(rates, lr=2e-3, betas=(0.5, 0.9))
        of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
        average = as_tensor(public_plain.mean(axis=0)).permute(2, 0, 1)
        for _ in tqdm(range(steps), desc="audit: inverse network, unpaired", unit="step", leave=False, file=sys.stderr):
            count = max(2, PIXELS_AT_ONCE // image_size**2)
            real = as_tensor(public_plain[rng.integers(0, len(public_plain), count)]).permute(0, 3, 1, 2)
            made = generator(as_tensor(encrypted[rng.integers(0, len(encrypted), count)]))
            loss = functional.relu(1 - critic(real)).mean() + functional.relu(1 + critic(made.detach())).mean()
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
            # the mean image is matched too, which helps to tell images from negatives where it is not flat
            loss = 10 * (made.mean(0) - average).square().mean() - critic(made).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
    return generator.eval()


def _untrained(inputs: Tensor, block_size: int, image_size: int) -> InverseNetwork:
    """A network that changes nothing where it sees nibbles of bytes; inputs (1, N, F)."""
    (blocks, count), values = inputs.shape[1:], 3 * block_size**2
    up = torch.randn(count, values) / count**0.5
    if count == 2 * values:
        up = torch.cat([torch.eye(values) * 16, torch.eye(values)]) / 17
    linear = Linear(torch.eye(blocks), None, up[None], torch.zeros(blocks, values))
    return InverseNetwork(linear, image_size)


def discriminator(image_size: int) -> nn.Sequential:
    """Three strided convolutions and a score for every place that they see: (n, 3, H, W) to (n, 1, h, w)."""
    normalised, fold = nn.utils.parametrizations.spectral_norm, fold_of(image_size)
    layers: list[nn.Module] = [nn.PixelUnshuffle(fold)]
    channels = 3 * fold**2
    for width in (WIDTH, 2 * WIDTH, 2 * WIDTH):
        layers += [normalised(nn.Conv2d(channels, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        channels = width
    return nn.Sequential(*layers, normalised(nn.Conv2d(channels, 1, 1)))
