"""Algorithms of homomorphic training by name: known also where the library that runs them is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ppvit.core.errors import UsageError
from ppvit.he.algorithms import ALGORITHMS


def test_names_and_what_each_reads_need_no_tenseal():
    """`settings.json` holds what every stage reads, whatever is installed."""
    code = (
        "import sys; sys.modules['tenseal'] = None; from ppvit.he.algorithms import ALGORITHMS;"
        "print(*(name for name, each in ALGORITHMS.items() if 'learning_rate' in each.reads), *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], text=True, check=True, capture_output=True).stdout.split()
    assert told[0] == "tiles"
    assert told[1] != "volley_revolver"  # its steps follow from the images
    assert not {"torch", "sklearn", "ppvit.config"} & set(told)  # nor anything that is slow to load


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UsageError, match="unknown he.algorithm 'tile'; did you mean 'tiles'"):
        ALGORITHMS["tile"]
