"""The ``ppvit`` command: every stage as a verb, and what a person does by hand (keys, pictures, predictions, export).

No verb's work is imported before the verb runs, so that ``ppvit --help`` answers at once.
"""

from ppvit.cli import parties, stages, tools  # their verbs, in the order of the help
from ppvit.cli.base import app, run

__all__ = ["app", "parties", "run", "stages", "tools"]
