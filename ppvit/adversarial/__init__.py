"""Adversarial examples within a ball around the plain image, and fine-tuning against them.

Source: LoFT, low-rank adversarial fine-tuning; TRADES, Zhang et al., arXiv 1901.08573; PGD, Madry et al., arXiv
1706.06083.
"""

from ppvit.adversarial.attack import Attack, frozen, pgd
from ppvit.adversarial.ball import Ball
from ppvit.adversarial.isometry import plain_ball

__all__ = ["Attack", "Ball", "frozen", "pgd", "plain_ball"]
