"""The command with all its verbs, in the order of the help."""

from ppvit.cli import parties, stages, tools  # isort: split

from ppvit.cli import demo
from ppvit.cli.base import app

__all__ = ["app", "demo", "parties", "stages", "tools"]
