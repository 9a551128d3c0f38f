"""Which bytes are the same on another clone, with other workers, threads and processes, stage by stage.

    python tests/harness/determinism.py [--short | --stages encrypt adapt ...]

Runs the pipeline's stages on a small data set in folders of their own, each time with one thing changed, and compares
what they wrote with what the first run wrote. Prints the table of docs/determinism.md, as measured here, row by row:
"same" means the same bytes; below it which files differ, and by how much. What differs on one machine may agree on
another; what is the same must be so everywhere. The short form, a part of the tests, forks instead of starting
processes and leaves out the slow stages, and workers that read.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

OUTPUTS = {
    "encrypt": ("data/encrypted/digits",),
    "adapt": ("models/adapted", "results/adapt.json"),
    "finetune": ("models/finetuned", "results/finetune.json"),
    "evaluate": ("results/evaluate.json", "results/plots"),
    "robustness": ("results/robustness.json", "results/robustness"),
    "verify": ("results/verify.json",),
    "threats": ("results/threats.json",),
    "audit": ("results/audit.json", "results/audit"),
    "report": ("results/report.html",),
    "he": ("results/he.json", "models/he"),
}
SHORT = ("encrypt", "adapt", "finetune", "evaluate")
PRIVATE = {"PPVIT_KEYRING": "keyring", "PPVIT_SCRATCH": "scratch", "PPVIT_CACHE": "cache"}
Found = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Change:
    """What is other in a run.

    Attributes:
        told: head of its column.
        environment: variables that differ from the first run's.
        umask: of its processes.
        folder: name of its folder, of another length.
        processes: that share a stage.
    """

    told: str
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    folder: str = "clone"
    processes: int = 1


USUAL = {"OMP_NUM_THREADS": "1", "PPVIT_WORKERS": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
ELSEWHERE = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "12345"}
CHANGES = (
    Change("another clone", ELSEWHERE, 0o077, "another clone in a longer place"),
    Change("workers", {"PPVIT_WORKERS": "2"}, folder="workers"),
    Change("threads", {"OMP_NUM_THREADS": "2"}, folder="threads"),
    Change("processes", processes=2, folder="processes"),
)
Run = Callable[[str, Path, Change], None]
Concerns = Callable[[str, Change], bool]


def prepare(folder: Path) -> None:
    """A project folder with raw data, the embedded model, a key and parameters, the same each time."""
    import yaml
    from conftest import make_config, write_raw

    from ppvit.ciphers import keys

    key = keys.Key(bytes(range(32)))
    keys.save(key, folder / "keyring")
    write_raw(folder / "data" / "raw" / "digits", {"train": 96, "test": 48}, size=32)
    (folder / "models" / "pretrained").mkdir(parents=True)
    for weights in (ROOT / "models" / "pretrained").glob("*.safetensors"):
        shutil.copy(weights, folder / "models" / "pretrained")
    config = make_config(
        cipher={"key_id": key.id},
        encrypt={"images_per_shard": 16},
        finetune={"epochs": 2, "batch_size": 32},
        robustness={"images": 4, "epsilons": [32.0]},
        verify={"wrong_keys": 1},
        he={"features": "pixels", "train_images": 32, "components": 8},
        audit={"known_pairs": [1], "pooled_images": [1], "images": 2, "candidates": 4, "training_steps": 2},
        threats={"images": 2, "surrogate_images": 20, "queries": 4},
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each file of a stage's outputs."""
    files = [
        path
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
    ]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }


def every(stage: str, change: Change) -> bool:
    """Whether a change can matter to a stage: some are shared by several processes."""
    from ppvit.pipeline import STAGES

    return change.processes == 1 or STAGES[stage].shared


def quick(stage: str, change: Change) -> bool:
    """Those of :func:`every` that take no process which imports torch."""
    return change.processes == 1 and ("PPVIT_WORKERS" not in change.environment or stage == "encrypt")


def measure(
    stages: tuple[str, ...], changes: tuple[Change, ...], run: Run, root: Path, concerns: Concerns = every
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Run the stages as usual and with each change, and as usual only those that come before one of them.

    Every stage starts from what the usual run wrote, so that a difference is its own.

    Yields:
        Each stage, and which files differ by change.
    """
    usual = root / "usual"
    prepare(usual)
    folders = {change.told: root / change.folder for change in changes}
    for stage in tuple(OUTPUTS)[: 1 + max(list(OUTPUTS).index(stage) for stage in stages)]:
        if stage not in stages:  # it is needed by those that are measured
            run(stage, usual, Change("usual"))
            continue
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(usual, folder, copy_function=shutil.copy)
            (folder / "keyring").chmod(0o700)
        run(stage, usual, Change("usual"))
        first = hashes(usual, OUTPUTS[stage])
        if not first:
            raise RuntimeError(f"{stage} wrote none of {OUTPUTS[stage]}")
        found: dict[str, list[str]] = {}
        for change in changes:
            if not concerns(stage, change):
                continue
            run(stage, folders[change.told], change)
            second = hashes(folders[change.told], OUTPUTS[stage])
            found[change.told] = [
                f"{name} {distance(usual / name, folders[change.told] / name)}"
                for name in sorted(first.keys() | second.keys())
                if first.get(name) != second.get(name)
            ]
        yield stage, found


def distance(first: Path, second: Path) -> str:
    """How far two files are apart: weights by the largest difference of one, results by each figure's."""
    if not (first.is_file() and second.is_file()):
        return "(one is not there)"
    if first.suffix == ".safetensors":
        import torch
        from safetensors.torch import load_file

        one, other = load_file(first), load_file(second)
        if one.keys() != other.keys():
            return "(other tensors)"
        pairs = [(one[name].double(), other[name].double()) for name in one]
        apart = max(float((a - b).abs().max()) for a, b in pairs)
        largest = max(float(torch.abs(a).max()) for a, _ in pairs)
        return f"(weights up to {largest:.2g} differ by at most {apart:.1g})"
    if first.suffix == ".json":
        one, other = json.loads(first.read_text()), json.loads(second.read_text())
        apart = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
        return f"({', '.join(f'{name}: {one.get(name)!s:.24} and {other.get(name)!s:.24}' for name in sorted(apart))})"
    return ""


def run_as_process(stage: str, folder: Path, change: Change) -> None:
    """Run a stage as DVC does."""
    command = [sys.executable, str(ROOT / "stages" / f"{stage}.py")]
    environment = {
        **os.environ,
        **USUAL,
        **change.environment,
        **PRIVATE,
        "PYTHONPATH": str(ROOT),
        "PPVIT_PROCESSES": str(change.processes),
        "ACCELERATE_USE_CPU": "1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, umask=change.umask, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{stage} with other {change.told} ended with {done.returncode}:\n{done.stderr[:3000]}")


def row(*cells: str) -> str:
    """A row of the table in Markdown."""
    return f"| {' | '.join(cells)} |"


def run_as_fork(stage: str, folder: Path, change: Change) -> None:
    """Run a stage in a fork of this process, which has imported what it needs."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"{stage} with other {change.told} ended with {code}")
        return
    code = 70
    try:
        os.environ.update({**USUAL, **change.environment, **PRIVATE})
        time.tzset()
        os.umask(change.umask)
        os.chdir(folder)
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        from ppvit.cli.script import main as run_stage

        run_stage(f"{stage}.py")
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--stages", nargs="+", choices=list(OUTPUTS), default=list(OUTPUTS), metavar="STAGE")
    chosen = parser.parse_args()
    stages, run, concerns = tuple(stage for stage in OUTPUTS if stage in chosen.stages), run_as_process, every
    if chosen.short:
        from ppvit.core.process import share_processors

        share_processors()  # as every process of ppvit does before it loads torch
        stages, run, concerns = SHORT, run_as_fork, quick
        for stage in stages:
            importlib.import_module(f"ppvit.verbs.{stage}")
    differing: Found = {}
    print(row("stage", *(change.told for change in CHANGES)), row(*["---"] * (len(CHANGES) + 1)), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="ppvit-determinism-") as folder:
        for stage, differing[stage] in measure(stages, CHANGES, run, Path(folder), concerns):
            told = {change: "differs" if names else "same" for change, names in differing[stage].items()}
            print(row(f"`{stage}`", *(told.get(change.told, "-") for change in CHANGES)), flush=True)
    print()
    for stage, by_change in differing.items():
        for change, names in by_change.items():
            if names:
                print(f"{stage}, {change}: {'; '.join(names)}")
    print(f"measured on a small world: {_revision()}, {date.today()}, {_versions()}")


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no revision"


def _versions() -> str:
    return f"{platform.machine()}, Python {platform.python_version()}, torch {metadata.version('torch')}"


if __name__ == "__main__":
    main()
