"""What the project has for a run: parameters, keys, remotes, weights."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ppvit.cli.doctor.finding import Finding
from ppvit.core.errors import PpvitError

if TYPE_CHECKING:
    from ppvit.config import Config


def parameters(path: Path) -> tuple[list[Finding], Config | None]:
    """The parameter file, and what it says where it can be read."""
    from ppvit.config import load

    if not path.exists():
        remedy = "run at the top of a project; `ppvit params > params.yaml` writes one with all defaults"
        return [Finding("parameters", "note", f"{path} is missing", remedy)], None
    try:
        config = load(path)
    except PpvitError as error:
        return [Finding("parameters", "problem", str(error), f"correct {path}")], None
    return [Finding("parameters", "ok", f"{path}: all are known and in range")], config


def key_ring(config: Config | None) -> Iterator[Finding]:
    """The keys of this user, and those that the project needs."""
    from ppvit.ciphers.keys import DEMO_KEY, keyring
    from ppvit.core.private import require_private_folder
    from ppvit.verbs import keys

    folder = keyring()
    if folder.exists():
        require_private_folder(folder)
    if config is None:
        yield Finding("key ring", "ok", f"{folder}: {len(list(folder.glob('pk-*.key')))} keys")
        return
    from ppvit.places import Places

    listed = keys.run(config, Places.of(config))
    own = [each for each in listed if each.kept not in ("public", "missing")]
    yield Finding("key ring", "ok", f"{folder}: {len(own)} key{'s'[: len(own) != 1]}")
    for each in listed:
        if each.key_id == DEMO_KEY.id and each.used:
            remedy = "`ppvit keygen`, then set cipher.key_id to the id that it prints"
            yield Finding("key", "note", f"{each.key_id} is the public demo key, which protects nothing", remedy)
        elif each.problem and each.used:
            missing = "restore it from your backup, or set PPVIT_KEYRING; the trainer needs none"
            remedy = missing if each.kept == "missing" else "see `ppvit keys`"
            verdict: Literal["note", "problem"] = "note" if each.kept == "missing" else "problem"
            yield Finding("key", verdict, f"{each.key_id}, used by {', '.join(each.used)}: {each.problem}", remedy)


def remotes() -> Iterator[Finding]:
    """Where `dvc push` writes and `dvc pull` reads."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        repository = Repo()
    except NotDvcRepoError:
        yield Finding("remotes", "note", "this folder is in no DVC project", "run in a clone, or: git init && dvc init")
        return
    except DvcException as error:  # such as where git is gone
        yield Finding("remotes", "problem", " ".join(str(error).split()), "git init, or clone the project again")
        return
    with repository as repo:
        remotes, default = repo.config["remote"], repo.config["core"].get("remote")
        if not remotes:
            remedy = "dvc remote add -d shared PLACE, where the trainer reads; docs/handover.md"
            yield Finding("remotes", "note", "none, so that nothing is handed over by `dvc push`", remedy)
        for name in remotes:
            what = f"{name}{' (default)' if name == default else ''}"
            try:
                remote = repo.cloud.get_remote(name)
            except (DvcException, ImportError) as error:  # a kind of remote has a package of its own, such as dvc-s3
                line = " ".join(str(error).split())
                yield Finding("remote", "problem", f"{what}: {line}", "pip install the package of that kind of remote")
                continue
            if remote.fs.protocol != "local":
                asks = f"`dvc status -c -r {shlex.quote(name)}` asks it"
                yield Finding("remote", "ok", f"{what}: {remote.fs.unstrip_protocol(remote.path)}, not asked; {asks}")
            elif not Path(remote.path).is_dir():
                yield Finding("remote", "note", f"{what}: {remote.path} does not exist yet", "`dvc push` makes it")
            elif not os.access(remote.path, os.W_OK):
                yield Finding("remote", "note", f"{what}: {remote.path} cannot be written", "fine for who only pulls")
            else:
                yield Finding("remote", "ok", f"{what}: {remote.path}")
        if remotes and not default:
            yield Finding(
                "remote", "note", "none is the default", f"dvc remote default {shlex.quote(next(iter(remotes)))}"
            )


def weights(config: Config | None) -> Iterator[Finding]:
    """Where pretrained weights come from, and whether they are there."""
    from ppvit.config import NO_MODEL
    from ppvit.models import MICRO_NAME
    from ppvit.places import Places

    if config is None:
        return
    model, embedded = config.model, Places.of(config).embedded
    if not model.pretrained:
        yield Finding("weights", "note", f"{model.name} starts from random weights", "model.pretrained=true")
    elif model.checkpoint != NO_MODEL:
        there = Path(model.checkpoint).exists()
        remedy = "" if there else "put or link your weights there, or set model.checkpoint=models/none"
        found = f"{model.checkpoint} {'is there' if there else 'does not exist'}"
        yield Finding("weights", "ok" if there else "problem", found, remedy)
    elif model.name == MICRO_NAME:
        there = embedded.is_file()
        remedy = "" if there else f"git checkout -- {shlex.quote(str(embedded))}, or `ppvit pretrain`"
        yield Finding(
            "weights", "ok" if there else "problem", f"{embedded} {'is there' if there else 'is missing'}", remedy
        )
    else:
        yield _public_weights(model.name)


def _public_weights(name: str) -> Finding:
    import timm
    from huggingface_hub import try_to_load_from_cache

    source = timm.get_pretrained_cfg(name)
    if source is None or not source.hf_hub_id:
        remedy = "name weights of yours with model.checkpoint"
        return Finding("weights", "note", f"timm knows no weights of {name} on a hub", remedy)
    names = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(source.hf_hub_id, each), str) for each in names):
        return Finding("weights", "ok", f"{source.hf_hub_id}, fetched before")
    remedy = "fetched by `adapt`; without a network put them on this machine and name them with model.checkpoint"
    return Finding("weights", "note", f"{source.hf_hub_id} is not on this machine", remedy)
