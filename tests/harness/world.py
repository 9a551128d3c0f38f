"""A small run of the pipeline, whole, whose files are then damaged: what each verb reads, and what it makes of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arena
import numpy as np
import yaml
from conftest import make_config, write_raw
from imports import ROOT

from ppvit.ciphers import keys, passphrase
from ppvit.core import private
from ppvit.data.images import encode_png

Outcome = Callable[[Path], Any]
QUICK = {
    "finetune": {"epochs": 1, "rank": 2, "target_modules": ["attn.qkv"]},
    "robustness": {"attack": "pgd", "images": 2, "steps": 4, "epsilons": [32.0]},
    "verify": {"wrong_keys": 1},
    "he": {"features": "pixels", "train_images": 16, "components": 4},
    "audit": {"attacks": ["known_plaintext", "weights"], "known_pairs": [1], "pooled_images": [1], "images": 2},
    "threats": {"images": 2, "surrogate_images": 6, "queries": 2},
    "report": {"images": 2},
}
# so that a seed gives the same cases each time, but for the random numbers of CKKS and of the passphrase's file
KEY, LOCKED = keys.Key(bytes(range(32))), keys.Key(bytes(range(1, 33)))
SEALED = "data/sealed/own"
LINKED = 500_000  # files from this size on are linked into the copies of the world, not copied


def result_of(stage: str, results: str = "results") -> Outcome:
    """What a stage measured."""
    return lambda folder: _json(folder / results / f"{stage}.json")


def tree_of(name: str, *but: str) -> Outcome:
    """Names and hashes of all files of a folder."""

    def hashes(folder: Path) -> dict[str, str]:
        files = [path for path in sorted((folder / name).rglob("*")) if path.is_file() and path.name not in but]
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.stat().st_size < arena.FILE_BYTES
        }

    return hashes


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):  # an input that was damaged
        return "unreadable"


def nothing(folder: Path) -> None:
    """Of verbs that draw random numbers, or print only."""


@dataclass(frozen=True)
class Verb:
    """A call of the command: its arguments, and what it writes."""

    arguments: tuple[str, ...]
    outcome: Outcome = nothing
    printed: bool = False  # whether what it prints is its result
    refused: bool = False  # whether it refuses sound files too, for want of something that comes later
    cost: int = 2  # in twentieths of a second; what is dear is taken more seldom


VERBS = {
    "settings": Verb(("settings",), lambda folder: _json(folder / "settings.json")),
    "encrypt": Verb(("encrypt",), tree_of("data/encrypted/digits")),
    "adapt": Verb(("adapt",), tree_of("models/adapted")),
    "adapt own": Verb(("adapt", "-S", "model.checkpoint=models/local/own.pth"), tree_of("models/adapted")),
    "finetune": Verb(("finetune",), tree_of("models/finetuned", "README.md"), cost=4),
    "evaluate": Verb(("evaluate",), result_of("evaluate"), cost=3),
    "robustness": Verb(("robustness",), result_of("robustness"), cost=4),
    "verify": Verb(("verify",), result_of("verify"), cost=4),
    "audit": Verb(("audit",), result_of("audit"), cost=24),
    "threats": Verb(("threats",), result_of("threats"), cost=24),
    "report": Verb(("report",), cost=6),
    "predict": Verb(("predict", "pictures/0.png", "pictures/1.png"), printed=True, cost=3),
    "audit pictures": Verb(("audit", "pictures"), cost=8),
    "show": Verb(("show",)),
    "export": Verb(("export", "hub", "--force"), cost=3),
    "keys": Verb(("keys",)),
    "encrypt locked": Verb(
        ("encrypt", "-S", f"cipher.key_id={LOCKED.id}", "--encrypted", "data/locked"), tree_of("data/locked")
    ),
    "encrypt sealed": Verb(("encrypt", "--raw", SEALED, "--encrypted", "data/opened"), tree_of("data/opened")),
    "show sealed": Verb(("show", "--raw", SEALED), lambda folder: _json(folder / SEALED / "dataset.json")),
    "rekey": Verb(("rekey", KEY.id, LOCKED.id, "--out", "rekeyed"), tree_of("rekeyed", "README.md"), cost=6),
    "pull": Verb(("pull",), refused=True),  # the folder is no project of DVC, which is looked for after the lock
    "download npz": Verb(
        ("download", "-S", "dataset.name=breastmnist", "-S", "dataset.path=data/local/own.npz"),
        tree_of("data/raw/breastmnist"),
    ),
    "download tar": Verb(
        ("download", "-S", "dataset.name=webdataset", "-S", "dataset.path=data/local/wds"),
        tree_of("data/raw/webdataset"),
    ),
    "download zip": Verb(
        ("download", "-S", "dataset.name=imagefolder", "-S", "dataset.path=data/local/own.zip"),
        tree_of("data/raw/imagefolder"),
    ),
    "download folder": Verb(
        ("download", "-S", "dataset.name=imagefolder", "-S", "dataset.path=data/local/own"),
        tree_of("data/raw/imagefolder"),
    ),
    "he encrypt": Verb(("he", "encrypt")),
    "he train": Verb(("he", "train"), cost=24),
    "he decrypt": Verb(("he", "decrypt"), result_of("he"), cost=6),
}
for _kind in ("vpt", "whole"):
    VERBS[f"finetune {_kind}"] = Verb(
        (
            "finetune",
            "-S",
            f"finetune.method={'vpt_deep' if _kind == 'vpt' else 'full'}",
            "-S",
            "finetune.target_modules=[]",
            "--finetuned",
            f"models/{_kind}",
            "--results",
            f"out-{_kind}",
        )
    )
    for _verb in ("evaluate", "verify"):
        _arguments = (_verb, "--finetuned", f"models/{_kind}", "--results", f"out-{_kind}")
        VERBS[f"{_verb} {_kind}"] = Verb(_arguments, result_of(_verb, f"out-{_kind}"), cost=4)


@dataclass(frozen=True)
class Artefact:
    """What one party writes and another reads.

    Attributes:
        files: glob patterns of what is damaged.
        verbs: who reads it.
        needs: folders that these verbs read beside it.
        own: it is an input of the reader himself, so that another one gives another result rightly.
        share: how often it is taken, beside what its verbs cost.
        extra: files that may be put beside, by path.
    """

    files: tuple[str, ...]
    verbs: tuple[str, ...]
    needs: tuple[str, ...]
    own: bool = False
    share: int = 2
    extra: dict[str, bytes] = field(default_factory=dict)

    def turns(self) -> list[str]:
        """Its verbs, those that are cheap more often."""
        return [verb for verb in self.verbs for _ in range(self.share * max(1, 12 // VERBS[verb].cost))]


_MODELS = ("params.yaml", "data/encrypted", "models/adapted", "models/finetuned", "models/pretrained", "results")
_OWNER = (*_MODELS, "data/raw/digits", SEALED, "keyring")
_PICKLE = "@pickle"
ARTEFACTS = {
    "manifest": Artefact(
        ("data/encrypted/**/*.json",), ("evaluate", "finetune", "robustness", "export", "rekey"), _OWNER, share=4
    ),
    "shards": Artefact(("data/encrypted/**/*.tar",), ("evaluate", "finetune", "rekey", "audit"), _OWNER, share=5),
    "adapter": Artefact(
        ("models/finetuned/*",),
        ("evaluate", "verify", "predict", "export", "robustness", "rekey", "threats"),
        (*_OWNER, "pictures"),
        share=6,
        extra={"models/finetuned/adapter_model.bin": b"@", "models/finetuned/config.json": b'{"auto_map": {}}'},
    ),
    "vpt": Artefact(("models/vpt/*",), ("evaluate vpt", "verify vpt"), (*_OWNER, "models/vpt"), share=3),
    "whole": Artefact(
        ("models/whole/*",),
        ("evaluate whole", "verify whole"),
        (*_OWNER, "models/whole"),
        share=3,
        extra={"models/whole/pytorch_model.bin": b"@"},
    ),
    "adapted": Artefact(
        ("models/adapted/*",),
        ("evaluate", "finetune", "verify", "export", "rekey"),
        _OWNER,
        share=5,
        extra={"models/adapted/pytorch_model.bin": b"@"},
    ),
    "results": Artefact(
        ("results/*.json", "results/*/*.json", "results/**/*.csv", "results/**/*.tsv", "results/audit/*.png"),
        ("report",),
        _OWNER,
        share=20,
    ),
    "params": Artefact(
        ("params.yaml",), ("settings", "settings", "encrypt", "adapt", "report"), _OWNER, own=True, share=3
    ),
    "keys": Artefact(
        ("keyring/*",), ("encrypt", "encrypt locked", "adapt", "verify", "keys", "encrypt sealed"), _OWNER, share=2
    ),
    "sealed": Artefact((f"{SEALED}/*",), ("encrypt sealed", "show sealed"), _OWNER, share=5),
    "lock of DVC": Artefact(("dvc.lock",), ("pull",), ("params.yaml", "dvc.lock"), own=True, share=5),
    "raw": Artefact(
        ("data/raw/digits/*",),
        ("encrypt", "verify", "predict", "report", "show", "audit", "threats"),
        (*_OWNER, "pictures"),
        own=True,
        share=4,
    ),
    "weights": Artefact(("models/pretrained/*",), ("adapt",), _OWNER, own=True, share=4),
    "own weights": Artefact(("models/local/*",), ("adapt own",), (*_OWNER, "models/local"), own=True, share=4),
    "own images": Artefact(
        ("data/local/**/*",),
        ("download npz", "download tar", "download zip", "download folder"),
        ("params.yaml", "data/local"),
        own=True,
        share=3,
    ),
    "pictures": Artefact(("pictures/*",), ("predict", "audit pictures"), (*_OWNER, "pictures"), own=True),
    "checkpoint": Artefact(("scratch/**/*",), ("finetune", "robustness"), (*_MODELS, "scratch")),
    "ckks from the trainer": Artefact(
        ("he/trainer/weights/*", "he/trainer/plan.json", "he/trainer/data/manifest.json"),
        ("he decrypt",),
        (*_OWNER, "he"),
        share=10,
    ),
    "ckks from the owner": Artefact(
        ("he/trainer/plan.json", "he/trainer/keys/*", "he/trainer/data/*"),
        ("he train",),
        ("params.yaml", "he"),
        share=8,
    ),
    "ckks of the owner": Artefact(("he/owner/**/*",), ("he decrypt",), (*_OWNER, "he"), own=True, share=4),
}


def build(root: Path) -> None:
    """Run all stages in a new folder."""
    keys.save(KEY, root / "keyring", "a label")
    _lock(root / "keyring")
    write_raw(root / "data" / "raw" / "digits", {"train": 24, "test": 12}, size=32)
    (root / "models" / "pretrained").mkdir(parents=True)
    weights = next((ROOT / "models" / "pretrained").glob("*.safetensors"))
    shutil.copy(weights, root / "models" / "pretrained")
    config = make_config(**QUICK, cipher={"key_id": KEY.id})
    (root / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    _own_data(root)
    shutil.copy(ROOT / "dvc.lock", root)
    seal = ("download", "-S", "dataset.name=imagefolder", "-S", "dataset.path=data/local/own", "--raw", SEALED)
    _require(seal, arena.run([*seal, "-S", f"download.key_id={KEY.id}"], root))
    # as the pipeline runs them; unfinished work of training and robustness is kept, as a kill leaves it
    for verb in (
        "settings",
        "encrypt",
        "adapt",
        "finetune",
        "finetune vpt",
        "finetune whole",
        "evaluate",
        "robustness",
    ):
        _run(root, verb, _keep_unfinished if verb in ("finetune", "robustness") else lambda: None)
    for verb in ("verify", "audit", "threats"):
        _run(root, verb)
    for arguments in (("he", "keys"), ("he", "encrypt"), ("he", "train"), ("he", "decrypt"), ("report",)):
        _require(arguments, arena.run(list(arguments), root))


def _lock(keyring: Path) -> None:
    """A key with a passphrase, of the least cost that is taken: a guess at the usual one takes half a second."""
    usual, passphrase._LOG2_N = passphrase._LOG2_N, 14
    keys.save(LOCKED, keyring, "locked", "a passphrase")
    passphrase._LOG2_N = usual
    private.write_private(keyring / arena.PASSPHRASE, "a passphrase\n")


def _run(root: Path, verb: str, prepare: Callable[[], None] = lambda: None) -> None:
    _require((verb,), arena.run(list(VERBS[verb].arguments), root, prepare))


def _require(verb: tuple[str, ...], ending: arena.Ending) -> None:
    if ending.code or ending.events:
        raise RuntimeError(f"the world cannot be made: {verb}: {ending}")
    arena.warm(ending)


def _keep_unfinished() -> None:
    from ppvit.evasion.progress import Progress
    from ppvit.training import checkpoint

    checkpoint.SAVE_SECONDS = 0.0
    checkpoint.Checkpoint.remove = Progress.remove = lambda self: None  # type: ignore[method-assign]


def _own_data(root: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    encoded = [encode_png(image) for image in images]
    local = root / "data" / "local"
    for folder in (
        local / "wds",
        local / "own" / "a",
        local / "own" / "b",
        root / "pictures",
        root / "models" / "local",
    ):
        folder.mkdir(parents=True)
    labels = (np.arange(12) % 2).astype(np.int64)
    arrays = {f"{split}_images": images[:, :28, :28, 0] for split in ("train", "val", "test")}
    np.savez(local / "own.npz", **arrays, **{f"{split}_labels": labels[:, None] for split in ("train", "val", "test")})
    with (
        tarfile.open(local / "wds" / "train-000000.tar", "w") as archive,
        zipfile.ZipFile(local / "own.zip", "w") as packed,
    ):
        for index, data in enumerate(encoded):
            for end, content in (("png", data), ("cls", str(labels[index]).encode())):
                member = tarfile.TarInfo(f"{index:08d}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            name = f"{'ab'[labels[index]]}/{index}.png"
            packed.writestr(name, data)
            (local / "own" / name).write_bytes(data)
    for index, data in enumerate(encoded[:6]):
        (root / "pictures" / f"{index}.png").write_bytes(data)
    state = load_file(next((root / "models" / "pretrained").glob("*.safetensors")))
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, root / "models" / "local" / "own.pth")


def copy(root: Path, to: Path, names: tuple[str, ...]) -> None:
    """Copy a part of the world; large files are linked, which nothing writes to."""
    for name in names:
        source = root / name
        if source.is_file():
            _copy_file(source, to / name)
        for path in source.rglob("*"):
            if path.is_dir():
                (to / path.relative_to(root)).mkdir(parents=True, exist_ok=True)
            else:
                _copy_file(path, to / path.relative_to(root))
    if (to / "keyring").exists():
        (to / "keyring").chmod(0o700)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size >= LINKED:
        os.link(source, target)
    else:
        shutil.copy(source, target)
