"""The ``ppvit`` command: every stage as a verb, and what a person does by hand (keys, pictures, predictions, export).

No verb's work is imported before the verb runs, so that ``ppvit --help`` answers at once.
"""

import os

from ppvit.core.process import prepared_process


def run() -> None:
    """Entry point: the command with one-line errors, and Ctrl-C in one line while it is still being imported."""
    with prepared_process():
        from ppvit.cli.command import app

        if "_PPVIT_COMPLETE" in os.environ:
            from ppvit.cli.completion import join_words

            join_words(os.environ)
        app()
