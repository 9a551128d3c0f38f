"""Privacy: what could whoever trains, or steals the shards, recover? The audit plays that party and measures.

The attacker holds what the trainer holds, the public checkpoint and a few plain images with their ciphertexts. Key
and plain images serve to hand out those few and to score; no attack sees more than :class:`ppvit.audit.view.View`.
Attacks on accuracy, adversarial images, are in :mod:`ppvit.evasion`.
"""

from ppvit.audit.base import ATTACKS, Attack, attack
from ppvit.audit.chosen import chosen_attacks
from ppvit.audit.view import Finding, View

__all__ = ["ATTACKS", "Attack", "Finding", "View", "attack", "chosen_attacks"]
