"""What a machine runs out of is told in one line, in whatever words a library says it; tried for real if possible."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from test_finetune import make_world

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


def with_mounts(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the shell in a name space of its own, where it may mount; Python is its ``$0``."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    command = ["unshare", "-rm", "sh", "-ec", script, sys.executable, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_for_real(tmp_path, kind):
    """A disk of one megabyte."""
    script = 'mount -t tmpfs -o size=1m none "$1"; "$0" -c "$2" "$1" "$3" || code=$?; ls -A "$1"; exit $code'
    done = with_mounts(script, str(tmp_path), WRITERS, kind)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(rf"error: {tmp_path}/out: the disk is full.*\(it was not written\)\n", done.stderr)


READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$0" "$@"'


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_disk_for_real(tmp_path, kind):
    (tmp_path / "out").write_text("old")
    done = with_mounts(READ_ONLY, str(tmp_path), "-c", WRITERS, str(tmp_path), kind)
    told = f"error: {tmp_path}/out: the disk is read-only; name another place or mount it for writing"
    assert (done.returncode, done.stderr) == (1, f"{told} (it was not written)\n")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "old"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with parameters, shards and an adapted model, which can be trained."""
    folder = tmp_path_factory.mktemp("world")
    config = make_world(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SAVES = """
import sys
from ppvit.core.process import prepared_process
with prepared_process():
    import torch
    from ppvit.core.scratch import scratch_folder
    from ppvit.training.checkpoint import Checkpoint
    model = torch.nn.Linear(2, 2)
    Checkpoint({"seed": 0}, scratch_folder()).save(model, torch.optim.SGD(model.parameters()), {})
"""


@pytest.mark.long
@pytest.mark.parametrize("what", ["verb", "checkpoint"])
def test_stages_on_a_read_only_disk(world, tmp_path, what):
    before = files_in(world)
    encrypt = ["-m", "ppvit.cli", "encrypt", "--params", str(world / "params.yaml"), "--raw", str(world / "raw")]
    command = [*encrypt, "--out", str(tmp_path / "out")] if what == "verb" else ["-c", SAVES]
    done = with_mounts(READ_ONLY, str(tmp_path), *command, PPVIT_SCRATCH=str(tmp_path))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: the public demo key")]
    assert len(lines) == 1, done.stderr
    (line,) = lines
    assert line.startswith(f"error: {tmp_path}/")
    assert "the disk is read-only; " in line
    assert os.listdir(tmp_path) == []
    assert files_in(world) == before


LOADS = """
import sys
from pathlib import Path
from ppvit.core.process import prepared_process
with prepared_process():
    import numpy as np
    from ppvit.data.batches import EncryptedImages, load_batches
    dataset = EncryptedImages(Path(sys.argv[1]), "train")
    # the same images as often as sys.argv[2] says
    batches = [np.tile(np.arange(len(dataset)), int(sys.argv[2]))] * 4
    for _ in load_batches(dataset, batches):
        pass
"""


ENCRYPTS = """
import sys
from pathlib import Path
from ppvit.core.process import prepared_process
with prepared_process():
    import ppvit.data.encrypted
    ppvit.data.encrypted.PARALLEL_PIXELS = 0
    from ppvit.config import load
    from ppvit.places import Places
    from ppvit.verbs import encrypt
    config = load(Path(sys.argv[1]) / "params.yaml", ["encrypt.images_per_shard=8"])
    encrypt.run(config, Places.of(config, raw=Path(sys.argv[1]) / "raw", encrypted=Path(sys.argv[2])))
"""


_USERS = 2**20  # above those that there are
SMALL = 'mount -t tmpfs -o size="$1" none /dev/shm; shift; exec "$0" "$@"'
SHORT = "shared memory (/dev/shm) is short; make it larger (docker run --shm-size=2g) or set PPVIT_WORKERS=0"


# one that takes none of the locks that processes share, and one that takes them and one image after another, but no
# batch of 50 * 40 * 768 bytes
@pytest.mark.long
@pytest.mark.parametrize(("size", "repeated"), [("8k", 1), ("512k", 40)])
def test_small_shared_memory_for_real(world, size, repeated):
    done = with_mounts(SMALL, size, "-c", LOADS, str(world / "encrypted"), str(repeated), PPVIT_WORKERS="2")
    assert (done.returncode, done.stderr) == (1, f"error: {SHORT}\n")


def test_encrypting_with_small_shared_memory(world, tmp_path):
    """Enough for the first lock, with which joblib looks whether it can have any, and for no more."""
    done = with_mounts(SMALL, "16k", "-c", ENCRYPTS, str(world), str(tmp_path / "out"), PPVIT_WORKERS="2")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: the public demo key")]
    assert len(lines) == 1, done.stderr
    (line,) = lines
    assert line == f"error: {tmp_path}/out: {SHORT} (it was not written)"
    assert os.listdir(tmp_path) == []


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


@pytest.mark.long
@pytest.mark.parametrize(("what", "processes"), [("load", 1), ("load", 3), ("encrypt", 2)])
def test_no_more_processes_for_real(world, tmp_path, what, processes):
    """A user who may have so many processes and threads; that limit does not hold for root, who lends its files."""
    tmp_path.chmod(0o777)
    arguments = {"load": [LOADS, str(world / "encrypted"), "1"], "encrypt": [ENCRYPTS, str(world), f"{tmp_path}/out"]}
    command = [sys.executable, "-c", *arguments[what]]
    limited = ["bash", "-c", f'ulimit -u {processes}; exec "$@"', "bash", *command]
    if os.getuid() == 0:
        lent = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        user = _USERS + os.getpid()  # of whom nothing else runs that would count
        other = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *lent]
        if not shutil.which("setpriv") or subprocess.run([*other, "true"], check=False).returncode:
            pytest.skip("root may have any number of processes, and cannot become another user here")
        limited = [*other, *limited]
    single = {"OPENBLAS_NUM_THREADS": "1", "PPVIT_WORKERS": "2", "TMPDIR": str(tmp_path)}
    done = subprocess.run(limited, env={**os.environ, **single}, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: the public demo key")]
    assert len(lines) == 1, done.stderr
    (line,) = lines
    assert re.match("error: (.*/out: )?no more processes or threads may be started; raise `ulimit -u`", line)
    assert not list(tmp_path.iterdir())
