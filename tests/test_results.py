"""What every result file records about its own run."""

import subprocess
import sys

import numpy as np

from ppvit.core.results import peak_memory_bytes


def test_peak_memory_is_that_of_this_process_alone():
    held = np.ones(2**28, np.uint8)  # 256 MiB that are resident here
    here = peak_memory_bytes()
    code = "from ppvit.core.results import peak_memory_bytes; print(peak_memory_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert here > held.nbytes
    assert 2**22 < child < held.nbytes  # an interpreter needs some megabytes, and none of its parent's
