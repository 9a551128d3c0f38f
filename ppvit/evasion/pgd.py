"""Projected gradient descent on the input, with a model of which nothing but the input takes a gradient.

Sources: PGD, Madry et al., arXiv 1706.06083; the KL loss, Zhang et al., TRADES, arXiv 1901.08573; N-FGSM, de Jorge et
al., arXiv 2202.01181.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ppvit.core.errors import PpvitError
from ppvit.evasion.ball import Ball
from ppvit.models.tasks import MULTICLASS, Task

Start = Literal["none", "noise", "uniform", "n_fgsm"]
InnerLoss = Literal["ce", "kl"]
NOISE = 0.001 * 2  # standard deviation of the noise start: 0.001 on the scale 0..1 of TRADES, which is 2 wide here
N_FGSM_WIDTH = 2  # k of N-FGSM: its noise fills a ball that many times as wide as the attack's


@contextmanager
def frozen(model: nn.Module, evaluates: bool = True) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter that requires grad, whatever it was before; all is put back after.

    Its mode stays as it is where ``evaluates`` is False; then running statistics follow what it computes.

    Gradients with respect to the input are the same, but autograd then keeps a smaller part of the activations and
    does not compute the gradients of weights, low-rank ones included.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if evaluates:
        model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def pgd(
    loss_of: Callable[[Tensor], Tensor],
    images: Tensor,
    ball: Ball,
    steps: int,
    step_size: float,
    start: Start | Tensor = "uniform",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Climb a loss inside the ball around every image.

    Args:
        loss_of: inputs like ``images`` to a scalar, a sum over images, so that they do not influence each other.
        images: (n, ...), float32 or float64; projections are computed in this type, under autocast too.
        ball: where the result must lie.
        steps: gradients computed; 0 gives the start.
        step_size: length of a step in the units and the norm of ``ball``.
        start: ``none``, the images; ``noise``, Gaussian of 0.001 of the range; ``uniform``, in the ball; ``n_fgsm``,
            uniform in a ball of twice the radius, outside of which only the last point is brought back. The paper
            leaves that one outside too; here no result ever leaves the ball. Or the points themselves, like ``images``.
        generator: of the start, on the device of ``images``; None for torch's own.

    Returns:
        Adversarial inputs, like ``images``, detached.

    Raises:
        PpvitError: the loss or its gradient is not a number.
    """
    origin = images.detach()
    moved = start.detach() if isinstance(start, Tensor) else _start(origin, ball, start, generator)
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    for _ in range(steps):
        moved.requires_grad_()
        with torch.enable_grad():
            loss = loss_of(moved)
            (gradient,) = torch.autograd.grad(loss, moved)
        finite &= torch.isfinite(loss.detach()) & torch.isfinite(gradient).all()
        moved = ball.project(moved.detach() + step_size * ball.step(gradient), origin)
    moved = ball.project(moved, origin)
    # once at the end: a check at every step would make a GPU wait for the processor
    if not finite:
        raise PpvitError(
            "the loss under attack or its gradient is not a number; lower finetune.learning_rate, or set "
            "finetune.precision=fp32"
        )
    if (excess := (ball.radius(moved, origin) - ball.epsilon).max().item() if len(images) else 0.0) > ball.tolerance:
        raise PpvitError(f"an adversarial image lies {excess:.2g} outside of its ball; this is a defect, report it")
    return moved


def _start(origin: Tensor, ball: Ball, start: Start, generator: torch.Generator | None) -> Tensor:
    if start == "none":
        return origin.clone()
    if start == "uniform":
        return ball.random_start(origin, generator)
    if start == "n_fgsm":
        wide = Ball(ball.norm, N_FGSM_WIDTH * ball.epsilon, ball.box)
        return ball.into_box(origin + wide.draw(origin, generator))
    noise = torch.randn(origin.shape, generator=generator, device=origin.device, dtype=origin.dtype)
    return ball.project(origin + NOISE * noise, origin)


@dataclass(frozen=True)
class PgdAttack:
    """PGD against a classifier.

    Attributes:
        ball, steps, step_size, start: as of :func:`pgd`.
        inner_loss: ``ce``, cross-entropy with the labels; ``kl``, divergence from the logits of the clean images,
            which is flat at the start ``none``.
        task: what logits mean, and so what both losses are.
        training: whether the model stays in training mode.
    """

    ball: Ball
    steps: int
    step_size: float
    start: Start = "uniform"
    inner_loss: InnerLoss = "ce"
    task: Task = MULTICLASS
    training: bool = False

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Adversarial inputs for a model, frozen while it lasts, and in eval mode unless ``training``.

        Args:
            model: inputs to logits (n, C); not the wrapper of several processes, whose bookkeeping expects the
                gradients of parameters.
            images: (n, ...), as the model takes them.
            labels: int64 (n,), or multi-label, float32 (n, C).
            generator: of the start.
            starts: points to start from, like ``images``, in place of those that ``start`` names.

        Raises:
            PpvitError: as of :func:`pgd`.
        """
        with frozen(model, evaluates=not self.training):
            if self.inner_loss == "kl":
                with torch.no_grad():
                    clean = model(images)

            def loss_of(moved: Tensor) -> Tensor:
                logits = model(moved)
                if self.inner_loss == "kl":
                    return self.task.divergence(clean, logits)
                return self.task.loss(logits, labels)

            start = self.start if starts is None else starts
            return pgd(loss_of, images, self.ball, self.steps, self.step_size, start, generator)
