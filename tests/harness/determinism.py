"""Which bytes are the same on another clone, with other workers, threads and processes, stage by stage.

    python tests/harness/determinism.py [--short]

Runs the pipeline's stages on a small data set in folders of their own, each time with one thing changed, and compares
what they wrote with what the first run wrote. Prints the table of docs/determinism.md, as measured here: "same" means
the same bytes. What differs on one machine may agree on another; what is the same must be so everywhere. The short
form, a part of the tests, forks instead of starting processes and leaves out the slow stages, and workers that read.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
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
    "audit": ("results/audit.json", "results/audit"),
    "threats": ("results/threats.json",),
    "he": ("results/he.json", "models/he"),
    "report": ("results/report.html",),
}
SHORT = ("encrypt", "adapt", "finetune", "evaluate")
PRIVATE = {"PPVIT_KEYRING": "keyring", "PPVIT_SCRATCH": "scratch", "PPVIT_CACHE": "cache"}
TAKES_LAUNCH = "finetune"  # the stage that trains on several processes


@dataclass(frozen=True)
class Change:
    """What is other in a run.

    Attributes:
        told: head of its column.
        environment: variables that differ from the first run's.
        umask: of its processes.
        folder: name of its folder, of another length.
        processes: that train together.
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
    """Whether a change can matter to a stage: only one trains on several processes."""
    return change.processes == 1 or stage == TAKES_LAUNCH


def quick(stage: str, change: Change) -> bool:
    """Those of :func:`every` that take no process which imports torch."""
    return change.processes == 1 and ("PPVIT_WORKERS" not in change.environment or stage == "encrypt")


def measure(
    stages: tuple[str, ...], changes: tuple[Change, ...], run: Run, root: Path, concerns: Concerns = every
) -> dict[str, dict[str, list[str]]]:
    """Run the stages as usual and with each change.

    Every stage starts from what the usual run wrote, so that a difference is its own.

    Returns:
        Files that differ, by stage and by change.
    """
    usual = root / "usual"
    prepare(usual)
    found: dict[str, dict[str, list[str]]] = {}
    folders = {change.told: root / change.folder for change in changes}
    for stage in stages:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(usual, folder, copy_function=shutil.copy)
            (folder / "keyring").chmod(0o700)
        run(stage, usual, Change("usual"))
        first = hashes(usual, OUTPUTS[stage])
        if not first:
            raise RuntimeError(f"{stage} wrote none of {OUTPUTS[stage]}")
        found[stage] = {}
        for change in changes:
            if not concerns(stage, change):
                continue
            run(stage, folders[change.told], change)
            second = hashes(folders[change.told], OUTPUTS[stage])
            found[stage][change.told] = sorted(
                name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
            )
    return found


def run_as_process(stage: str, folder: Path, change: Change) -> None:
    """Run a stage as DVC or ``accelerate launch`` does."""
    command = [sys.executable, str(ROOT / "stages" / f"{stage}.py")]
    if change.processes > 1:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(change.processes)]
        command = [*launch, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *command[1:]]
    environment = {
        **os.environ,
        **USUAL,
        **change.environment,
        **PRIVATE,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, umask=change.umask, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{stage} with other {change.told} ended with {done.returncode}:\n{done.stderr[:3000]}")


def as_table(found: dict[str, dict[str, list[str]]], changes: tuple[Change, ...]) -> str:
    """The table in Markdown."""
    rows = [["stage", *(change.told for change in changes)], ["---"] * (len(changes) + 1)]
    for stage, by_change in found.items():
        cells = [
            ("differs" if by_change[change.told] else "same") if change.told in by_change else "-" for change in changes
        ]
        rows.append([f"`{stage}`", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
        from ppvit.pipeline import main as run_stage

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
    stages, run, concerns = tuple(OUTPUTS), run_as_process, every
    if parser.parse_args().short:
        stages, run, concerns = SHORT, run_as_fork, quick
        for stage in stages:
            importlib.import_module(f"ppvit.verbs.{stage}")
    with tempfile.TemporaryDirectory(prefix="ppvit-determinism-") as folder:
        found = measure(stages, CHANGES, run, Path(folder), concerns)
    print(as_table(found, CHANGES))
    for stage, by_change in found.items():
        for change, names in by_change.items():
            if names:
                print(f"{stage}, {change}: {', '.join(names)}")


if __name__ == "__main__":
    main()
