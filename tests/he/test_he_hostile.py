"""Files of SEAL that somebody else wrote: bombs, lies and noise are refused in one line, and end no process of ours."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ppvit.core.errors import PpvitError, UsageError
from ppvit.he.ckks.scheme import Parameters
from ppvit.he.ckks.secret import SecretSession
from ppvit.he.ckks.session import Session
from ppvit.he.ckks.trial import require_readable
from ppvit.he.parties.features import unchanged
from ppvit.he.parties.folders import MANIFEST, OwnersFiles, Sent, read_manifest, write_manifest, write_plan
from ppvit.he.parties.kept import Kept, read_kept, write_kept
from ppvit.he.parties.refresh import patience_seconds
from ppvit.he.parties.trainer import run as run_trainer
from ppvit.he.tiles import Tiles
from ppvit.he.tiles.plan import make_plan

pytest.importorskip("tenseal")
PARAMETERS = Parameters(4096, (36, 26, 40), 26)
FINGERPRINT = "he-" + "0" * 16


@pytest.fixture(scope="module")
def session() -> SecretSession:
    return SecretSession(PARAMETERS)


@pytest.fixture(scope="module")
def good(session) -> bytes:
    return session.to_bytes(session.encrypt_seeded(numbers(session)))


def numbers(session: SecretSession) -> np.ndarray:
    return np.linspace(-1, 1, session.parameters.slots)


def bomb(good: bytes, gibibytes: float) -> bytes:
    """A file of SEAL that inflates to zeros: a frame of zstd (RFC 8878) whose blocks repeat one byte 128 KiB times.

    Args:
        good: any file of SEAL's, whose first 8 bytes say version and zstd; the size of all follows.
        gibibytes: of zeros.
    """
    blocks = int(gibibytes * 2**13)
    repeat = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3) + repeat * blocks + last
    assert good[5] == 2  # zstd
    return good[:8] + struct.pack("<Q", 16 + len(frame)) + frame


def refused(session: Session, path: Path) -> str:
    with pytest.raises(PpvitError) as told:
        session.try_ciphertexts([path])
    text = str(told.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_good_ciphertexts_pass_seeded_or_not(session, tmp_path):
    session.save(session.encrypt(numbers(session)), tmp_path / "whole.ct")
    session.save(session.encrypt_seeded(numbers(session)), tmp_path / "half.ct")
    session.try_ciphertexts(tmp_path.iterdir())
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(session.decrypt(session.load("Ciphertext", path)), numbers(session), atol=1e-2)


def test_a_bomb_is_refused_and_takes_no_memory(session, good, tmp_path):
    path = tmp_path / "x.ct"
    path.write_bytes(bomb(good, 4))
    assert len(path.read_bytes()) < session.parameters.file_bytes("Ciphertext")
    before = psutil.Process().memory_info().rss
    others = {*psutil.Process().children()}
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert "cannot be read" in refused(session, path) or "is no Ciphertext" in refused(session, path)
    assert psutil.Process().memory_info().rss < before + 2**26
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < max(children * 1024, before) + 2**29
    assert not {*psutil.Process().children()} - others


def test_ciphertexts_that_cannot_be_are_refused(session, tmp_path):
    path = tmp_path / "x.ct"
    other = SecretSession(Parameters(8192, (36, 26, 40), 26))
    product = session.multiply(session.encrypt(numbers(session)), session.encrypt(numbers(session)))
    unscaled = session.encrypt(numbers(session))
    unscaled.scale = 2.0**-20
    for item in (product, unscaled, other.encrypt(1.0), session.secret, session.encode(1.0, 1)):
        session.save(item, path)
        refused(session, path)
    path.write_bytes(b"")
    refused(session, path)
    path.unlink()
    assert "missing" in refused(session, path)
    os.mkfifo(path)
    assert "no regular file" in refused(session, path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "no regular file" in refused(session, path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "bytes, of at most" in refused(session, path)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_noise_in_a_ciphertext_is_refused_or_harmless(session, good, tmp_path, data):
    path = tmp_path / "x.ct"
    places = st.integers(0, 200) | st.integers(0, len(good) - 1)  # all that is not random lies near the beginning
    bad = bytearray(good)
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        bad[place] = data.draw(st.integers(0, 255) | st.sampled_from([0, 255]))
    bad = bad[: data.draw(st.just(len(bad)) | places)] + data.draw(st.binary(max_size=20))
    path.write_bytes(bad)
    told = ""
    try:
        session.try_ciphertexts([path])
        session.decrypt(session.load("Ciphertext", path))  # what the copy could read, this process can
    except PpvitError as error:
        told = str(error)
    assert not told or (str(path) in told and "\n" not in told)


@pytest.mark.parametrize("end", ["crash", "memory", "exit"])
def test_whatever_ends_the_copy_is_told_of_the_right_file(tmp_path, end):
    def read(path: Path) -> None:
        if path.name == "b":
            if end == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if end == "exit":
                os._exit(0)
            bytearray(2**33)

    with pytest.raises(PpvitError, match=f"^{tmp_path / 'b'} cannot be read: it takes more memory"):
        require_readable([tmp_path / "a", tmp_path / "b", tmp_path / "c"], read, 2**20)
    require_readable([tmp_path / "a"], read, 2**20)


def test_a_folder_has_exactly_the_files_that_are_expected_and_none_too_large(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    write_manifest(tmp_path, FINGERPRINT)
    assert set(read_manifest(tmp_path, "keys", FINGERPRINT, {"a": 4}).files) == {"a"}
    for expected, told in (({"a": 3}, "a has 4 bytes, of at most 3"), ({"a": 4, "b": 1}, "b is missing")):
        with pytest.raises(PpvitError, match=told):
            read_manifest(tmp_path, "keys", FINGERPRINT, expected)
    good = json.loads((tmp_path / MANIFEST).read_text())
    for change in (
        {"files": {**good["files"], "more": "0" * 64}}, {"files": {"a": "x"}}, {"files": []}, {"fingerprint": 1},
        {"fingerprint": "he-\x1b[2J"}, {"schema": True}, {"run": "../../x"}, {"more": 1},
        {"data": "data-\x1b[2J"}, {"data": 1},
    ):  # fmt: skip
        (tmp_path / MANIFEST).write_text(json.dumps({**good, **change}))
        with pytest.raises(PpvitError, match=str(tmp_path)):
            read_manifest(tmp_path, "keys", FINGERPRINT, {"a": 4})


def test_a_trainer_survives_the_files_of_a_hostile_owner(tmp_path):
    """Its folder as `keys` and `encrypt` write it, and then one file after the other with something else in it."""
    plan = make_plan(4, 3, 2, 1)
    session = SecretSession(plan.parameters)
    for name in ("keys", "data"):
        (tmp_path / name).mkdir()
    write_plan(tmp_path, Tiles(plan), FINGERPRINT)
    keys = {
        "relinearisation.key": session.seeded_relinearisation(),
        "rotation.key": session.seeded_rotation(plan.rotations()),
    }
    for name, key in keys.items():
        session.save(key, tmp_path / "keys" / name)
    for name in Tiles(plan).upload_names():
        session.save(session.encrypt_seeded(numbers(session)), tmp_path / "data" / name)
    for folder in ("keys", "data"):
        write_manifest(tmp_path / folder, FINGERPRINT)
    run_trainer(tmp_path)
    few = tmp_path / "few.key"
    session.save(session.seeded_rotation(plan.rotations()[:1]), few)
    for path in [*(tmp_path / "keys").glob("*.key"), *(tmp_path / "data").glob("*.ct")]:
        good = path.read_bytes()
        for bad in (bomb(good, 3), good[:100], few.read_bytes(), b"\0" * 5000):
            path.write_bytes(bad)
            write_manifest(path.parent, FINGERPRINT)
            with pytest.raises(PpvitError) as told:
                run_trainer(tmp_path)
            assert str(path) in str(told.value)
        path.write_bytes(good)
        write_manifest(path.parent, FINGERPRINT)


SIZES = {"images": 5, "columns": 4, "classes": 3}
SENT = Sent("data-" + "0" * 16, Path("encrypt.json"), "train again")


def kept(**other: np.ndarray) -> Kept:
    arrays = {"twin_weights": np.zeros((3, 4)), "features": np.zeros((5, 4)), "labels": np.zeros(5, np.int64)}
    arrays |= {"held_out": np.zeros((2, 4)), "held_out_labels": np.zeros(2, np.int64), **other}
    return Kept(unchanged(3), **arrays, data=SENT.id)


def test_what_the_owner_kept_is_read_only_if_it_is_of_the_plan(tmp_path):
    plan, owner = make_plan(**SIZES, iterations=1), OwnersFiles(tmp_path)
    write_kept(owner, kept())
    assert read_kept(owner, plan, SENT).features.shape == (5, 4)
    with pytest.raises(
        PpvitError, match=r"is of data-0{16}, encrypt.json of data-1{16}: .* run ppvit he encrypt again"
    ):
        read_kept(owner, plan, replace(SENT, id="data-" + "1" * 16))
    arrays = load_file(tmp_path / "kept.safetensors")
    for metadata in (None, {"more": "0"}):
        save_file(arrays, tmp_path / "kept.safetensors", metadata)
        with pytest.raises(PpvitError, match="is of data that it does not name, "):
            read_kept(owner, plan, SENT)
    for bad in (
        {"features": np.zeros((6, 4))}, {"features": np.zeros((5, 4), np.float32)}, {"labels": np.full(5, 3)},
        {"twin_weights": np.full((3, 4), np.nan)}, {"labels": np.zeros((5, 1), np.int64)},
        {"held_out": np.zeros((3, 4))}, {"held_out": np.full((2, 4), np.inf)}, {"held_out_labels": np.full(2, 3)},
    ):  # fmt: skip
        write_kept(owner, kept(**bad))
        with pytest.raises(PpvitError, match="run ppvit he encrypt again"):
            read_kept(owner, plan, SENT)
    path = tmp_path / "kept.safetensors"
    for text in (b"", b"x" * 9, struct.pack("<Q", 2**60) + b"{}", b"PK\3\4"):
        path.write_bytes(text)
        with pytest.raises(PpvitError, match="is damaged"):
            read_kept(owner, plan, SENT)


@pytest.mark.parametrize("seconds", ["soon", "nan", "inf", "-1", "0", "1e300"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(monkeypatch, seconds):
    monkeypatch.setenv("PPVIT_HE_WAIT", seconds)
    with pytest.raises(UsageError, match="PPVIT_HE_WAIT is .*; set it to seconds"):
        patience_seconds()


def test_a_crash_of_whoever_holds_the_key_leaves_no_dump(session):
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
