"""Keys on disk and in the keychain: who may read them, damage, passphrases; and that they stay out of other files."""

import base64
import os
import pickle
import pty
import stat
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppvit.ciphers import keychain, keys, make_cipher, passphrase
from ppvit.ciphers.keys import Key
from ppvit.core.errors import PpvitError, UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="files have no modes here")


@pytest.fixture
def cheap(monkeypatch):
    """The least that a file may ask for, 16 MiB a try, and nothing unlocked before."""
    monkeypatch.setattr(passphrase, "_LOG2_N", 14)
    monkeypatch.setattr(keys, "_unlocked", {})


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Sets the passphrase in a file."""

    def say(text: str | bytes, mode: int = 0o600):
        path = tmp_path / "passphrase"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        monkeypatch.setenv("PPVIT_PASSPHRASE_FILE", str(path))

    return say


def rewrite(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)


def test_save_and_load(tmp_path):
    key = keys.generate()
    path = keys.save(key, tmp_path / "ring", "alice")
    assert path.name == f"{key.id}.key"
    assert path.read_text() == "ppvit-key-v1:" + base64.b64encode(key.secret).decode() + "\n"
    assert keys.load(key.id, tmp_path / "ring") == key
    assert keys.save(key, tmp_path / "ring") == path  # again: nothing is overwritten, nothing fails
    assert (tmp_path / "ring" / f"{key.id}.label").read_text() == "alice\n"


@posix
def test_all_that_is_written_is_the_users_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        keys.save(keys.generate(), tmp_path / "ring", "alice")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ring").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ring").iterdir()} == {0o600}


def test_keyring_of_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PPVIT_KEYRING", str(tmp_path))
    key = keys.generate()
    keys.save(key)
    assert keys.load(key.id) == key


def test_missing_and_misnamed_keys(tmp_path):
    key, other = keys.generate(), keys.generate()
    with pytest.raises(UsageError, match=f"key {key.id} is not in the keyring"):
        keys.load(key.id, tmp_path)
    rewrite(tmp_path / f"{key.id}.key", keys.save(other, tmp_path).read_text())
    with pytest.raises(PpvitError, match=f"{key.id}.key does not hold the key that its name says"):
        keys.load(key.id, tmp_path)
    for no_id in ("../secret", "pk-0123", "", "pk-0123456789ABCDEF"):
        with pytest.raises(UsageError, match="is no key id"):
            keys.load(no_id, tmp_path)


def test_a_damaged_file_is_named_and_never_to_be_replaced_by_a_new_key(tmp_path):
    key = keys.generate()
    path = keys.save(key, tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(len(whole) - 1)]
    damaged += [bytes(64), b"\xff" * 64, whole.replace(b"v1:", b"v2:"), b"ppvit-key-v1:not base64!", whole * 1000]
    damaged += [b"ppvit-key-v1:" + base64.b64encode(bytes(33)), b"ppvit-key-v1-scrypt:", whole.strip() + b"AAAA"]
    for content in damaged:
        rewrite(path, content)
        with pytest.raises(PpvitError) as raised:
            keys.load(key.id, tmp_path)
        told = str(raised.value)
        assert str(path) in told, content
        assert "restore it from your backup" in told
        assert "keygen" not in told
        assert raised.value.exit_code == 1


def test_demo_key_warns(capsys, tmp_path):
    assert keys.load(keys.DEMO_KEY.id, tmp_path) == keys.DEMO_KEY
    assert "public demo key" in capsys.readouterr().err


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path, mode):
    key = keys.generate()
    path = keys.save(key, tmp_path)
    path.chmod(mode)
    with pytest.raises(PpvitError, match=f"chmod 600 {path}$") as raised:
        keys.load(key.id, tmp_path)
    assert raised.value.exit_code == 1
    path.chmod(0o400)  # stricter than need be
    assert keys.load(key.id, tmp_path) == key


@posix
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_keyring_that_others_may_use_is_refused(tmp_path, mode):
    ring = tmp_path / "my ring"
    key = keys.generate()
    keys.save(key, ring)
    ring.chmod(mode)
    for use in (lambda: keys.load(key.id, ring), lambda: keys.save(keys.generate(), ring)):
        with pytest.raises(PpvitError, match=f"chmod 700 '{ring}'$"):
            use()
    assert len(list(ring.glob("pk-*"))) == 1


@posix
def test_files_of_another_user_are_refused(tmp_path, monkeypatch):
    key = keys.generate()
    keys.save(key, tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PpvitError, match="belongs to another user"):
        keys.load(key.id, tmp_path)


@posix
def test_links_lead_to_private_regular_files_only(tmp_path):
    key, ring = keys.generate(), tmp_path / "ring"
    elsewhere = keys.save(key, tmp_path / "elsewhere")
    ring.mkdir(0o700)
    link = ring / f"{key.id}.key"
    link.symlink_to(elsewhere)
    assert keys.load(key.id, ring) == key
    elsewhere.chmod(0o644)
    with pytest.raises(PpvitError, match="chmod 600"):
        keys.load(key.id, ring)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for target in ("/dev/zero", tmp_path / "pipe", tmp_path):
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(PpvitError, match=f"{link}"):
            keys.load(key.id, ring)


def test_a_passphrase_locks_a_key(tmp_path, cheap, said, monkeypatch):
    key = keys.generate()
    path = keys.save(key, tmp_path / "ring", locked_by="correct horse")
    assert len(path.read_text().splitlines()) == 1
    assert path.read_text().startswith("ppvit-key-v1-scrypt:ln=14,r=8,p=1:")
    assert base64.b64encode(key.secret).decode() not in path.read_text()
    said("wrong")
    with pytest.raises(PpvitError, match=f"{path} does not open: wrong passphrase"):
        keys.load(key.id, tmp_path / "ring")
    said("correct horse\n")
    assert keys.load(key.id, tmp_path / "ring") == key
    monkeypatch.delenv("PPVIT_PASSPHRASE_FILE")
    assert keys.load(key.id, tmp_path / "ring") == key  # once in a process


def test_the_format_is_scrypt_and_gcm_as_others_compute_them(cheap):
    """Opened with hashlib's scrypt, of OpenSSL, and the box written out."""
    import hashlib

    secret = bytes(range(32))
    line = passphrase.lock(secret, "pk-0123456789abcdef", "c\u0061\u0308t")  # a, and two dots that go on top of it
    head, salt, box = line.rsplit(":", 2)
    derived = hashlib.scrypt(
        "c\u00e4t".encode(), salt=base64.b64decode(salt), n=2**14, r=8, p=1, maxmem=2**26, dklen=32
    )
    sealed = base64.b64decode(box)
    associated = f"{head}:{salt}:pk-0123456789abcdef".encode()
    assert AESGCM(derived).decrypt(sealed[:12], sealed[12:], associated) == secret
    assert head == "ppvit-key-v1-scrypt:ln=14,r=8,p=1"


def test_nothing_of_a_locked_line_can_be_changed(tmp_path, cheap, said):
    said("p")
    key, other = keys.generate(), keys.generate()
    path = keys.save(key, tmp_path, locked_by="p")
    line = path.read_text().strip()
    changed = [line[:at] + ("B" if line[at] == "A" else "A") + line[at + 1 :] for at in range(len(line) - 6, 36, -9)]
    changed += [line[:-1], line + "A", line.replace("ln=14", "ln=15"), line.replace("r=8", "r=9")]
    for text in changed:
        rewrite(path, text)
        with pytest.raises(PpvitError, match="restore it from your backup"):
            keys.load(key.id, tmp_path)
    rewrite(tmp_path / f"{other.id}.key", line)  # of another id
    with pytest.raises(PpvitError, match="does not open"):
        keys.load(other.id, tmp_path)


@pytest.mark.parametrize(
    "cost", ["ln=13,r=8,p=1", "ln=21,r=8,p=1", "ln=30,r=8,p=1", "ln=17,r=99,p=1", "ln=17,r=8,p=999"]
)
def test_a_file_cannot_ask_for_more_than_a_gibibyte(tmp_path, cheap, cost):
    key = keys.generate()
    path = keys.save(key, tmp_path, locked_by="p")
    rewrite(path, path.read_text().replace("ln=14,r=8,p=1", cost))
    with pytest.raises(PpvitError, match=f"{path} is damaged"):  # before anybody is asked
        keys.load(key.id, tmp_path)


@posix
def test_the_file_of_the_passphrase_must_be_private(tmp_path, cheap, said, monkeypatch):
    key = keys.generate()
    keys.save(key, tmp_path / "ring", locked_by="p")
    for text, mode, told in (("p", 0o644, "chmod 600"), (b"\xff", 0o600, "is no text")):
        said(text, mode)
        with pytest.raises(PpvitError, match=told):
            keys.load(key.id, tmp_path / "ring")
    monkeypatch.setenv("PPVIT_PASSPHRASE_FILE", str(tmp_path / "missing"))
    with pytest.raises(PpvitError, match="missing cannot be read"):
        keys.load(key.id, tmp_path / "ring")


_ASK = "from ppvit.ciphers import keys; from ppvit.core.errors import one_line_errors\nwith one_line_errors(): {}"


def test_without_a_terminal_nothing_waits(tmp_path, cheap):
    """As in a queue of DVC or on a cluster: a session of its own, and a pipe as input."""
    key = keys.generate()
    keys.save(key, tmp_path, locked_by="p")
    environment = {**os.environ, "PPVIT_KEYRING": str(tmp_path)}
    code = _ASK.format(f"keys.load('{key.id}')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, start_new_session=True, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: passphrase of key {key.id} is needed and there is no terminal to ask at")
    assert "PPVIT_PASSPHRASE_FILE" in done.stderr


@posix
def test_it_is_typed_at_the_terminal_also_where_input_is_a_pipe(tmp_path, cheap):
    """As in a stage that `dvc repro` starts."""
    key = keys.generate()
    keys.save(key, tmp_path, locked_by="correct horse")
    code = _ASK.format(f"assert keys.load('{key.id}').id == '{key.id}'; print('opened')")
    child, terminal = pty.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        environment = {**os.environ, "PPVIT_KEYRING": str(tmp_path)}
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    seen = b""
    while b"Passphrase" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"correct horse\n")
    try:
        while more := os.read(terminal, 1000):
            seen += more
    except OSError:  # the terminal goes with its last process
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"opened" in seen
    assert b"horse" not in seen  # not shown


def test_a_new_passphrase_is_typed_twice_and_not_empty(monkeypatch):
    typed = iter(["a", "b", "", ""])
    monkeypatch.setattr(passphrase, "_typed", lambda prompt: next(typed))
    with pytest.raises(UsageError, match="differ"):
        passphrase.ask("pk", new=True)
    with pytest.raises(UsageError, match="empty"):
        passphrase.ask("pk", new=True)


@pytest.fixture
def backend():
    """A keychain in memory, which the package takes for the system's."""
    keyring = pytest.importorskip("keyring", reason="the extra keychain is not installed")
    from keyring.backend import KeyringBackend

    class Memory(KeyringBackend):
        priority = 5
        kept: dict[tuple[str, str], str]

        def set_password(self, service, username, password):
            self.kept[service, username] = password

        def get_password(self, service, username):
            return self.kept.get((service, username))

    before, memory = keyring.get_keyring(), Memory()
    memory.kept = {}
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


def test_a_key_in_the_keychain_is_found_after_the_folder(tmp_path, backend):
    key, other = keys.generate(), keys.generate()
    keys.save_in_keychain(key, tmp_path / "ring", "alice")
    assert [path.name for path in (tmp_path / "ring").glob("pk-*")] == [f"{key.id}.label"]
    assert keys.load(key.id, tmp_path / "ring") == key
    with pytest.raises(UsageError, match="is not in the keyring"):
        keys.load(other.id, tmp_path / "ring")
    backend.kept["ppvit", other.id] = backend.kept["ppvit", key.id]
    with pytest.raises(PpvitError, match=f"the keychain of this system, entry {other.id} does not hold the key"):
        keys.load(other.id, tmp_path / "ring")
    keys.save(other, tmp_path / "ring")
    assert keys.load(other.id, tmp_path / "ring") == other


def test_a_keychain_that_keeps_nothing_is_refused(tmp_path, backend, monkeypatch):
    import keyring
    from keyring.backends import fail, null
    from keyring.errors import KeyringLocked

    key = keys.generate()
    for bad in (fail.Keyring(), null.Keyring()):
        keyring.set_keyring(bad)
        with pytest.raises(UsageError, match="leave out --keychain"):
            keys.save_in_keychain(key, tmp_path)
        with pytest.raises(UsageError, match="is not in the keyring"):
            keys.load(key.id, tmp_path)
    keyring.set_keyring(backend)

    def locked(*_):
        raise KeyringLocked("it is locked")

    monkeypatch.setattr(type(backend), "get_password", locked)
    with pytest.raises(PpvitError, match="refuses .it is locked.*unlock it and run again"):
        keys.load(key.id, tmp_path)
    assert list(tmp_path.glob("pk-*")) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="its keychain is in libraries of the system, which are looked for")
def test_a_look_into_the_keychain_starts_no_program():
    """The package would ask gcc and ld for the libraries of macOS, in the middle of a missing key."""
    pytest.importorskip("keyring", reason="the extra keychain is not installed")
    code = (
        "import sys; started = []\n"
        "sys.addaudithook(lambda event, told: started.append(told[0]) if event == 'subprocess.Popen' else None)\n"
        "from ppvit.ciphers import keychain; keychain.find('pk-0123456789abcdef'); sys.exit(str(started or ''))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_KEYRING_BACKEND"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr.strip() == ""


def test_without_the_package_there_is_no_keychain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert keychain.find("pk-0123456789abcdef") is None
    with pytest.raises(UsageError, match="pip install"):
        keys.save_in_keychain(keys.generate(), tmp_path)


@pytest.mark.parametrize("name", ["ffx", "block", "orthogonal", "subblock_etc", "pe"])
def test_a_cipher_goes_to_other_processes_as_its_key_alone(name):
    """joblib puts arrays of 1 MiB and more on disk: none that is derived from the key may be among what is sent."""
    cipher = make_cipher(name, Key(bytes(range(32))), 32, 4)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    encrypted = cipher.encrypt(images)  # and keeps what it has derived
    sent = pickle.dumps(cipher)
    assert len(sent) < 500
    again = pickle.loads(sent)
    assert again.record == cipher.record
    np.testing.assert_array_equal(again.encrypt(images), encrypted)


@pytest.mark.parametrize(
    ("stage", "warns"), [("", 1), ("encrypt", 1), ("dvc.yaml:encrypt@1", 1), ("verify", 0), ("audit@encrypted", 0)]
)
def test_of_the_demo_key_a_run_is_warned_once(monkeypatch, capsys, stage, warns):
    """Of the processes of a `dvc repro` the one that encrypts warns; a command warns by itself."""
    monkeypatch.setenv("DVC_STAGE", stage)
    for _ in range(3):
        keys.load(keys.DEMO_KEY.id)
    assert capsys.readouterr().err.count("public demo key") == warns
