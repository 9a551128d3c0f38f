"""What a machine runs out of is told in one line, in whatever words a library says it; tried for real if possible."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from ppvit.core.shortages import shortage


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "ulimit -f"),
        (OSError("1048576 requested and 0 written"), "disk is full, or"),  # numpy's
        (raised(RuntimeError("[enforce fail] unexpected pos 704 vs 598"), OSError(errno.EFBIG, "")), "ulimit -f"),
        (raised(RuntimeError("unexpected pos 576 vs 534"), RuntimeError("basic_ios::clear: iostream error")), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (MemoryError(), "memory is short"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is short"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory is short"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "memory is short"),
        (RuntimeError("std::bad_alloc"), "memory is short"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory is short"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process was killed"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
    ],
)
def test_each_library_has_its_own_words(error, told):
    assert told in shortage(error)


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("disk full"), OSError(errno.ENOENT, "No such file"), RuntimeError("shape")]
)
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None


WRITERS = """
import sys
from pathlib import Path
from ppvit.core.errors import one_line_errors
from ppvit.core.files import atomic_output
with one_line_errors(), atomic_output(Path(sys.argv[1]) / "out") as path:
    if sys.argv[2] == "text":
        path.write_text("x" * 2**22)
    elif sys.argv[2] == "numpy":
        import numpy
        with open(path, "wb") as file:
            numpy.zeros(2**20).tofile(file)
    elif sys.argv[2] == "picture":
        import numpy
        from PIL import Image
        noise = numpy.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=numpy.uint8)
        Image.fromarray(noise).save(path, format="PNG")
    elif sys.argv[2] == "safetensors":
        import numpy
        from safetensors.numpy import save_file
        save_file({"a": numpy.zeros(2**20)}, path)
    elif sys.argv[2] == "tar":
        from ppvit.data.shards import write_shard
        write_shard(path, [{"png": bytes(2**16), "cls": b"1"}] * 64)
"""
KINDS = ("text", "numpy", "picture", "safetensors", "tar")


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_for_real(tmp_path, kind):
    """A disk of one megabyte, mounted in a name space of its own."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    script = 'mount -t tmpfs -o size=1m none "$0" && "$1" -c "$2" "$0" "$3"; code=$?; ls -A "$0"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(tmp_path), sys.executable, WRITERS, kind],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(rf"error: {tmp_path}/out: the disk is full.*\(it was not written\)\n", done.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_limit_on_the_size_of_files(tmp_path, kind):
    script = 'ulimit -f 1000; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", WRITERS, str(tmp_path), kind],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {tmp_path}/out: .*ulimit -f.*\(it was not written\)\n", done.stderr)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("megabytes", [150, 400])
def test_short_of_memory(tmp_path, megabytes):
    code = (
        "from ppvit.core.process import prepared_process\n"
        "with prepared_process():\n"
        "    import numpy\n"
        "    numpy.ones(2**28)\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "bash", sys.executable, "-c", code],
        check=False, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: memory is short")
    assert done.stderr.count("\n") == 1


def test_no_folder_for_temporary_files(tmp_path):
    code = (
        "from ppvit.core.process import prepared_process\n"
        "import tempfile\n"
        "with prepared_process():\n"
        "    tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
        "    tempfile.TemporaryDirectory()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    told = "error: no folder for temporary files can be written; set TMPDIR to one that can\n"
    assert (done.returncode, done.stderr) == (1, told)
