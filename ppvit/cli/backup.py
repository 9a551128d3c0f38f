"""What `dvc push` leaves with the owner, brought to a remote that only the owner reads."""

from __future__ import annotations

import os
import shlex
from typing import Any

from ppvit.core.errors import PpvitError, UsageError


def back_up(remote: str) -> tuple[list[str], list[str]]:
    """Send all outputs that are marked ``push: false`` to a remote of DVC's, from DVC's cache.

    Args:
        remote: its name; never the default one, from which the trainer reads.

    Returns:
        The outputs that are there now, and those that DVC's cache has not or not whole.

    Raises:
        UsageError: there is no such remote, or it is the default one or lies in the same place; no DVC project here.
        PpvitError: no output is whole in the cache; the remote cannot be reached.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            _require_private(repo, remote)
            outs = [out for out in repo.index.outs if out.use_cache and not out.can_push]
            found = {str(out): _objects(repo, out) for out in outs}
            if not (objects := set().union(*found.values())):
                raise PpvitError(f"DVC's cache holds none of {', '.join(found)}; run dvc repro")
            failed = len(repo.cloud.push(objects, remote=remote).failed)
    except NotDvcRepoError:
        raise UsageError("this folder is in no DVC project; run in one (`ppvit init NAME`)") from None
    except (DvcException, ImportError) as error:  # a kind of remote has a package of its own, such as dvc-s3
        raise PpvitError(f"remote '{remote}' cannot be used ({' '.join(str(error).split())}); see dvc remote") from None
    if failed:
        raise PpvitError(f"{failed} of {len(objects)} files did not reach remote '{remote}'; run again")
    return [out for out, parts in found.items() if parts], [out for out, parts in found.items() if not parts]


def _require_private(repo: Any, remote: str) -> None:
    remotes, default = repo.config["remote"], repo.config["core"].get("remote")
    if remote not in remotes:
        there = ", ".join(remotes) or "none"
        raise UsageError(
            f"DVC has no remote '{remote}', but {there}; dvc remote add {shlex.quote(remote)} PLACE, that only you read"
        )
    if not default:
        return
    place, shared = _place(repo, remote), _place(repo, default)
    if place == shared or place.startswith(f"{shared}/") or shared.startswith(f"{place}/"):
        raise UsageError(
            f"remote '{remote}' is where `dvc push` sends what the trainer fetches ('{default}'), and these files are "
            "the owner's alone; name a remote that only you read"
        )


def _place(repo: Any, name: str) -> str:
    remote = repo.cloud.get_remote(name)
    path = os.path.realpath(remote.path) if remote.fs.protocol == "local" else remote.path
    return f"{remote.fs.unstrip_protocol(path)}".rstrip("/")


def _objects(repo: Any, out: Any) -> set[Any]:
    """What DVC's cache holds of an output; nothing unless it is all there."""
    kept = repo.cache.local.exists
    # of a folder the list first: without it DVC would look for it elsewhere, and go on
    whole = out.hash_info and kept(out.hash_info.value)
    found: set[Any] = set().union(*out.get_used_objs().values()) if whole else set()
    return found if all(kept(each.value) for each in found) else set()
