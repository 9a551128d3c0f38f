"""What the machine has for a run: device, threads, memory, disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ppvit.cli.doctor.finding import Finding

_GIB = 2**30
_LITTLE_DISK, _NO_DISK = 5 * _GIB, _GIB // 2  # a default run takes under half a GiB, docs/disk.md has larger ones
_LITTLE_MEMORY = 2 * _GIB
_FEW_FILES = 1024
_MANY_THREADS = 4  # times the processors


def device() -> Iterator[Finding]:
    """What torch computes on, and that it computes rightly."""
    import torch

    from ppvit.core.device import device, free_bytes, has_bf16, keeps_to_cpu

    chosen = device()
    ones = torch.ones(64, 64, device=chosen)
    if float((ones @ ones).sum()) != 64.0**3:
        yield Finding(
            "device", "problem", f"{chosen} computes wrongly", "set ACCELERATE_USE_CPU=1 and look at its driver"
        )
        return
    if chosen.type == "cuda":
        kind = "bfloat16" if has_bf16() else "no bfloat16"
        free = (free_bytes() or 0) / _GIB
        yield Finding(
            "device", "ok", f"{torch.cuda.get_device_name()}, {free:.0f} GiB free, {kind}, CUDA {torch.version.cuda}"
        )
    elif keeps_to_cpu():
        yield Finding("device", "note", "the CPU, since ACCELERATE_USE_CPU is set", "unset it to use a GPU")
    elif Path("/dev/nvidiactl").exists() and torch.version.cuda is None:
        remedy = "install a build of torch with CUDA, see docs/gpu.md"
        yield Finding("device", "note", "the CPU: there is a GPU, but this torch is built without CUDA", remedy)
    elif Path("/dev/nvidiactl").exists():
        remedy = "a newer driver, or CUDA_VISIBLE_DEVICES"
        yield Finding("device", "note", "the CPU: there is a GPU that torch cannot use", remedy)
    else:
        yield Finding("device", "ok", "the CPU; no GPU was found")


def threads() -> Iterator[Finding]:
    """Threads of torch against processors; how many files may be open."""
    import torch

    from ppvit.core.workers import available_cpus, clustered, requested_workers, training_hosts, training_processes

    cpus, threads = available_cpus(), torch.get_num_threads()
    said = {"workers": requested_workers(), "processes": training_processes(), "hosts": training_hosts()}
    given = ", ".join(f"{number} {name}" for name, number in said.items() if number and name != "hosts")
    engine = f", work on {clustered()}" if clustered() else ""
    found = f"{threads} of torch on {cpus} processors{f', {given}' if given else ''}{engine}"
    if threads > _MANY_THREADS * cpus:
        yield Finding("threads", "note", f"{found}: they wait for each other", f"set OMP_NUM_THREADS={cpus}")
    else:
        yield Finding("threads", "ok", found)
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < _FEW_FILES:
        yield Finding("open files", "note", f"{files} at a time", f"ulimit -n {_FEW_FILES * 4}")


def memory() -> Iterator[Finding]:
    """Memory that is free."""
    import psutil

    free = psutil.virtual_memory().available
    found = f"{free / _GIB:.1f} GiB free"
    if free < _LITTLE_MEMORY:
        yield Finding("memory", "note", found, "close other programs, or lower batch sizes and PPVIT_WORKERS")
    else:
        yield Finding("memory", "ok", found)


def disk() -> Iterator[Finding]:
    """Room on the disks of this folder and of temporary files."""
    import tempfile

    from ppvit.core.files import free_bytes

    for name, folder in (("here", Path()), ("temporary files", Path(tempfile.gettempdir()))):
        free = free_bytes(folder)
        found = f"{name}: {free / _GIB:.1f} GiB free"
        if free < _LITTLE_DISK:
            verdict: Literal["note", "problem"] = "problem" if free < _NO_DISK else "note"
            way = "dvc gc --workspace" if name == "here" else "set TMPDIR"
            yield Finding("disk", verdict, found, f"free some space ({way}); docs/disk.md says what data sets take")
        else:
            yield Finding("disk", "ok", found)
    if not os.access(".", os.W_OK):
        yield Finding("disk", "problem", f"{Path().absolute()} cannot be written", "run in a folder of yours")
