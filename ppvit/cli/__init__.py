"""The ``ppvit`` command: every stage as a verb, and what a person does by hand (keys, pictures, predictions, export).

No verb's work is imported before the verb runs, so that ``ppvit --help`` answers at once.
"""

import os

from ppvit.core.process import prepared_process


def run() -> None:
    """Entry point: the command with one-line errors, and Ctrl-C in one line while it is still being imported."""
    with prepared_process():
        from ppvit.cli.answers import run_command
        from ppvit.cli.command import app

        if "COMP_WORDS" in os.environ:  # bash asks what it may offer
            from ppvit.cli.completion import join_words

            join_words(os.environ)
        run_command(app)
