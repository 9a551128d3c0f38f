"""A repository in which ``dvc repro`` as a whole is killed, and what another ``dvc repro`` must make of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml
from kill_world import World
from repository import copy_repository

_REPRO_SECONDS = 600.0  # that any `dvc repro` may take


class Repository(World):
    """A copy of this repository, all of whose pipeline has run, each stage in a process of its own.

    Args:
        folder: for everything.

    Attributes:
        start_seconds: until DVC runs the first stage.
        seconds: what each stage takes, and DVC with its outputs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [], None)
        parameters = (self.project / "params.yaml").read_bytes()
        copy_repository(self.project)
        (self.project / "params.yaml").write_bytes(parameters)
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        for words in (("init", "--quiet"), ("add", "--all"), (*identity, "commit", "--message=state")):
            subprocess.run(["git", *words], cwd=self.project, check=True, stdout=subprocess.DEVNULL)
        # its own ppvit, and nothing that is kept outside it
        del self.environment["PYTHONPATH"]
        self.environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "dvc")}
        started, marks, output = time.monotonic(), [], ""
        with self.start("repro", stdout=subprocess.PIPE) as run:
            for line in run.stdout:
                output += line
                if found := re.match(r"Running stage '(\w+)'", line):
                    marks.append((found[1], time.monotonic()))
        if run.returncode:
            raise RuntimeError(f"dvc repro does not run: {output[-2000:]}")
        ends = [begun for _, begun in marks[1:]] + [time.monotonic()]
        self.start_seconds = marks[0][1] - started
        self.seconds = {stage: end - begun for (stage, begun), end in zip(marks, ends, strict=True)}
        self.whole = self.snapshot()

    def start(self, *arguments: str, stdout: object) -> subprocess.Popen:
        """Start DVC, at the head of a process group, as a shell starts what is typed."""
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments], cwd=self.project, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def dvc(self, *arguments: str) -> tuple[int, str]:
        """Run DVC to its end; its exit code and all that it and its stages printed."""
        run = self.start(*arguments, stdout=subprocess.PIPE)
        output = run.communicate(timeout=_REPRO_SECONDS)[0]
        return run.returncode, output

    def forget(self, stage: str) -> None:
        """Remove the outputs of a stage from the project and from DVC's cache, so that DVC must run it."""
        cache = self.project / ".dvc" / "cache"
        shutil.rmtree(cache / "runs", ignore_errors=True)
        for output in self.locked_outputs(stage):
            path = self.project / output["path"]
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            stored = cache / "files" / "md5" / output["md5"][:2] / output["md5"][2:]
            if stored.suffix == ".dir" and stored.exists():
                for each in json.loads(stored.read_text()):
                    (stored.parents[1] / each["md5"][:2] / each["md5"][2:]).unlink(missing_ok=True)
            stored.unlink(missing_ok=True)

    def locked_outputs(self, stage: str) -> list[dict]:
        """What dvc.lock has of a stage's outputs."""
        return yaml.safe_load((self.project / "dvc.lock").read_text())["stages"][stage]["outs"]

    def is_whole(self, stage: str) -> bool:
        """Whether all outputs of a stage are as an undisturbed run writes them."""
        places = tuple(output["path"] for output in self.locked_outputs(stage))
        now = self.snapshot()
        names = [name for name in now.keys() | self.whole.keys() if name.startswith(places)]
        return all(now.get(name) == self.whole.get(name) for name in names)

    def listening(self) -> str:
        """The stage that runs and hears SIGTERM: it must say a line if it is stopped now. Empty if there is none."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError, IndexError):
                if not entry.name.isdigit() or (entry / "cwd").resolve() != self.project.resolve():
                    continue
                script = Path((entry / "cmdline").read_bytes().decode().split("\0")[1])
                heard = re.search(r"^SigCgt:\s*(\w+)", (entry / "status").read_text(), re.M)
                if script.match("stages/*.py") and heard and int(heard[1], 16) >> (signal.SIGTERM - 1) & 1:
                    return script.stem
        return ""


def case(repository: Repository, stages: list[str], by: signal.Signals, after: float) -> list[str]:
    """Kill a ``dvc repro`` of some stages once, run it again; returns what was wrong.

    DVC removes and links outputs file by file, so between the two runs they may be in parts.

    Args:
        repository: finished.
        stages: those that it has to run.
        by: SIGKILL and SIGTERM go to DVC alone, SIGINT to its process group, as from a terminal.
        after: seconds from its start.
    """
    wrong: list[str] = []
    for stage in stages:
        repository.forget(stage)
    with open(repository.folder / "output", "w+") as file:
        run = repository.start("repro", stdout=file)
        with suppress(subprocess.TimeoutExpired):
            run.wait(after)
        stopped = repository.listening()
        with suppress(ProcessLookupError):
            os.killpg(run.pid, by) if by == signal.SIGINT else run.send_signal(by)
        run.wait(_REPRO_SECONDS)
        if left := repository.wait_for_no_process():
            wrong.append(f"processes left after the end: {left}")
        file.seek(0)
        output = file.read()
    lines = output.count("; to go on, run again: dvc repro\n")
    # one that has come to its end meanwhile says nothing
    if lines > 1 or (stopped and not lines and not repository.is_whole(stopped)):
        wrong.append(f"{lines} lines of {stopped or 'a stage'}: {output[-800:]}")
    if re.search(r'File "[^"]*/(ppvit|stages)/', output):
        wrong.append(f"a traceback of a stage: {output[-2000:]}")
    wrong += [f"left after the end: {name}" for name in repository.left(repository.project, repository.scratch)]
    code, output = repository.dvc("repro")
    if code:
        wrong.append(f"the rerun ended with {code}: {output[-2000:]}")
    if left := repository.wait_for_no_process():
        wrong.append(f"processes left after the rerun: {left}")
    wrong += repository.different()
    code, output = repository.dvc("status")
    if code or "Data and pipelines are up to date." not in output:
        wrong.append(f"dvc status ended with {code}: {output[-800:]}")
    return wrong
