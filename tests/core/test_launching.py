"""A stage in several processes: what one gives, one line whatever ends it, nothing left behind, and a resumed run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml
from accelerate import PartialState
from conftest import read_result, write_raw
from safetensors.torch import load_file
from test_finetune import changed, make_world, places_of, train

from ppvit.config import Config
from ppvit.core import launching, sharing
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.sharing import require_alike, require_alone, require_as_asked
from ppvit.pipeline import STAGES

# 50 = 7 * 7 + 1: a process without an image; Adam and clipping would hide gradients that are too small
PLAIN = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.1, "gradient_clip": 0.0, "batch_size": 7}
LAUNCHED = ("PPVIT_PROCESSES", "PPVIT_NODES", "PPVIT_RENDEZVOUS", "WORLD_SIZE", "RANK", "MASTER_PORT")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder, epochs=1, **PLAIN)


def command(stage: str, folder: Path, config: Config, name: str) -> list[str]:
    """The verb, for the places and parameters of a training of this name."""
    params = folder / f"{name}.yaml"
    params.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    places = asdict(places_of(folder, name))
    given = [f"--{place}={places[place]}" for place in dict.fromkeys((*STAGES[stage].inputs, *STAGES[stage].outputs))]
    return [sys.executable, "-m", "ppvit.cli", stage, "--params", str(params), *given]


def start(stage: str, folder: Path, config: Config, name: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    arguments = command(stage, folder, config, name)
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    """What it said on stderr."""
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 0, told
    return told


def shares(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that share the work, by their rank."""
    found: dict[int, psutil.Process] = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if (rank := child.environ().get("RANK")) is not None and "ppvit.cli" in child.cmdline():
                found[int(rank)] = child
        except psutil.Error:  # it is only beginning
            continue
    return [found[rank] for rank in sorted(found)]


def at_work(process: subprocess.Popen[str], scratch: Path) -> list[psutil.Process]:
    """The same once the first epoch is done, of which there is a checkpoint."""
    deadline = time.monotonic() + 200
    while not list(scratch.glob("*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return shares(process)


def require_ended(processes: list[psutil.Process], folder: Path) -> None:
    """Nothing goes on, nothing is half written, and nothing was taken for whole."""
    assert len(processes) == 2
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    assert not list(folder.rglob("*.partial"))
    assert not places_of(folder, "killed").finetuned.exists()


def test_two_hosts_train_as_one_process(world):
    """The hosts are this machine twice, each started by hand, as they would be."""
    folder, config = world
    one = train(folder, config, "one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        point = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = {"PPVIT_NODES": "2", "PPVIT_PROCESSES": "1", "PPVIT_RENDEZVOUS": point}
    for host in [start("finetune", folder, config, "two", **meeting) for _ in range(2)]:
        finish(host)
    two = read_result(places_of(folder, "two"), "finetune")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert two["train_accuracy_percent"] == one["train_accuracy_percent"]
    first, second = (load_file(folder / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)


def in_two_processes(work: Callable[[], None]) -> None:
    """Call it in two copies of this process, which is quick, as two processes of torchrun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    copies = []
    for rank in range(2):
        if not (copy := os.fork()):
            code = 1
            try:
                os.environ |= {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"}
                PartialState._reset_state()
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        copies.append(copy)
    assert [os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) for copy in copies] == [0, 0]


@pytest.mark.parametrize("stage", ["evaluate", "robustness"])
def test_two_processes_measure_what_one_does(world, stage, tmp_path, monkeypatch):
    """150 images: batches for both, and one more; what was found before a kill is used by both."""
    write_raw(tmp_path / "raw", {"train": 50, "test": 150})
    config = make_world(tmp_path, epochs=1, **PLAIN)
    train(tmp_path, config)
    changes = {"attack": "pgd", "steps": 2, "step_size": 8.0, "images": 150, "epsilons": [8.0]}
    config = config.model_copy(update={"robustness": config.robustness.model_copy(update=changes)})
    places, written = places_of(tmp_path), []
    outputs = [places.results, places.plots if stage == "evaluate" else places.curves]
    for run in (lambda work: work(), in_two_processes):
        run(lambda: STAGES[stage].run(config, places))
        files = {path for output in outputs for path in output.rglob("*") if path.is_file()}
        written.append({path.name: path.read_bytes() for path in files if "times" not in path.parts})
        for path in files:
            path.unlink()
    assert written[0] == written[1]
    assert f"{stage}.json" in written[0]


def test_processes_that_do_not_start_alike_are_refused():
    def work() -> None:
        require_alike("the same", "not reached")
        with pytest.raises(PpvitError, match="give all hosts the same folders"):
            require_alike(os.environ["RANK"], "give all hosts the same folders")
        assert sharing.from_main(os.environ["RANK"]) == "0"
        assert list(sharing.by_all(range(5), lambda own: ((item, os.environ["RANK"]) for item in own))) == [
            (0, "0"), (1, "1"), (2, "0"), (3, "1"), (4, "0"),
        ]  # fmt: skip

    in_two_processes(work)


@pytest.mark.long
def test_a_killed_process_ends_all_in_one_line_and_the_next_run_goes_on(world):
    folder, config = world
    config, scratch = changed(config, epochs=400), Path(os.environ["PPVIT_SCRATCH"])
    process = start("finetune", folder, config, "killed", PPVIT_PROCESSES="2")
    both = at_work(process, scratch)
    both[1].kill()
    told = process.communicate(timeout=100)[1].splitlines()
    assert process.returncode == 1
    assert told[-1].startswith("error: process 1 of 2 was ended by SIGKILL, and the others with it; it may be that mem")
    assert "; to go on, run again: ppvit finetune" in told[-1]
    assert len([line for line in told if not line.startswith("warning: ")]) == 1
    require_ended(both, folder)
    again = start("finetune", folder, config, "killed", PPVIT_PROCESSES="2")
    while not (line := again.stderr.readline()).startswith("finetune: resumed after"):
        assert line.startswith("warning: ")
    both = shares(again)
    os.killpg(again.pid, signal.SIGINT)  # Ctrl-C, which a terminal sends to all
    told = again.communicate(timeout=100)[1].splitlines()
    assert again.returncode == 130
    assert told[-1].startswith("stopped by Ctrl-C; to go on, run again: ppvit finetune")
    assert len(told) == 1
    require_ended(both, folder)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables of launchers, with none of them set before."""
    for name in (*LAUNCHED, "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)

    def variables(**given: str) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return variables


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"PPVIT_PROCESSES": "2"}, "PPVIT_PROCESSES asks for 2 processes, and 1 works here"),
        ({"PPVIT_PROCESSES": "2", "PPVIT_NODES": "3"}, "PPVIT_PROCESSES asks for 6 processes"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE asks for 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE asks for 2 processes"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "srun asks for 8 processes"),
        # as `accelerate launch --cpu --num_processes 2` starts one
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, "accelerate launch was asked for several"),
    ],
)
def test_fewer_processes_than_asked_for_are_refused(alone, given, told):
    alone(**given)
    with pytest.raises(UsageError, match=f"{told}.*; start the stage alone with PPVIT_PROCESSES set"):
        require_as_asked(1)


@pytest.mark.parametrize(
    ("given", "processes"),
    [
        ({}, 1),
        ({}, 2),  # by torch's own means
        ({"WORLD_SIZE": "1"}, 1),
        ({"PPVIT_PROCESSES": "2", "WORLD_SIZE": "2"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "2", "PPVIT_NODES": "2", "PPVIT_PROCESSES": "4", "WORLD_SIZE": "8"}, 8),
        ({"MASTER_PORT": "29500"}, 1),  # as scripts export it
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}, 2),
    ],
)
def test_as_many_as_asked_for_are_not(alone, given, processes):
    alone(**given)
    require_as_asked(processes)


def test_what_is_not_shared_is_refused_in_several_processes(alone):
    require_alone("encrypt")
    alone(WORLD_SIZE="2")
    with pytest.raises(UsageError, match="encrypt shares no work with other processes"):
        require_alone("encrypt")
    assert [name for name, stage in STAGES.items() if stage.shared] == ["finetune", "evaluate", "robustness"]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "2000", "99999999999999999999", "²"])
@pytest.mark.parametrize("name", ["PPVIT_PROCESSES", "PPVIT_NODES"])
def test_bad_numbers_are_told(alone, name, text):
    alone(**{name: text})
    with pytest.raises(UsageError, match=f"{name}=.* is not a whole number from 1 to 1024"):
        launching.launch("ppvit finetune")


@pytest.mark.parametrize("point", ["", "host", "host:", ":29500", "host:port", "http://host:1"])
def test_hosts_need_a_place_to_meet(alone, point):
    alone(PPVIT_NODES="2", PPVIT_RENDEZVOUS=point)
    with pytest.raises(UsageError, match="PPVIT_NODES=2 needs PPVIT_RENDEZVOUS=HOST:PORT"):
        launching.launch("ppvit finetune")


def test_one_process_is_this_one(alone):
    assert not launching.launch("ppvit finetune")
    alone(PPVIT_PROCESSES="1")
    assert not launching.launch("ppvit finetune")
    alone(PPVIT_PROCESSES="2", RANK="1")
    assert not launching.launch("ppvit finetune")


def failed(exitcode: int, at: int = 0, message: str = "", **data: Any) -> SimpleNamespace:
    """What torch says of a process that failed."""
    return SimpleNamespace(exitcode=exitcode, timestamp=at, message=message, error_file_data=data or "<N/A>")


LOST = failed(1, message="RuntimeError: Connection closed by peer [127.0.0.1]:1234", told=False, code=1, trace="...")
TOLD = failed(2, message="what is wrong; the remedy", told=True, code=2)
DEFECT = failed(1, message="KeyError: 'x'", told=False, code=1, trace="Traceback: where it is\n")


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({0: LOST, 1: failed(-9)}, "process 1 of 2 was ended by SIGKILL"),
        ({0: failed(143), 1: failed(-11)}, "process 1 of 2 was ended by SIGSEGV"),
        ({0: failed(143), 1: TOLD}, "what is wrong; the remedy"),
        ({0: TOLD, 1: TOLD}, "what is wrong; the remedy"),
        ({0: LOST, 1: TOLD}, "what is wrong; the remedy"),
        ({0: failed(143)}, "process 0 of 2 was ended by SIGTERM"),
        ({0: LOST}, "process 0 of 2 has lost another one, whose host says why"),
        # long after the first the agent kills what does not end
        ({0: failed(-9, at=31), 1: TOLD}, "what is wrong; the remedy"),
    ],
)
def test_the_cause_is_what_is_said(failures, said):
    error = launching._failure(failures, 2, "dvc repro")
    assert isinstance(error, PpvitError)
    assert said in str(error)
    assert isinstance(error, UsageError) == (said == TOLD.message)


def test_a_defect_keeps_its_traceback(capsys):
    error = launching._failure({0: failed(-9, at=31), 1: DEFECT}, 2, "dvc repro")
    assert isinstance(error, SystemExit)
    assert error.code == 1
    assert capsys.readouterr().err == "Traceback: where it is\n"


def test_alone_work_is_not_handed_round(alone):
    alone(PPVIT_PROCESSES="2")  # of which a stage that is not shared takes no notice
    assert sharing.join() == (0, 1)
    assert list(sharing.by_all([1, 2, 3], lambda own: (2 * item for item in own))) == [2, 4, 6]
    assert sharing.from_main("x") == "x"
