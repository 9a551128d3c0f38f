"""Pre-training without labels against an attack: ACL, DynACL, AdvCL.

Sources, by their public code: ACL, Jiang et al., arXiv 2010.13337 (dual stream); DynACL, Luo et al., ICLR 2023; AdvCL,
Fan et al., arXiv 2111.01124. The attack climbs the contrastive loss itself, from a uniform start, through the
normalisations of adversarial images, in evaluation mode (AdvCL's code leaves it in training mode).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional

from ppvit.config import Pretrain
from ppvit.evasion.ball import Ball
from ppvit.evasion.pgd import frozen, pgd
from ppvit.training.contrastive.networks import Encoder, lightly
from ppvit.training.contrastive.objectives import Contrastive, Slow
from ppvit.training.contrastive.pairs import progress_of
from ppvit.training.paired_norms import keep_norm, pair_norms, through

ATTACKED, CLEAN, GUESSED = "attacked", "clean", "guessed"  # normalisations; the first are kept
CLUSTERS = (2, 10, 50, 100, 500)  # of AdvCL
SHARPNESS = 0.07  # of its contrastive loss, which is multiplied by temperature / 0.07
LOW_FREQUENCIES = 4  # of the spectrum, a disc of radius side / 4 is low: 8 of 32 pixels


@dataclass(frozen=True)
class Climb:
    """An attack that climbs a loss of its own; attributes as of :func:`ppvit.evasion.pgd.pgd`."""

    ball: Ball
    steps: int
    step_size: float


class Attacked(Contrastive):
    """What the three have in common: normalisations of their own for adversarial images, and the attack.

    Args:
        encoder, settings, steps_per_epoch: as of :class:`Contrastive`; every batch normalisation of the encoder becomes
            a pair or three of them.
        climb: the attack.
        device: of its random starts.
    """

    norms: tuple[str, ...] = (ATTACKED, CLEAN)

    def __init__(
        self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int, climb: Climb, device: torch.device
    ) -> None:
        pair_norms(encoder, self.norms)
        super().__init__(encoder, settings, steps_per_epoch)
        self._climb, self._generator, self._epoch = climb, torch.Generator(device), 0

    def begin_step(self, epoch: int, step: int) -> None:
        super().begin_step(epoch, step)
        self._epoch = epoch
        words = (self._settings.seed, epoch, step)  # a new stream for every step, so that a resumed run needs no state
        self._generator.manual_seed(int(np.random.default_rng(words).integers(2**63)))

    def finished(self) -> nn.Module:
        return keep_norm(self.kept, ATTACKED)

    def _networks(self) -> list[Encoder]:
        """All that compute the loss."""
        return [self._encoder]

    def _perturbed(self, loss_of: Callable[[Tensor], Tensor], inputs: Tensor, norm: str = ATTACKED) -> Tensor:
        """Inputs in their balls where a loss is large, through the normalisations of this name."""
        climb = self._climb
        with ExitStack() as stack:
            for network in self._networks():
                stack.enter_context(frozen(network))
                stack.enter_context(through(network, norm))
            return pgd(loss_of, inputs, climb.ball, climb.steps, climb.step_size, "uniform", self._generator)


class Acl(Attacked):
    """NT-Xent of both clean views and of both adversarial ones, half each; both views are perturbed together."""

    def __init__(
        self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int, climb: Climb, device: torch.device
    ) -> None:
        super().__init__(encoder, settings, steps_per_epoch, climb, device)
        self._nt_xent = lightly("loss").NTXentLoss(settings.temperature)

    def mean_loss(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        clean = torch.cat(views)
        moved = self._perturbed(lambda inputs: len(inputs) * self._contrasted(self._encoder, inputs), clean)
        with ExitStack() as stack:
            for network in self._networks():
                stack.enter_context(through(network, CLEAN))
            natural = self._contrasted(model, clean)
        weight = self._robust_weight()
        return ((2 - weight) * natural + weight * self._contrasted(model, moved)) / 2

    def _contrasted(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """NT-Xent of the first half of inputs, first views, and the second."""
        loss: Tensor = self._nt_xent(*model(inputs).chunk(2))
        return loss

    def _robust_weight(self) -> float:
        return 1.0


class DynAcl(Acl, Slow):
    """ACL with second views through a slow network, which is the one that is kept; views weaken, the robust loss grows.

    What views are at an epoch see :meth:`ppvit.data.contrast.Contrast.at`. Its second phase on pseudo-labels (DynACL++)
    is not done here.
    """

    def __init__(
        self, encoder: Encoder, settings: Pretrain, steps_per_epoch: int, climb: Climb, device: torch.device
    ) -> None:
        super().__init__(encoder, settings, steps_per_epoch, climb, device)
        self.kept = self.slow.backbone

    def _networks(self) -> list[Encoder]:
        return [self._encoder, self.slow]

    def _contrasted(self, model: nn.Module, inputs: Tensor) -> Tensor:
        first, second = inputs.chunk(2)
        loss: Tensor = self._nt_xent(model(first), self.slow(second))
        return loss

    def _robust_weight(self) -> float:
        """From 1 to 5/3 at the end; that of the clean loss falls from 1 to 1/3."""
        return 1 + 2 / 3 * progress_of(self._epoch, self._settings.epochs)


class AdvCl(Attacked):
    """Four views told from all others, one of them adversarial and one of high frequencies; and pseudo-labels.

    Views: two strongly changed ones, a third one that is only shifted and mirrored, under attack, and the high
    frequencies of that. A second adversarial copy of the third one is classified by a linear head for each set of
    pseudo-labels, weighed by ``pretrain.pseudo_weight``. The published pseudo-labels are clusters of features of an
    extractor that was trained on ImageNet with labels; ours are clusters of features of the network that the run starts
    from, so that no label is used anywhere.

    Args:
        guesses: pseudo-labels of all images, int64 (images, sets).
    """

    norms = (ATTACKED, CLEAN, GUESSED)

    def __init__(
        self,
        encoder: Encoder,
        settings: Pretrain,
        steps_per_epoch: int,
        climb: Climb,
        device: torch.device,
        guesses: np.ndarray,
    ) -> None:
        super().__init__(encoder, settings, steps_per_epoch, climb, device)
        width = next(each for each in encoder.projector.modules() if isinstance(each, nn.Linear)).in_features
        heads = [nn.Linear(width, int(count)) for count in guesses.max(0) + 1]
        encoder.guesses.extend(heads).to(device)
        self._table = torch.from_numpy(guesses).to(device)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Contrastive.loss`; ``labels`` are the numbers of images, int64 (n,)."""
        self._guesses = self._table[labels]
        return super().loss(model, images, labels)

    def mean_loss(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        first, second, plain = views
        with through(model, CLEAN):
            rest = model(torch.cat([first, second, high_frequencies(plain)])).chunk(3)

        def told_apart(moved: Tensor) -> Tensor:
            return one_of_many(torch.stack([*kept, self._encoder(moved)]), self._settings.temperature) * len(moved)

        def guessed(moved: Tensor) -> Tensor:
            return self._guessed(moved) * len(moved)

        kept = [each.detach() for each in rest]
        moved = self._perturbed(told_apart, plain)
        contrast = one_of_many(torch.stack([*rest, model(moved)]), self._settings.temperature)
        other = self._perturbed(guessed, plain, GUESSED)
        with through(model, GUESSED):
            return contrast + self._settings.pseudo_weight * self._guessed(other)

    def _guessed(self, inputs: Tensor) -> Tensor:
        """Mean cross-entropy of all sets of pseudo-labels."""
        features = self._encoder.features(inputs)
        losses = [
            functional.cross_entropy(head(features).float(), self._guesses[:, number])
            for number, head in enumerate(self._encoder.guesses)
        ]
        return torch.stack(losses).mean()


def one_of_many(projections: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss of Khosla et al. (arXiv 2004.11362, Eq. 2) with images for classes, a scalar.

    Times temperature / 0.07, as AdvCL's code has it.

    Args:
        projections: float32 (views, n, P).
    """
    views, images, _ = projections.shape
    rows = functional.normalize(projections.flatten(0, 1), dim=1)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    likeness = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    chance = likeness.log_softmax(1).masked_fill(itself, 0.0)
    same = torch.eye(images, device=rows.device).repeat(views, views).masked_fill(itself, 0.0)
    return -(temperature / SHARPNESS) * (chance * same).sum(1).mean() / (views - 1)


def high_frequencies(inputs: Tensor) -> Tensor:
    """Images without the centred disc of their spectrum, float32 (n, 3, H, W) in [-1, 1] to about [-1.5, -0.5].

    On a 0..1 scale it is ``x - low(x)``, not clipped; as inputs, which are ``2 x - 1``, that is ``u - low(u) - 1``.
    """
    side = inputs.shape[-1]
    steps = torch.fft.fftfreq(side, 1 / side, device=inputs.device)
    far = (steps[:, None] ** 2 + steps**2).sqrt() > side / LOW_FREQUENCIES
    high: Tensor = torch.fft.ifft2(torch.fft.fft2(inputs.float()) * far).real
    return high - 1


def pseudo_labels(features: np.ndarray, seed: int) -> np.ndarray:
    """Clusters of features by k-means, int64 (n, sets): as many sets as there are images enough for.

    Args:
        features: float32 (n, D), n at least 4.
        seed: of the first centres.
    """
    sets = [count for count in CLUSTERS if 2 * count <= len(features)]
    found = [KMeans(count, n_init=1, random_state=seed).fit_predict(features) for count in sets]
    return np.stack(found, axis=1).astype(np.int64)
