"""Key bytes and what is derived from them: in no argument list, environment, traceback, log, temporary or result file.

All stages that hold a key run in a process that is watched: what its children are started with, what lies in temporary
folders meanwhile, and, by an audit hook in each, every file that is deleted. Lock files and a push to a remote of DVC
are searched in tests/test_pipeline.py, a commit in tests/test_git_secrets.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import make_config, write_raw
from secret_forms import derived, forms_of_bytes, forms_of_order

from ppvit.ciphers import CIPHERS, keys, make_cipher
from ppvit.ciphers.keys import Key
from ppvit.ciphers.stream import KeyStream

EMBEDDED = Path(__file__).parent.parent / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"
QUICK = {
    "dataset": {"name": "digits"},
    "finetune": {"epochs": 1, "rank": 2, "target_modules": ["attn.qkv"], "batch_size": 8},
    "robustness": {"attack": "pgd", "images": 2, "steps": 4, "epsilons": [32.0]},
    "verify": {"wrong_keys": 1},
    "he": {"features": "pixels", "train_images": 24, "components": 4, "iterations": 1},
    "audit": {"attacks": ["known_plaintext", "chosen_plaintext", "weights"], "known_pairs": [1], "images": 2},
    "threats": {"images": 2, "surrogate_images": 8, "queries": 2},
}
STAGES = ("encrypt", "adapt", "finetune", "verify", "audit", "threats", "he")
RUN = f"""
from pathlib import Path
from ppvit import config
from ppvit.pipeline import STAGES
from ppvit.places import Places
if __name__ == "__main__":
    settings = config.load()
    for name in {STAGES}:
        STAGES[name].run(settings, Places.of(settings, embedded=Path({str(EMBEDDED)!r})))
"""
# what Python runs first where it finds it: keeps a copy of all that is deleted
HOOK = """
import os, sys
def keep(event, arguments):
    if event == "os.remove":
        path, folder = arguments
        try:
            where = os.fsdecode(path) if folder in (None, -1) else f"/proc/self/fd/{folder}/{os.fsdecode(path)}"
            with open(where, "rb") as file, open(f"{os.environ['EVIDENCE']}/{os.urandom(8).hex()}", "wb") as copy:
                copy.write(file.read())
        except OSError:
            pass
sys.addaudithook(keep)
"""


class Watch(threading.Thread):
    """Argument lists, environments and temporary files of a process and its children, while it lives."""

    def __init__(self, process: subprocess.Popen, folders: list[Path], needles: set[bytes]) -> None:
        super().__init__(daemon=True)
        self._process, self._folders, self._needles = process, folders, needles
        self.processes: set[int] = set()
        self.files: set[str] = set()
        self.found: set[str] = set()
        self.start()

    def run(self) -> None:
        while self._process.poll() is None:
            with suppress(psutil.Error):
                parent = psutil.Process(self._process.pid)
                for each in [parent, *parent.children(recursive=True)]:
                    with suppress(psutil.Error):
                        self._search(f"started {each.cmdline()}", "\0".join(each.cmdline()).encode())
                        self._search(f"environment {each.cmdline()}", str(each.environ()).encode())
                        self.processes.add(each.pid)
            for path in files_in(*self._folders):
                with suppress(OSError):
                    self._search(str(path), path.read_bytes())
                    self.files.add(path.name)
            self._process_waits()

    def _process_waits(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)

    def _search(self, where: str, data: bytes) -> None:
        if holds(data, self._needles):
            self.found.add(where)


def holds(data: bytes, needles: set[bytes]) -> bool:
    return any(needle in data for needle in needles)


def files_in(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Key:
    return keys.generate()


@pytest.fixture
def project(tmp_path, key, monkeypatch) -> Path:
    root = tmp_path / "project"
    for name in ("t", "scratch", "home", "evidence", "hook", "keyring"):
        (tmp_path / name).mkdir(mode=0o700)
    write_raw(root / "data" / "raw" / "digits", {"train": 32, "test": 12}, size=32)
    config = make_config(**QUICK, cipher={"key_id": key.id})
    (root / "params.yaml").write_text(yaml.safe_dump(config.model_dump()))
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    keys.save(key, tmp_path / "keyring")
    path = os.pathsep.join([str(tmp_path / "hook"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for name, value in {
        "PYTHONPATH": path, "TMPDIR": tmp_path / "t", "PPVIT_SCRATCH": tmp_path / "scratch",
        "HOME": tmp_path / "home", "XDG_CACHE_HOME": tmp_path / "home", "EVIDENCE": tmp_path / "evidence",
        "PPVIT_KEYRING": tmp_path / "keyring", "PPVIT_WORKERS": "2", "PPVIT_DEBUG": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(root)
    return root


def secrets_of(key: Key, monkeypatch) -> tuple[set[bytes], set[bytes]]:
    """Forms of the key and its sub-keys, and of the orders that they give."""
    one = np.zeros((1, 32, 32, 3), np.uint8)
    taken = set(derived(lambda: make_cipher("block", key, 32, 4).encrypt(one), monkeypatch))
    return forms_of_bytes(key.secret), taken


def test_no_stage_shows_the_key_to_anybody(project, key, tmp_path, monkeypatch):
    of_key, taken = secrets_of(key, monkeypatch)
    needles = of_key | taken
    (project / "run.py").write_text(RUN)
    process = subprocess.Popen([sys.executable, "run.py"], text=True, stdout=-1, stderr=subprocess.STDOUT)
    watch = Watch(process, [tmp_path / name for name in ("t", "scratch", "home")], needles)
    told = process.communicate()[0]
    watch.join(60)
    assert process.returncode == 0, told[-3000:]
    assert len(watch.processes) > 4  # the parties of he, and workers
    assert "rotation.key" in watch.files
    assert watch.found == set()
    assert not holds(told.encode(), needles)
    written = files_in(project, tmp_path / "t", tmp_path / "scratch", tmp_path / "home", tmp_path / "evidence")
    assert len(files_in(tmp_path / "evidence")) > 5
    for path in written:
        data = path.read_bytes()
        assert not holds(data, of_key), path
        # an adapted model tells the order of blocks to whoever has the public checkpoint, as the report says
        assert path.is_relative_to(project / "models") or not holds(data, taken), path


@pytest.mark.parametrize("way", ["error", "defect"])
def test_no_traceback_shows_the_key(project, key, monkeypatch, way):
    """With --debug, of an error that the user can put right and of one that is ours, in the very midst of a cipher."""
    needles = set.union(*secrets_of(key, monkeypatch))
    kind = "PpvitError" if way == "error" else "RuntimeError"
    (project / "run.py").write_text(f"""
from ppvit.core.errors import PpvitError
from ppvit.ciphers.stream import KeyStream
before = KeyStream.permutation
def permutation(stream, size):
    values = before(stream, size)
    raise {kind}("the cipher failed")
KeyStream.permutation = permutation
from ppvit.cli import run
run()
""")
    command = [sys.executable, "run.py", "--debug", "encrypt"]
    done = subprocess.run(command, text=True, stdout=-1, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stdout
    assert "the cipher failed" in done.stdout
    assert not holds(done.stdout.encode(), needles)


def test_no_text_that_objects_with_a_key_give_of_themselves_shows_it(key, monkeypatch):
    for name, kind in CIPHERS.items():
        if not kind.keyed:
            continue
        cipher = make_cipher(name, key, 32, 4) if not name.startswith("neuracrypt") else None
        for thing in filter(None, (key, cipher, KeyStream(key, (name,)))):
            texts = (repr(thing), str(thing), f"{thing}", "%s" % (thing,), str([thing]), str({"key": thing}))  # noqa: UP031
            assert not any(holds(text.encode(), forms_of_bytes(key.secret)) for text in texts), name

    def fails(key: Key) -> None:
        raise ValueError(key)

    with pytest.raises(ValueError, match=key.id) as told:
        fails(key)
    shown = "".join(traceback.TracebackException.from_exception(told.value, capture_locals=True).format())
    assert "Key(" in shown
    assert not holds(shown.encode(), forms_of_bytes(key.secret))


def test_the_search_finds_what_it_looks_for(key):
    """Every form, wherever it begins in the encoded text."""
    order = np.random.default_rng(0).permutation(64)
    import base64
    import json

    for before in (b"", b"a", b"ab"):
        text = base64.b64encode(before + key.secret + b"xyz")
        assert holds(b"log: " + text, forms_of_bytes(key.secret))
    assert holds(json.dumps({"order": order.tolist()}).encode(), forms_of_order(order))
    assert holds(str(order).encode(), forms_of_order(order))
    assert holds(order.astype(np.int32).tobytes(), forms_of_order(order))
    assert not holds(order[::-1].astype(np.int32).tobytes(), forms_of_order(order))
