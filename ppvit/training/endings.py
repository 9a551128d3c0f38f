"""How training ends other than by its last epoch; what was saved to resume from is then of no use."""

from __future__ import annotations

from ppvit.core.errors import PpvitError


class Diverged(PpvitError):
    """The loss, or what the network answers, is not a number."""


class Abandoned(Exception):
    """Raised by whoever is told of every epoch and has seen enough."""
