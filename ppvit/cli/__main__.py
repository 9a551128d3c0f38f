"""``python -m ppvit.cli`` is the ``ppvit`` command of this very Python."""

from ppvit.cli import run

run()
