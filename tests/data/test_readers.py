"""Reading processes: started once for all epochs and splits, the same batches whatever their number, clean ends."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import Dataset

from ppvit.core.errors import PpvitError, UsageError
from ppvit.data import readers
from ppvit.data.batches import epoch_batches, load_batches, readers_kept


class Numbers(Dataset):
    """Sample i is ``first + i``, and the process that has read it."""

    def __init__(self, first: int, broken: int = -1) -> None:
        self.first, self.broken = first, broken

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise PpvitError(f"sample {index} is damaged")
        return torch.tensor([self.first + index]), os.getpid()


def numbers(read) -> list[list[int]]:
    return [images[:, 0].tolist() for images, _ in read]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_set_of_readers_for_all_epochs_and_splits(monkeypatch, workers):
    monkeypatch.setenv("PPVIT_WORKERS", workers)
    train, val = Numbers(0), Numbers(1000, broken=7)
    own = psutil.Process()
    readers_of = set()
    before = {child.pid for child in own.children(recursive=True)}
    with readers_kept(train, val):
        for epoch in range(3):
            batches = epoch_batches(50, 8, 0, epoch)
            found = list(load_batches(train, batches))
            assert [images[:, 0].tolist() for images, _ in found] == [batch.tolist() for batch in batches]
            readers_of |= {pid for _, pids in found for pid in pids.tolist()}
            assert numbers(load_batches(val, [np.arange(5), np.array([6])])) == [[1000, 1001, 1002, 1003, 1004], [1006]]
        # one that is left in the middle, as the start of EVA does: nothing of it comes up in the next
        assert next(load_batches(train, epoch_batches(50, 8, 0, 3)))[0].shape == (8, 1)
        assert numbers(load_batches(train, [np.array([3, 1])])) == [[3, 1]]
        with pytest.raises(PpvitError, match=r"^sample 7 is damaged$"):
            list(load_batches(val, [np.array([6, 7])]))
        assert numbers(load_batches(val, [np.array([8])])) == [[1008]]
        under_way = load_batches(train, [np.array([0]), np.array([1])])
        next(under_way)
        with pytest.raises(RuntimeError, match="one after the other"):
            next(load_batches(val, [np.array([0])]))
        assert numbers(under_way) == [[1]]
        assert list(load_batches(train, [])) == []
    if workers == "0":
        assert readers_of == {os.getpid()}
    else:
        assert len(readers_of) == 2
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in readers_of if psutil.pid_exists(pid)], timeout=20)
        assert not alive
        assert not readers_of & before


KILLED = """
import os, signal
import numpy as np
from ppvit.data.batches import load_batches, readers_kept
from test_readers import Numbers
data = Numbers(0)
with readers_kept(data):
    for _ in range(2):
        found = {int(pid) for _, pids in load_batches(data, [np.arange(4)] * 4) for pid in pids}
    next(load_batches(data, [np.arange(4)] * 4))
    print(*found, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_readers_end_with_a_process_that_is_killed():
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = {**os.environ, "PPVIT_WORKERS": "2", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -9
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert not alive


def test_without_readers_that_are_kept_two_readings_are_two(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "0")
    data = Numbers(0)
    first, second = (load_batches(data, [np.array([start]), np.array([start + 1])]) for start in (0, 10))
    assert [images.item() for pair in zip(first, second, strict=True) for images, _ in pair] == [0, 10, 1, 11]


def test_what_is_in_memory_is_taken_from_there(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "1000")

    class InMemory(Numbers):
        def batch(self, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.from_numpy(samples), torch.zeros(len(samples))

    assert [each.tolist() for each, _ in load_batches(InMemory(0), [np.array([5, 2]), np.array([1])])] == [[5, 2], [1]]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 8), ({"LOCAL_WORLD_SIZE": "4"}, 4), ({"LOCAL_WORLD_SIZE": "64"}, 1), ({"PPVIT_WORKERS": "3"}, 3)],
)
def test_processes_on_one_machine_share_its_processors(monkeypatch, environment, expected):
    for name in ("LOCAL_WORLD_SIZE", "PPVIT_WORKERS", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(readers, "available_cpus", lambda: 16)
    assert readers.loader_workers() == expected
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert readers.loader_workers() == (3 if "PPVIT_WORKERS" in environment else 0)


def test_a_wrong_number_of_readers_is_told(monkeypatch):
    monkeypatch.setenv("PPVIT_WORKERS", "many")
    with pytest.raises(UsageError, match="PPVIT_WORKERS=many"), readers_kept(data := Numbers(0)):
        next(load_batches(data, [np.array([0])]))
