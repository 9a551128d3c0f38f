"""``ppvit doctor``: what a run needs of this machine and project, each with a verdict and a remedy. Changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ppvit.core.errors import PpvitError, told

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from ppvit.config import Config

_GIB = 2**30
_LITTLE_DISK, _NO_DISK = 5 * _GIB, _GIB // 2  # a default run takes under half a GiB, docs/disk.md has larger ones
_LITTLE_MEMORY = 2 * _GIB
_FEW_FILES = 1024
_MANY_THREADS = 4  # times the processors


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: what was looked at.
        verdict: ``ok``; ``note``: a run goes on without it; ``problem``: some stage will fail.
        found: what there is.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    verdict: Literal["ok", "note", "problem"]
    found: str
    remedy: str = ""


def examine(params: Path) -> list[Finding]:
    """All checks. None of them ends the others: a check that fails is a problem itself.

    Args:
        params: the parameter file, which may be missing.
    """
    findings, config = _parameters(params)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("device", _device),
        ("threads", _threads),
        ("memory", _memory),
        ("key ring", lambda: _key_ring(config)),
        ("remotes", _remotes),
        ("disk", _disk),
        ("weights", lambda: _weights(config)),
        ("extras", _extras),
    ]
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # what is broken here is what a person came to find out
            line = told(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            findings.append(Finding(name, "problem", line, "" if isinstance(error, PpvitError) else "see the error"))
    return findings


def _parameters(path: Path) -> tuple[list[Finding], Config | None]:
    from ppvit.config import load

    if not path.exists():
        remedy = "run at the top of a project; `ppvit params > params.yaml` writes one with all defaults"
        return [Finding("parameters", "note", f"{path} is missing", remedy)], None
    try:
        config = load(path)
    except PpvitError as error:
        return [Finding("parameters", "problem", str(error), f"correct {path}")], None
    return [Finding("parameters", "ok", f"{path}: all are known and in range")], config


def _requirements(extra: str | None = None) -> list[Requirement]:
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requires("ppvit") or []]
    if extra is None:
        return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    of_all = _requirements()
    return [each for each in parsed if each not in of_all and each.marker and each.marker.evaluate({"extra": extra})]


def _lacking(requirements: list[Requirement]) -> list[str]:
    """Requirements that are not installed, or in another version, each with what there is."""
    found = []
    for each in requirements:
        try:
            there = version(each.name)
        except PackageNotFoundError:
            found.append(f"{each.name} (missing)")
            continue
        if not each.specifier.contains(there, prereleases=True):
            found.append(f"{each.name} {there} (needs {each.specifier})")
    return found


def _versions() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    python = ".".join(map(str, sys.version_info[:3]))
    try:
        allowed = SpecifierSet(metadata("ppvit")["Requires-Python"] or "")
    except PackageNotFoundError:
        yield Finding("versions", "problem", "ppvit is not installed here", "pip install -e . in the clone")
        return
    if python in allowed:
        yield Finding("python", "ok", python)
    else:
        yield Finding("python", "problem", f"{python}, and ppvit needs {allowed}", "use a Python in that range")
    needed = _requirements()
    if lacking := _lacking(needed):
        wanted = " ".join(f"'{each.name}{each.specifier}'" for each in needed if _lacking([each]))
        yield Finding("packages", "problem", ", ".join(lacking), f"pip install {wanted}")
    else:
        main = ", ".join(f"{name} {version(name)}" for name in ("ppvit", "torch", "timm", "peft", "dvc"))
        yield Finding("packages", "ok", f"{main}; all {len(needed)} in range")


def _device() -> Iterator[Finding]:
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


def _threads() -> Iterator[Finding]:
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


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    found = f"{free / _GIB:.1f} GiB free"
    if free < _LITTLE_MEMORY:
        yield Finding("memory", "note", found, "close other programs, or lower batch sizes and PPVIT_WORKERS")
    else:
        yield Finding("memory", "ok", found)


def _key_ring(config: Config | None) -> Iterator[Finding]:
    from ppvit.ciphers.keys import DEMO_KEY, keyring
    from ppvit.core.private import require_private_folder
    from ppvit.verbs import keys

    folder = keyring()
    if folder.exists():
        require_private_folder(folder)
    if config is None:
        yield Finding("key ring", "ok", f"{folder}: {len(list(folder.glob('pk-*.key')))} keys")
        return
    from ppvit.places import Places

    listed = keys.run(config, Places.of(config))
    own = [each for each in listed if each.kept not in ("public", "missing")]
    yield Finding("key ring", "ok", f"{folder}: {len(own)} key{'s'[: len(own) != 1]}")
    for each in listed:
        if each.key_id == DEMO_KEY.id and each.used:
            remedy = "`ppvit keygen`, then set cipher.key_id to the id that it prints"
            yield Finding("key", "note", f"{each.key_id} is the public demo key, which protects nothing", remedy)
        elif each.problem and each.used:
            missing = "restore it from your backup, or set PPVIT_KEYRING; the trainer needs none"
            remedy = missing if each.kept == "missing" else "see `ppvit keys`"
            verdict: Literal["note", "problem"] = "note" if each.kept == "missing" else "problem"
            yield Finding("key", verdict, f"{each.key_id}, used by {', '.join(each.used)}: {each.problem}", remedy)


def _remotes() -> Iterator[Finding]:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        repository = Repo()
    except NotDvcRepoError:
        yield Finding("remotes", "note", "this folder is in no DVC project", "run in a clone, or: git init && dvc init")
        return
    with repository as repo:
        remotes, default = repo.config["remote"], repo.config["core"].get("remote")
        if not remotes:
            remedy = "dvc remote add -d shared PLACE, where the trainer reads; docs/handover.md"
            yield Finding("remotes", "note", "none, so that nothing is handed over by `dvc push`", remedy)
        for name in remotes:
            what = f"{name}{' (default)' if name == default else ''}"
            try:
                remote = repo.cloud.get_remote(name)
            except (DvcException, ImportError) as error:  # a kind of remote has a package of its own, such as dvc-s3
                line = " ".join(str(error).split())
                yield Finding("remote", "problem", f"{what}: {line}", "pip install the package of that kind of remote")
                continue
            if remote.fs.protocol != "local":
                asks = f"`dvc status -c -r {name}` asks it"
                yield Finding("remote", "ok", f"{what}: {remote.fs.unstrip_protocol(remote.path)}, not asked; {asks}")
            elif not Path(remote.path).is_dir():
                yield Finding("remote", "note", f"{what}: {remote.path} does not exist yet", "`dvc push` makes it")
            elif not os.access(remote.path, os.W_OK):
                yield Finding("remote", "note", f"{what}: {remote.path} cannot be written", "fine for who only pulls")
            else:
                yield Finding("remote", "ok", f"{what}: {remote.path}")
        if remotes and not default:
            yield Finding("remote", "note", "none is the default", f"dvc remote default {next(iter(remotes))}")


def _disk() -> Iterator[Finding]:
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


def _weights(config: Config | None) -> Iterator[Finding]:
    from ppvit.config import NO_MODEL
    from ppvit.models import MICRO_NAME
    from ppvit.places import Places

    if config is None:
        return
    model, embedded = config.model, Places.of(config).embedded
    if not model.pretrained:
        yield Finding("weights", "note", f"{model.name} starts from random weights", "model.pretrained=true")
    elif model.checkpoint != NO_MODEL:
        there = Path(model.checkpoint).exists()
        remedy = "" if there else "put or link your weights there, or set model.checkpoint=models/none"
        found = f"{model.checkpoint} {'is there' if there else 'does not exist'}"
        yield Finding("weights", "ok" if there else "problem", found, remedy)
    elif model.name == MICRO_NAME:
        there = embedded.is_file()
        remedy = "" if there else f"git checkout -- {embedded}, or `ppvit pretrain`"
        yield Finding(
            "weights", "ok" if there else "problem", f"{embedded} {'is there' if there else 'is missing'}", remedy
        )
    else:
        yield _public_weights(model.name)


def _public_weights(name: str) -> Finding:
    import timm
    from huggingface_hub import try_to_load_from_cache

    source = timm.get_pretrained_cfg(name)
    if source is None or not source.hf_hub_id:
        remedy = "name weights of yours with model.checkpoint"
        return Finding("weights", "note", f"timm knows no weights of {name} on a hub", remedy)
    names = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(source.hf_hub_id, each), str) for each in names):
        return Finding("weights", "ok", f"{source.hf_hub_id}, fetched before")
    remedy = "fetched by `adapt`; without a network put them on this machine and name them with model.checkpoint"
    return Finding("weights", "note", f"{source.hf_hub_id} is not on this machine", remedy)


def _extras() -> Iterator[Finding]:
    try:
        extras = metadata("ppvit").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return
    lacking = {each: _lacking(_requirements(each)) for each in extras if each not in ("test", "fuzz")}
    there = [each for each, missing in lacking.items() if not missing and _requirements(each)]
    yield Finding("extras", "ok", ", ".join(there) or "none")
    if absent := [each for each, missing in lacking.items() if missing]:
        remedy = f"pip install 'ppvit[{','.join(absent)}]', of these only what you use"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", remedy)
