"""The command with all its verbs, in the order of the help."""

from ppvit.cli import comparing, parties, stages, tools
from ppvit.cli.base import app

__all__ = ["app", "comparing", "parties", "stages", "tools"]
