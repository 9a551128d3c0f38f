"""Kills stages at random moments and at every change of a file, and looks whether a rerun puts everything right.

    python tests/harness/kill.py --cases 100
    python tests/harness/kill.py --cases 20 --stage finetune --seed 7
    python tests/harness/kill.py --every --stage encrypt       # at each of its changes of files, by each signal

A case runs a stage in a small project that is finished, with that stage's outputs there or removed as DVC does; ends it
by SIGKILL, SIGTERM or Ctrl-C; and runs it again. It is good if after the end each output was the old one, whole, or
absent; SIGTERM and Ctrl-C gave one line and the right exit code and left no temporary file; and after the rerun all
outputs have the bytes of an undisturbed run, and no process, lock, temporary or scratch file is left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

from warm_python import WarmPython

from ppvit.config import Config
from ppvit.pipeline import STAGES
from ppvit.places import Places

SETTINGS = {
    "dataset": {"train_fraction": 0.1, "test_fraction": 0.1},
    "encrypt": {"images_per_shard": 64},
    "finetune": {"epochs": 2, "rank": 2, "target_modules": ["attn.qkv"]},
    "robustness": {"attack": "pgd", "images": 2, "steps": 4, "epsilons": [32.0]},
    "verify": {"wrong_keys": 1},
    "he": {"features": "pixels", "train_images": 64, "components": 4, "iterations": 1},
    "audit": {"known_pairs": [1], "pooled_images": [1], "images": 2, "candidates": 4, "training_steps": 2},
    "threats": {"images": 2, "surrogate_images": 20, "queries": 2},
}
ORDER = [name for name in STAGES if name != "pretrain"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MARK = "PPVIT_KILL_HARNESS"
_SECONDS = 120.0  # that any run may take
_END_SECONDS = 15.0  # after which no process is left
_HIDDEN = (".partial", ".lock")
_RANDOM = ("models/he/",)  # of ciphertexts, whose noise differs in every run


@dataclass
class Ended:
    """How a run ended: its exit code as a shell has it, what it printed on stderr, and how long it took."""

    code: int
    errors: str
    seconds: float


class World:
    """A finished project, and what an undisturbed run of each stage writes and how often it changes files.

    Args:
        folder: for everything.
        stages: those that are to be killed; all that they need are run.
        warm: runs stages in forks of a process that has imported what they need; else each starts anew.
    """

    def __init__(self, folder: Path, stages: list[str], warm: WarmPython | None) -> None:
        self.folder, self.project = folder, folder / "project"
        self.scratch, self.temporary = folder / "scratch", folder / "tmp"
        self._python = str(warm.path) if warm else sys.executable
        for each in (self.project, self.scratch, self.temporary, folder / "site"):
            each.mkdir(parents=True)
        # parties of he are processes of their own, which start Python as it always starts
        (folder / "site" / "sitecustomize.py").write_text(
            f"import os, sys; sys.path.append({str(HERE)!r})\n"
            "if os.environ.get('KILL_BY', '9') == '9': import killing; killing.install()\n"
            "sys.path.pop()\n"
        )
        embedded = Path("models/pretrained/vit_micro_patch4_32.safetensors")
        (self.project / embedded).parent.mkdir(parents=True)
        shutil.copy(ROOT / embedded, self.project / embedded)
        self.config = Config.model_validate({name: SETTINGS.get(name, {}) for name in Config.model_fields})
        (self.project / "params.yaml").write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        self.places = Places.of(self.config)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PPVIT_", "DVC_"))},
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'site'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PPVIT_SCRATCH": str(self.scratch),
            "PPVIT_CACHE": str(folder / "cache"),
            "PPVIT_KEYRING": str(folder / "keyring"),
            "TMPDIR": str(self.temporary),
            _MARK: str(folder),
        }
        self.changes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        last = max(ORDER.index(stage) for stage in stages)
        for stage in ORDER[: last + 1]:
            if stage in stages or "report" in stages or ORDER.index(stage) < ORDER.index("evaluate"):
                counted = folder / "count"
                ended = self.run(stage, KILL_COUNT=str(counted))
                if ended.code:
                    raise RuntimeError(f"{stage} does not run: {ended.errors}")
                self.seconds[stage] = ended.seconds
                self.changes[stage] = max(map(int, counted.read_text().split()))  # parties of he count for themselves
                counted.unlink()
        self.whole = self.snapshot()

    def run(self, stage: str, **more: str) -> Ended:
        """Run a stage to its end; ``more`` is environment, see :mod:`killing`."""
        watch = time.monotonic()
        within = {"KILL_WITHIN": os.pathsep.join(map(str, (self.project, self.scratch, self.temporary)))}
        done = subprocess.run(
            [self._python, str(HERE / "stage.py"), stage],
            cwd=self.project, env=self._environment | within | more, capture_output=True, text=True, check=False,
            timeout=_SECONDS,
        )  # fmt: skip
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Ended(code, done.stderr, time.monotonic() - watch)

    def outputs(self, stage: str) -> list[str]:
        """The outputs of a stage, each whole or absent by itself."""
        outputs = []
        for place in STAGES[stage].outputs:
            path = self.places.result(stage) if place == "results" else getattr(self.places, place)
            outputs.append(path.as_posix())
        return [f"{each}/{split}" for each in outputs for split in ("train", "test")] if stage == "encrypt" else outputs

    def snapshot(self) -> dict[str, str]:
        """Digest of every file that a rerun repeats, by its path."""
        files = {path.relative_to(self.project).as_posix(): path for path in self.project.rglob("*") if path.is_file()}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in files.items()
            if not name.startswith(("results/times/", *_RANDOM)) and not name.endswith(_HIDDEN)
        }

    def remove_outputs(self, stage: str) -> None:
        """As DVC does before it runs a stage."""
        results = [f"results/metrics/{stage}.json", f"results/times/{stage}.json"]
        for name in [*self.outputs(stage), *results]:
            path = self.project / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def left(self, *folders: Path) -> list[str]:
        """Locks and temporary files of ours in these folders."""
        return [str(path) for folder in folders for path in folder.rglob(".*") if path.name.endswith(_HIDDEN)]

    def processes(self) -> list[str]:
        """Processes that runs in this world have started and that have not ended."""
        found, mark = [], f"{_MARK}={self.folder}".encode()
        for entry in Path("/proc").iterdir() if Path("/proc/self/environ").exists() else []:
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
            except OSError:
                continue
        return found

    def wait_for_no_process(self) -> list[str]:
        until = time.monotonic() + _END_SECONDS
        while (found := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return found


def case(world: World, stage: str, by: signal.Signals, removed: bool, **when: str) -> list[str]:
    """Kill a stage once, run it again; returns what was wrong."""
    wrong: list[str] = []
    if removed:
        world.remove_outputs(stage)
    started_with = world.snapshot()
    ended = world.run(stage, KILL_BY=str(int(by)), **when)
    if left := world.wait_for_no_process():
        wrong.append(f"processes left after the end: {left}")
    killed = ended.code == 128 + by or (by == signal.SIGKILL and "a party was killed by signal 9" in ended.errors)
    if not killed and ended.code:
        wrong.append(f"exit code {ended.code}: {ended.errors[-500:]}")
    lines = [line for line in ended.errors.splitlines() if not line.startswith(("warning: the public demo key", "he"))]
    if killed and by != signal.SIGKILL:
        if len([line for line in lines if "stopped by" in line]) != 1 or "Traceback" in ended.errors:
            wrong.append(f"not one line: {ended.errors[-800:]}")
        wrong += [f"left after the end: {name}" for name in world.left(world.project, world.scratch)]
        wrong += [f"left after the end: {path}" for path in world.temporary.iterdir()]
    wrong += _half_written(world, stage, started_with) if killed else []
    again = world.run(stage)
    if again.code:
        wrong.append(f"the rerun ended with {again.code}: {again.errors[-500:]}")
    if left := world.wait_for_no_process():
        wrong.append(f"processes left after the rerun: {left}")
    now = world.snapshot()
    different = sorted(name for name in now.keys() | world.whole.keys() if now.get(name) != world.whole.get(name))
    wrong += [f"differs after the rerun: {name}" for name in different]
    wrong += [f"left after the rerun: {name}" for name in world.left(world.project, world.scratch)]
    wrong += [f"left after the rerun: {path}" for path in (*world.scratch.iterdir(), *world.temporary.iterdir())]
    return wrong


def _half_written(world: World, stage: str, before: dict[str, str]) -> list[str]:
    """Outputs that are neither as they were, nor whole, nor absent; those that were there must be there still."""
    now, wrong = world.snapshot(), []
    for output in world.outputs(stage):
        if output.endswith("/live"):  # grows while training goes on, on purpose
            continue

        def part(files: dict[str, str], output: str = output) -> dict[str, str]:
            return {name: value for name, value in files.items() if name == output or name.startswith(output + "/")}

        if part(now) not in (part(before), part(world.whole)):
            wrong.append(f"half-written: {output}: {sorted(part(now))}")
    return wrong


def moments(world: World, stage: str, random_: random.Random) -> dict[str, str]:
    """A random moment of a stage: before one of its changes of files, or after some time."""
    if random_.random() < 0.6:
        return {"KILL_AT": str(random_.randint(1, world.changes[stage]))}
    return {"KILL_AFTER": f"{random_.random() * world.seconds[stage]:.3f}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--stage", choices=ORDER, action="append", help="this stage only; may be given several times")
    parser.add_argument("--every", action="store_true", help="at every change of a file instead of at random moments")
    parser.add_argument(
        "--cold", action="store_true", help="start Python anew for each run, so that imports are killed"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    stages, draw, bad, started = given.stage or ORDER, random.Random(given.seed), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ppvit-kill-") as folder:
        warm = None if given.cold else WarmPython(Path(folder))
        try:
            if warm:
                warm.wait()
            world = World(Path(folder) / "world", stages, warm)
            print(f"changes of files: {world.changes}", flush=True)
            if given.every:
                cases = [
                    (stage, by, removed, {"KILL_AT": str(at)})
                    for stage in stages
                    for at in range(1, world.changes[stage] + 1)
                    for by in SIGNALS
                    for removed in (False, True)
                ]
            else:
                cases = []
                for number in range(given.cases):
                    stage = stages[number % len(stages)]
                    cases.append((stage, draw.choice(SIGNALS), draw.random() < 0.5, moments(world, stage, draw)))
            for stage, by, removed, when in cases:
                if wrong := case(world, stage, by, removed, **when):
                    bad += 1
                    print(f"{stage}, {by.name}, {'removed' if removed else 'kept'}, {when}:", *wrong, sep="\n    ")
                    sys.stdout.flush()
        finally:
            if warm:
                warm.close()
    print(f"{len(cases)} cases, {bad} bad, {time.monotonic() - started:.0f} s")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
