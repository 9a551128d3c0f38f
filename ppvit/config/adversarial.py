"""The parameters of adversarial fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppvit.config.section import Section

AdversarialLoss = Literal["none", "at", "trades"]


class Adversarial(Section):
    """the attack that fine-tuning defends against; read only where finetune.adversarial is at or trades"""

    norm: Literal["linf", "l2"] = "linf"
    """how a perturbation is measured: linf, its largest value; l2, its Euclidean length over all pixels and colours"""
    epsilon: float = Field(8.0, gt=0, le=100_000)
    """largest perturbation, in grey levels (0..255) of the plain image, whatever the cipher; 128 is usual for l2"""
    steps: int = Field(10, ge=1, le=1000)
    """gradient steps of an attack; its time is proportional to them"""
    step_size: float = Field(2.0, gt=0, le=100_000)
    """length of a step, in grey levels, in the same norm"""
    start: Literal["auto", "none", "noise", "uniform", "n_fgsm"] = "auto"
    """none: at the image; noise: near (auto for kl, branch=lora); uniform: in the ball (else auto); n_fgsm: one step"""
    inner_loss: Literal["auto", "ce", "kl"] = "auto"
    """what it maximises: kl, divergence from the clean prediction (auto for trades, no branch); ce, cross-entropy"""
    mode: Literal["eval", "train"] = "eval"
    """of the network under attack in training: train takes statistics of the batch, as some published code does"""
    branch: Literal["none", "twins", "lora"] = "none"
    """second way through the network, dropped after: twins, by frozen statistics; lora, for clean images (AutoLoRa)"""
    branch_weight: float = Field(1.0, ge=0, le=1e6)
    """branch=twins: weight of the half of a batch that goes through frozen statistics"""
    branch_rank: int = Field(8, ge=1, le=8192)
    """branch=lora: rank of the update for clean images"""
    natural_weight: float = Field(1.0, ge=0, le=1e6)
    """trades: weight u of the cross-entropy on clean images"""
    robust_weight: float = Field(6.0, ge=0, le=1e6)
    """trades: weight v of the divergence under attack; more is more robust and less accurate"""
    scalars: Literal["fixed", "auto"] = "fixed"
    """trades: auto takes u (1 - A) and v A instead, A the accuracy on clean images, four times an epoch (AutoLoRa)"""
    warmup_epochs: int = Field(0, ge=0, le=10_000)
    """epochs over which epsilon and step_size rise from zero"""
    head_init: Literal["random", "robust"] = "random"
    """robust: the head alone is trained against the attack first (RoLI), for backbones pretrained without one"""
    head_epochs: int = Field(2, ge=1, le=10_000)
    """epochs in which head_init=robust trains the head alone"""
    fallback_steps: int = Field(10, ge=1, le=1000)
    """the attack takes this many steps, if more than steps, once accuracy under PGD-20 is 5 points below its best"""


def require_consistent(loss: AdversarialLoss, settings: Adversarial, epochs: int) -> None:
    """Refuse combinations that cannot train.

    Args:
        loss: ``finetune.adversarial``.
        settings: the section.
        epochs: ``finetune.epochs``.

    Raises:
        ValueError: one line that names the parameters.
    """
    if settings.norm == "linf" and settings.epsilon > 255:
        raise ValueError(f"adversarial.epsilon {settings.epsilon:g} is beyond the 255 levels of a pixel; choose less")
    if loss == "none":
        return
    if settings.start == "n_fgsm" and settings.steps != 1:
        raise ValueError(
            f"adversarial.start n_fgsm is an attack of one step; set adversarial.steps=1, not {settings.steps}"
        )
    if settings.branch == "lora" and loss == "at":
        raise ValueError("adversarial.branch lora needs the clean images too; set finetune.adversarial=trades, not at")
    divergent = loss == "trades" and settings.branch == "none"
    kl = settings.inner_loss == "kl" or (settings.inner_loss == "auto" and divergent)
    if settings.start == "none" and kl:
        raise ValueError(
            "adversarial.start none never leaves the image with adversarial.inner_loss kl, whose gradient is zero "
            "there; set adversarial.start=noise"
        )
    begins_at_image = kl or settings.branch == "lora"
    reach = settings.steps * settings.step_size
    # from a start inside the ball one goes on; these two begin at the image
    if reach < settings.epsilon and (
        settings.start in ("none", "noise") or (settings.start == "auto" and begins_at_image)
    ):
        raise ValueError(
            f"adversarial.step_size {settings.step_size:g} is too short: {settings.steps} steps of it reach {reach:g} "
            f"of adversarial.epsilon {settings.epsilon:g}; set "
            f"adversarial.step_size={min(settings.epsilon, 2.5 * settings.epsilon / settings.steps):g}"
        )
    if settings.warmup_epochs >= epochs:
        raise ValueError(
            f"adversarial.warmup_epochs {settings.warmup_epochs} leaves none of the {epochs} finetune.epochs at full "
            f"strength; set it to {epochs - 1} or less"
        )
    if loss == "trades" and settings.natural_weight == settings.robust_weight == 0:
        raise ValueError("adversarial.natural_weight and robust_weight are both 0; set one above 0")
