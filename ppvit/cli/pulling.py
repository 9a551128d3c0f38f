"""Fetching what the other party pushed, as `dvc pull` does, without trusting who wrote the remote and ``dvc.lock``.

DVC (3.67) keeps a folder as a list of names and hashes, and follows ``..`` in both: whoever may write the remote or
the lock could write any file of ours, or have one of ours sent off by the next push. Lists and lock are checked here
before DVC follows them.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ppvit.config import load
from ppvit.config.parsing import require_plain
from ppvit.core.errors import PpvitError
from ppvit.core.reading import read_bounded
from ppvit.pipeline import STAGES

_LOCK_BYTES = 2**20  # thirty times what ours has
_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
_OF_A_FILE = {"path", "hash", "md5", "size", "nfiles", "isexec"}
_OF_A_LISTED_FILE = {"relpath", "md5", "size", "isexec"}
_NAME_LETTERS = 200  # of a file in a folder; ours take less
_NO_LIST = (
    "the remote has a folder whose list of files is none that DVC writes; nothing of it was written: do not trust who "
    "pushed it"
)
_NO_LETTERS = {"\\", "\0"}
_NO_NAME = {"", ".", "..", ".dvc", ".git"}


def pull(targets: list[str], lock: Path = Path("dvc.lock")) -> None:
    """Do what `dvc pull` does, in the project of the working folder.

    Args:
        targets: stages or outputs; by default all that are pushed.
        lock: the project's lock file.

    Raises:
        PpvitError: the lock or the list of a folder's files names what can only be meant to lead elsewhere; the lock
            says of the owner's stages what the last commit here does not; there is no remote, and not all is here.
        SystemExit: DVC failed, and has said why.
    """
    require_harmless_lock(lock)
    require_own_stages(lock)
    if Path("params.yaml").exists():
        load()  # dataset.name is a part of places, and must not lead out of their folder
    from dvc.cli import main
    from dvc_data.hashfile.tree import Tree

    lists: Any = Tree  # of files in a folder, which all of DVC reads here
    original, reading = lists.from_list.__func__, lists.load.__func__

    def checked(cls: Any, entries: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            require_harmless_list(entries)
        except PpvitError as error:
            raise _Refused(str(error)) from None
        return original(cls, entries, *args, **kwargs)

    def read(*args: Any, **kwargs: Any) -> Any:
        try:
            return reading(*args, **kwargs)
        except (RecursionError, UnicodeDecodeError):
            raise _Refused(_NO_LIST) from None

    lists.from_list, lists.load = classmethod(checked), classmethod(read)
    try:
        wanted = targets or pushed()
        _require_remote(wanted)
        code = main(["pull", *wanted])
    except _Refused as refusal:
        raise PpvitError(str(refusal)) from None
    finally:
        lists.from_list, lists.load = classmethod(original), classmethod(reading)
    if code:
        raise SystemExit(1)


class _Refused(BaseException):
    """Goes through DVC, which would say something of its own about an exception that it catches."""


def pushed() -> list[str]:
    """The outputs that `dvc push` sends; to ask for others is an error, since no remote has them."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return [str(out) for out in repo.index.outs if out.use_cache and out.can_push]
    except NotDvcRepoError:
        raise PpvitError("this folder is in no DVC project; run in a clone of the project") from None


def _require_remote(targets: list[str]) -> None:
    """Refuse to fetch from nowhere; what DVC's cache or the working tree has, DVC takes without a remote."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import index_from_targets

    with suppress(DvcException), Repo() as repo:  # DVC tells of targets that are none
        if repo.config["core"].get("remote"):
            return
        outs = [out for out in index_from_targets(repo, targets).outs if out.use_cache and out.hash_info]
        of_remote = [out for out in outs if not out.remote and not out.stage.is_import]
        lacking = [out for out in of_remote if out.changed_cache() and out.workspace_status()]
        if lacking:
            raise PpvitError(
                f"there is no remote to fetch {lacking[0]} from; name the project's: dvc remote add -d NAME URL"
            )


def require_harmless_lock(lock: Path) -> None:
    """Refuse a lock file with hashes that are none, since DVC makes names of files of them.

    Raises:
        PpvitError: names what is wrong.
    """
    try:
        text = read_bounded(lock, _LOCK_BYTES).decode()
        require_plain(text)  # a few lines of aliases stand for gigabytes
        held = yaml.safe_load(text)
        entries = [
            entry for stage in held["stages"].values() for kind in ("deps", "outs") for entry in stage.get(kind, [])
        ]
        wrong = next((entry for entry in entries if not _is_file_of_ours(entry)), None)
    except FileNotFoundError:
        raise PpvitError(f"{lock} is missing; run at the top of a clone of the project") from None
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise PpvitError(f"{lock} is no lock file of DVC ({reason}); take it again from git") from None
    if wrong is not None:
        told = str(wrong.get("path", wrong) if isinstance(wrong, dict) else wrong)[:100]
        raise PpvitError(f"{lock}: what it says of {told} is no hash that DVC writes; do not trust who made this lock")


def require_own_stages(lock: Path) -> None:
    """Refuse a lock file that says of the owner's stages anything but what the last commit here says.

    DVC takes a stage for done, and its outputs from the remote, where the lock says so. A trainer's lock could thereby
    put results of `verify` in place that nobody measured.

    Args:
        lock: checked by :func:`require_harmless_lock`.

    Raises:
        PpvitError: names the stage.
    """
    told = subprocess.run(["git", "show", f"HEAD:./{lock}"], capture_output=True, check=False)
    if told.returncode:
        return  # no git, or nothing was committed: nobody else's lock was taken
    committed, now = (yaml.safe_load(text)["stages"] for text in (told.stdout, lock.read_bytes()))
    for name in sorted(committed.keys() | now.keys()):
        owners = name in STAGES and STAGES[name].party != "trainer"
        if owners and committed.get(name) != now.get(name):
            raise PpvitError(
                f"{lock} says of the owner's stage {name} what the last commit here does not; if you ran it yourself, "
                "commit that first, else do not trust who made this lock: git checkout HEAD -- dvc.lock"
            )


def _is_file_of_ours(entry: Any) -> bool:
    if not isinstance(entry, dict) or not entry.keys() <= _OF_A_FILE or entry.get("hash") != "md5":
        return False
    return isinstance(entry.get("md5"), str) and _HASH.fullmatch(entry["md5"]) is not None


def require_harmless_list(entries: Any) -> None:
    """Refuse a list of a folder's files that leads out of the folder.

    Raises:
        PpvitError: names the file.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PpvitError(_NO_LIST)
    for entry in entries:
        if not entry.keys() <= _OF_A_LISTED_FILE or len(str(entry.get("relpath"))) > _NAME_LETTERS:
            raise PpvitError(_NO_LIST)
        name, told = entry.get("relpath"), entry.get("md5")
        if (
            not isinstance(name, str)
            or "\\" in name
            or "\0" in name
            or _NO_NAME & {*name.split("/")}
            or len(name) > _NAME_LETTERS
        ):
            raise PpvitError(
                f"the remote has a folder with a file named {str(name)[:100]!r}, which would be written elsewhere; "
                "nothing of it was written: do not trust who pushed it"
            )
        if not isinstance(told, str) or _HASH.fullmatch(told) is None:
            raise PpvitError(
                f"the remote has a folder whose file {name[:100]!r} has no hash that DVC writes; nothing of it was "
                "written: do not trust who pushed it"
            )
