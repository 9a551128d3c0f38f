"""The executor: the same results in the same order here and on clusters; killed workers; no key on the way."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from conftest import make_config, make_places, write_raw
from secret_forms import forms_of_bytes

from ppvit.audit.view import KeySpace
from ppvit.ciphers.keyed import load_cipher
from ppvit.ciphers.keys import Key, save
from ppvit.core import engines, executor
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.executor import Executor, Task
from ppvit.data.sealed import Seal
from ppvit.data.shards import ShardReader
from ppvit.verbs import encrypt

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers of a cluster have ppvit, and not its tests
KEY = Key(bytes(range(7, 39)))


class Tap:
    """Hands everything on between those who connect here and another port, and keeps what they send."""

    def __init__(self, port: int) -> None:
        self.sent, self._port = bytearray(), port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((here, there, self.sent), (there, here, bytearray())):
                threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    @staticmethod
    def _hand_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):  # one of the two has closed
            while data := source.recv(2**16):
                kept += data
                target.sendall(data)
        target.close()


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[object]:
    distributed = pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[object]:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'ppvit[ray]')")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # its nodes speak by the machine's own address, which our watch over the network takes for another machine's
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster
    cluster.shutdown()


@pytest.fixture(params=["", "dask", "ray"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of them in turn, with two workers on this machine."""
    if request.param:
        cluster = request.getfixturevalue(f"{request.param}_cluster")
        address = cluster.scheduler_address if request.param == "dask" else cluster.address
        monkeypatch.setenv("PPVIT_ENGINE_ADDRESS", address)
    monkeypatch.setenv("PPVIT_ENGINE", request.param)
    return request.param


def each(function, tasks, processes: int = 2) -> list:
    with Executor(processes) as workers:
        return list(workers.each(function, tasks))


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def dies_once(number: int, marks: Path) -> int:
    """Ends its process the first time that it is called with 3 or 4."""
    mark = marks / str(number)
    if number in (3, 4) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails(kind: str) -> None:
    if kind == "ours":
        raise UsageError("what is wrong; the remedy")
    if kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/file")
    raise KeyError("a defect")


def test_same_results_in_their_order_by_other_processes(engine):
    found = each(square, ((number,) for number in range(7)))
    assert [value for value, _ in found] == [number**2 for number in range(7)]
    assert os.getpid() not in {process for _, process in found}


def test_errors_are_those_of_the_function(engine):
    for kind, error, told in (
        ("ours", UsageError, "^what is wrong; the remedy$"),
        ("disk", OSError, "No space left on device: 'a/file'"),
        ("other", KeyError, "a defect"),
    ):
        with pytest.raises(error, match=told) as raised:
            each(fails, [(kind,)])
        assert raised.value.args == ((errno.ENOSPC, "No space left on device") if kind == "disk" else raised.value.args)
    assert "in fails" in raised.value.__notes__[0]  # where the defect is


def test_a_killed_worker_is_survived(engine, tmp_path):
    assert each(dies_once, [(number, tmp_path) for number in range(8)]) == list(range(8))
    assert len(list(tmp_path.iterdir())) == 2  # both died


def dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_are_killed_again_and_again_are_told():
    with pytest.raises(PpvitError, match="workers were killed 3 times, probably since memory is short"):
        each(dies, [(0,), (1,)])


def test_alone_it_is_done_here():
    assert each(square, [(3,)], processes=1) == [(9, os.getpid())]


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks() -> Iterator[tuple[int]]:
        for number in range(20):
            taken.append(number)
            yield (number,)

    with Executor(2) as workers:
        for count, _ in enumerate(workers.each(square, tasks()), start=1):
            assert len(taken) <= count + 2 * 2 + 1


def test_an_error_of_the_tasks_themselves_is_raised_here():
    def tasks() -> Iterator[tuple[int]]:
        yield (1,)
        raise PpvitError("the archive is damaged")

    with pytest.raises(PpvitError, match="the archive is damaged"):
        each(square, tasks())


def test_a_task_shows_nothing_of_its_arguments():
    task = Task(square, (314159,))
    assert repr(task) == str(task) == "<square>"
    assert str(314159**2) not in repr(task())
    assert task().value() == (314159**2, os.getpid())


def test_other_packages_are_refused(monkeypatch):
    task = Task(square, (3,))
    monkeypatch.setattr(executor, "_versions", lambda: {**task._versions, "pillow": "1.0"})
    with pytest.raises(PpvitError, match="worker .* has pillow 1.0 in place of .*; install the same on all machines"):
        task().value()


def test_with_a_cluster_nothing_that_is_pickled_has_a_key(monkeypatch, tmp_path):
    config = make_config(dataset={"image_size": 16}, cipher={"key_id": KEY.id})
    save(KEY)
    cipher, seal = load_cipher(config), Seal(KEY, "digits")
    here = pickle.dumps((cipher, seal))
    assert KEY.secret in here  # through the pipe of a process of this machine
    monkeypatch.setenv("PPVIT_ENGINE", "dask")
    there = pickle.dumps((cipher, seal, seal.member))
    assert not [form for form in forms_of_bytes(KEY.secret) if form in there]
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    again, other, _ = pickle.loads(there)
    np.testing.assert_array_equal(again.encrypt(images), cipher.encrypt(images))
    assert other.seal(b"content", "train") == seal.seal(b"content", "train")
    monkeypatch.delenv("PPVIT_ENGINE")  # as in a worker
    back = pickle.dumps((again, other))  # in what a task gives
    assert not [form for form in forms_of_bytes(KEY.secret) if form in back]
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path))  # of a worker that has none
    with pytest.raises(UsageError, match=f"key {KEY.id} is not in the keyring"):
        pickle.loads(there)


def test_a_key_space_goes_to_a_cluster_without_the_keys_of_its_examples(monkeypatch):
    space = KeySpace.of(load_cipher(make_config(dataset={"image_size": 16})))
    assert space.example.keyed  # and is kept, with a key that nobody has
    monkeypatch.setenv("PPVIT_ENGINE", "dask")
    sent = cloudpickle.dumps(space)
    monkeypatch.delenv("PPVIT_ENGINE")
    assert cloudpickle.loads(sent).right_by_chance == space.right_by_chance


def test_a_reader_goes_to_another_machine_by_absolute_path_and_whatever_its_inodes(tmp_path, monkeypatch):
    write_raw(tmp_path / "raw", {"train": 8, "test": 8})
    manifest = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    monkeypatch.chdir(tmp_path)
    reader = ShardReader(Path("raw"), "train", manifest["shards"]["train"])
    monkeypatch.setenv("PPVIT_ENGINE", "dask")
    sent = pickle.dumps(reader)
    monkeypatch.chdir("/")
    assert pickle.loads(sent).image(3)[:4] == b"\x89PNG"


def made(folder: Path, places) -> dict[str, bytes]:
    config = make_config(dataset={"image_size": 16}, cipher={"key_id": KEY.id}, encrypt={"images_per_shard": 10})
    encrypt.run(config, places)
    files = {path for path in places.encrypted.rglob("*") if path.is_file()}
    return {path.relative_to(places.encrypted).as_posix(): path.read_bytes() for path in files}


def use_keyring(folder: str) -> None:
    os.environ["PPVIT_KEYRING"] = folder


def test_encryption_gives_the_same_bytes_and_no_key_reaches_the_cluster(dask_cluster, tmp_path, monkeypatch):
    from distributed import Client

    save(KEY)
    places = make_places(tmp_path)
    write_raw(places.raw, {"train": 50, "test": 12})
    here = made(tmp_path, places)
    tap = Tap(int(dask_cluster.scheduler_address.rpartition(":")[2]))
    monkeypatch.setenv("PPVIT_ENGINE", "dask")
    monkeypatch.setenv("PPVIT_ENGINE_ADDRESS", tap.address)
    with Client(dask_cluster.scheduler_address, set_as_default=False) as client:
        client.run(use_keyring, str(tmp_path / "none"))
        with pytest.raises(UsageError, match=f"key {KEY.id} is not in the keyring .*none"):
            made(tmp_path, places)
        client.run(use_keyring, os.environ["PPVIT_KEYRING"])
        assert made(tmp_path, places) == here
        logs = repr((client.get_worker_logs(), client.get_scheduler_logs(), dask_cluster.get_logs())).encode()
        known = repr((list(dask_cluster.scheduler.tasks), client.get_events())).encode()
    sent = bytes(tap.sent)
    assert b"_write_encrypted_shard" in sent  # the tasks are in what was listened to, as they are
    assert KEY.id.encode() in sent
    assert not [form for form in forms_of_bytes(KEY.secret) if form in sent + logs + known]


@pytest.mark.parametrize(
    ("name", "address", "told"),
    [
        ("spark", "tcp://127.0.0.1:1", "PPVIT_ENGINE=spark is none of joblib, dask and ray"),
        ("dask", "", "PPVIT_ENGINE=dask needs PPVIT_ENGINE_ADDRESS, such as tcp://HOST:8786"),
        ("dask", "nonsense", "no cluster of dask answers at PPVIT_ENGINE_ADDRESS=nonsense"),
        ("dask", "tcp://127.0.0.1:1", "no cluster of dask answers at PPVIT_ENGINE_ADDRESS=tcp://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_told(name, address, told, monkeypatch):
    monkeypatch.setattr(engines, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setenv("PPVIT_ENGINE", name)
    monkeypatch.setenv("PPVIT_ENGINE_ADDRESS", address)
    with pytest.raises(PpvitError, match=told):
        each(square, [(3,)])


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_told(name, monkeypatch):
    for module in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PPVIT_ENGINE", name)
    monkeypatch.setenv("PPVIT_ENGINE_ADDRESS", "127.0.0.1:1")
    with pytest.raises(PpvitError, match=rf"pip install 'ppvit\[{name}\]'"):
        each(square, [(3,)])


def test_a_cluster_without_workers_is_told(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(engines, "_CONNECT_SECONDS", 0.5)
    quiet = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", **quiet) as cluster:
        monkeypatch.setenv("PPVIT_ENGINE", "dask")
        monkeypatch.setenv("PPVIT_ENGINE_ADDRESS", cluster.scheduler_address)
        with pytest.raises(PpvitError, match="has no worker; start some"):
            each(square, [(3,)])
