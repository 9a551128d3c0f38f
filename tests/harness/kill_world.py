"""A small project that is finished, in which stages are killed: what a rerun must give again, and what may not stay."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from imports import ROOT

from ppvit.config import Config
from ppvit.core.kept import FOLDER
from ppvit.pipeline import STAGES
from ppvit.places import Places

HERE = Path(__file__).parent
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
MARK = "PPVIT_KILL_HARNESS"
_SECONDS = 120.0  # that any run may take
_END_SECONDS = 15.0  # after which no process is left
_HIDDEN = (".partial", ".lock")
_OF_TORCH = "torchinductor_*"  # folder for temporary files that torch makes when it is loaded, and keeps
# times, git and DVC's own; and of ciphertexts, whose noise differs in every run
_NOT_REPEATED = ("results/times/", ".git/", ".dvc/", "models/he/")


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
        stages: those that are to be killed; all that they need are run, and none if there are none.
        python: program that stages are run with, see :mod:`warm_python`.
    """

    def __init__(self, folder: Path, stages: list[str], python: str) -> None:
        self.folder, self.project = folder, folder / "project"
        self.scratch, self.temporary = folder / "scratch", folder / "tmp"
        self._python = python
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
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PPVIT_", "DVC_"))},
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'site'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PPVIT_SCRATCH": str(self.scratch),
            "PPVIT_CACHE": str(folder / "cache"),
            "PPVIT_KEYRING": str(folder / "keyring"),
            "TMPDIR": str(self.temporary),
            MARK: str(folder),
        }
        self.changes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        last = max(map(ORDER.index, stages), default=-1)
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
            cwd=self.project, env=self.environment | within | more, capture_output=True, text=True, check=False,
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
            if not name.startswith(_NOT_REPEATED) and not name.endswith(_HIDDEN)
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

    def temporaries(self) -> list[Path]:
        """What is in the folder for temporary files and should not stay there."""
        return [path for path in self.temporary.iterdir() if not path.match(_OF_TORCH)]

    def different(self) -> list[str]:
        """What a rerun has not made as an undisturbed run does, and what is left of ours beside it."""
        now = self.snapshot()
        names = sorted(name for name in now.keys() | self.whole.keys() if now.get(name) != self.whole.get(name))
        unfinished = [path for path in self.scratch.iterdir() if path.name != FOLDER]
        left = [*self.left(self.project, self.scratch), *unfinished, *self.temporaries()]
        wrong = [f"differs after the rerun: {name}" for name in names]
        return wrong + [f"left after the rerun: {path}" for path in left]

    def processes(self) -> list[str]:
        """Processes that runs in this world have started and that have not ended."""
        found, mark = [], f"{MARK}={self.folder}".encode()
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
