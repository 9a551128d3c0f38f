"""The stage killed on its way: no process of it goes on, no disk has a secret, and the next start clears the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import write_raw
from test_he_parties import configured

from ppvit.data.plain import PlainImages

pytest.importorskip("tenseal")
CODE = (
    "from pathlib import Path; from ppvit import config; from ppvit.places import Places; from ppvit.verbs import he;"
    "c = config.load(); he.run(c, Places.of(c, raw=Path('raw')))"
)
MOMENTS = {  # what is there by then
    "keys": "ppvit-he-*/.trainer.*.partial/keys",
    "encrypt": "ppvit-he-*/trainer/.data.*.partial/*",
    "train": "ppvit-he-*/trainer/refresh/*/000001/answer",
}


def processes_with(text: str) -> list[psutil.Process]:
    """Living processes that have a text in their environment: children of children, orphans and copies too."""
    found = []
    for process in psutil.process_iter():
        try:
            if text in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def trainers(world: Path) -> list[psutil.Process]:
    found = []
    for process in processes_with(str(world)):
        with suppress(psutil.Error):
            found += [process] if process.cmdline()[2:3] == ["ppvit.he.parties"] else []
    return found


def wait_for(condition, stage: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert stage.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    write_raw(root / "raw", {"train": 90, "test": 30})
    config = configured(mode="refresh", iterations=1000, learning_rate=1e-4)
    (root / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    return root


def start(root: Path) -> subprocess.Popen:
    environment = {**os.environ, "TMPDIR": str(root / "scratch"), "PPVIT_WORKERS": "2", "PPVIT_TRIAL": str(root)}
    (root / "scratch").mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", CODE], cwd=root, env=environment)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="files in memory, and how processes are found here, are Linux's")
def test_killed_anywhere_it_leaves_neither_process_nor_secret_and_the_next_start_clears_the_rest(world):
    config = configured()
    labels = PlainImages(world / "raw", "train", config.dataset, config.encrypt).labels[:90]
    left: list[Path] = []
    for pattern in MOMENTS.values():
        stage = start(world)
        before = left
        wait_for(lambda: not any(path.exists() for path in before), stage)  # noqa: B023  done with before it changes
        wait_for(lambda: list((world / "scratch").glob(pattern)), stage)  # noqa: B023
        os.kill(stage.pid, signal.SIGKILL)
        stage.wait()
        deadline = time.monotonic() + 10
        while processes_with(str(world)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        left = list((world / "scratch").iterdir())
        assert len(left) == 1
        files = [path for path in left[0].rglob("*") if path.is_file()]
        assert not {"secret.key", "kept.safetensors"} & {path.name for path in files}
        for path in files:
            data = path.read_bytes()
            assert labels.tobytes() not in data
            assert labels.astype(np.float64).tobytes() not in data


@pytest.mark.long
def test_a_trainer_that_is_killed_is_told_and_leaves_no_process(world):
    stage = start(world)
    wait_for(lambda: trainers(world), stage)
    trainers(world)[0].kill()
    assert stage.wait(60) == 1
    assert not processes_with(str(world))
    assert not list((world / "scratch").iterdir())
