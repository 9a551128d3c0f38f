"""`ppvit pull`: a hostile remote or lock writes nothing outside the folders that DVC keeps."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import dump_yaml
from hypothesis import given
from hypothesis import strategies as st

from ppvit.cli.pulling import require_harmless_list, require_harmless_lock, require_own_stages
from ppvit.core.errors import PpvitError

ROOT = Path(__file__).parents[2]
HASH = "d7f986677d9f563bd1794b09d82206a3"
ENTRY = {"path": "models/out", "hash": "md5", "md5": f"{HASH}.dir", "size": 5, "nfiles": 1}


def lock_of(**changes) -> str:
    return json.dumps({"schema": "2.0", "stages": {"make": {"cmd": "x", "outs": [{**ENTRY, **changes}]}}})


NAMES = ("../../x", "/etc/x", "a/../../x", "..", "a//b", "./a", "a\\..\\b", "a\0", "", ".git/x", 5, None)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_are_refused(name):
    require_harmless_list([{"md5": HASH, "relpath": "train/000000.tar"}])
    with pytest.raises(PpvitError, match="do not trust who pushed it"):
        require_harmless_list([{"md5": HASH, "relpath": "a"}, {"md5": HASH, "relpath": name}])


@pytest.mark.parametrize("told", ["../../home/x", "", None, 5, HASH[:-1], HASH + "0", HASH.upper(), "/" + HASH[1:]])
def test_hashes_that_are_names_of_files_are_refused(tmp_path, told):
    with pytest.raises(PpvitError, match="no hash that DVC writes"):
        require_harmless_list([{"md5": told, "relpath": "a"}])
    (tmp_path / "dvc.lock").write_text(lock_of(md5=told))
    with pytest.raises(PpvitError, match="models/out is no hash that DVC writes"):
        require_harmless_lock(tmp_path / "dvc.lock")


NO_LOCKS = ("", "[]", "stages: 5", "stages: {a: []}", "{", "a: [" * 3000, "stages: {a: {outs: [x]}}")
BOMB = "a: &a0 [x]\n" + "".join(f"b{n}: &a{n + 1} [{', '.join(9 * [f'*a{n}'])}]\n" for n in range(9))
NO_LOCKS += (BOMB, "stages: {}\n" + "# padding\n" * 200_000)
NO_LOCKS += (lock_of(files=[]), lock_of(cloud={}), lock_of(hash="x"))


@pytest.mark.parametrize("text", NO_LOCKS)
def test_what_is_no_lock_is_refused(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(PpvitError, match="lock"):
        require_harmless_lock(tmp_path / "dvc.lock")


def test_the_locks_of_this_repository_pass():
    require_harmless_lock(ROOT / "dvc.lock")


# as hexadecimal digits come, and those that versions of YAML read as numbers: with a prefix, in octal, with an exponent
HASHES = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.from_regex(r"0b[0-9a-f]{30}", fullmatch=True),
    st.from_regex(r"0b[01]{30}", fullmatch=True),
    st.from_regex(r"0[0-7]{31}", fullmatch=True),
    st.from_regex(r"[0-9]{32}", fullmatch=True),
    st.from_regex(r"[0-9]{10}e[0-9]{21}", fullmatch=True),
    st.from_regex(r"e[0-9]{31}", fullmatch=True),
)


@given(told=HASHES, folder=st.booleans())
def test_a_lock_passes_whatever_the_hashes_in_it(tmp_path_factory, told, folder):
    entry = {"path": "data/x", "hash": "md5", "md5": told + ".dir" * folder, "size": 1}
    lock = tmp_path_factory.getbasetemp() / "hashes.lock"
    dump_yaml(lock, {"schema": "2.0", "stages": {"encrypt": {"cmd": "x", "outs": [entry]}}})  # DVC's own writer
    require_harmless_lock(lock)


def test_a_trainers_lock_says_nothing_new_of_the_owners_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock, held = Path("dvc.lock"), json.loads(lock_of())["stages"]["make"]

    def write(**stages: str) -> None:
        told = {name: {**held, "outs": [{**ENTRY, "md5": digit * 32}]} for name, digit in stages.items()}
        lock.write_text(json.dumps({"schema": "2.0", "stages": told}))

    write(finetune="1", verify="1")
    require_own_stages(lock)  # no git
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    write(finetune="2", verify="1")
    require_own_stages(lock)
    for stages in ({"verify": "2"}, {}, {"verify": "1", "audit": "2"}):
        write(finetune="2", **stages)
        with pytest.raises(PpvitError, match="owner's stage (verify|audit) what the last commit here does not"):
            require_own_stages(lock)


@pytest.fixture
def clone(tmp_path):
    """A project with an output in a remote, not yet pulled, and what runs commands there."""
    root = tmp_path / "project"
    root.mkdir()

    def run(*command: str, code: int = 0) -> str:
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    run(sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    return root, run


def put(remote: Path, data: bytes, ending: str = "") -> str:
    """Keep an object in a remote as `dvc push` does; its name."""
    name = hashlib.md5(data).hexdigest()
    path = remote / "files" / "md5" / name[:2] / (name[2:] + ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name + ending


@pytest.mark.parametrize("relpath", ["weights", "../../escaped"])
def test_a_folder_of_the_remote_is_written_whole_or_refused(clone, tmp_path, relpath):
    root, run = clone
    file = put(tmp_path / "remote", b"of the trainer\n")
    listed = json.dumps([{"md5": file, "relpath": relpath}]).encode()
    folder = put(tmp_path / "remote", listed, ".dir")
    (root / "dvc.yaml").write_text("stages:\n  make:\n    cmd: x\n    outs: [models/out]\n")
    (root / "dvc.lock").write_text(lock_of(md5=folder, size=15))
    if relpath == "weights":
        run(sys.executable, "-m", "ppvit.cli", "pull", "make")
        assert (root / "models/out/weights").read_text() == "of the trainer\n"
        return
    told = run(sys.executable, "-m", "ppvit.cli", "pull", "make", code=1)
    assert told.splitlines()[-1].startswith("error: the remote has a folder with a file named '../../escaped'")
    assert "Traceback" not in told
    assert not (root / "models/out").exists()
    assert not (root / "escaped").exists()


def test_without_a_remote_what_is_here_is_taken_and_what_is_not_is_told(clone, tmp_path):
    root, run = clone
    pull = (sys.executable, "-m", "ppvit.cli", "pull")
    run(sys.executable, "-m", "dvc", "remote", "remove", "-q", "shared")
    file = hashlib.md5(b"of the trainer\n").hexdigest()
    listed = json.dumps([{"md5": file, "relpath": "weights"}]).encode()
    (root / "dvc.yaml").write_text("stages:\n  make:\n    cmd: x\n    outs: [models/out]\n")
    (root / "dvc.lock").write_text(lock_of(md5=f"{hashlib.md5(listed).hexdigest()}.dir", size=15))
    lacks = "error: there is no remote to fetch models/out from; name the project's: dvc remote add -d NAME URL\n"
    for words in ((), ("models/out",)):
        assert run(*pull, *words, code=1) == lacks
    cache = root / ".dvc" / "cache"
    put(cache, listed, ".dir")
    assert run(*pull, "make", code=1) == lacks  # the list alone
    put(cache, b"of the trainer\n")
    run(*pull, "make")
    assert (root / "models/out/weights").read_text() == "of the trainer\n"
    assert "no remote to fetch" not in run(*pull, "nowhere", code=1)
