"""One stage, in the project that is the working folder: ``python stage.py NAME``; ended as ``killing`` is told to."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import killing

killing.install()

from ppvit.cli.script import main

main(sys.argv[1])
