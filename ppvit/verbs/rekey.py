"""Bring shards and models of one key to another, without raw data and without training."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ppvit.adaptation.rekey import move_adapter, move_model
from ppvit.ciphers import Cipher, keys, make_cipher
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import as_json, atomic_output, write_json
from ppvit.core.provenance import Made, finetuned_id, identities, require_made_alike
from ppvit.core.reading import JSON_BYTES, read_bounded, read_json
from ppvit.data.decrypted import DecryptedImages
from ppvit.data.encrypted import KNOWN_BY, fill
from ppvit.data.shards import SPLITS, read_manifest
from ppvit.data.storing import Storing
from ppvit.models import load_model, read_record
from ppvit.places import Places
from ppvit.tuners import load_adapter, read_finetuned_record

_ADAPTER, _MODEL = "adapter_model.safetensors", "model.safetensors"
_MODEL_CONFIG, _RECORD, _CARD = "config.json", "ppvit.json", "README.md"


@dataclass(frozen=True)
class _Kept:
    """What was made with a key: its place, folder, stage, record, and how its folder is known, for atomic_output."""

    place: str
    folder: Path
    by: str
    record: dict[str, Any]
    known_by: tuple[str, str]


def run(places: Places, old_id: str, new_id: str, out: Path | None = None) -> list[Path]:
    """Write ``encrypted``, ``adapted`` and ``finetuned``, as far as they exist, for another key.

    The result of `finetune` names the model by its id, so it follows.

    All are prepared before the first takes its place. Where that is interrupted each is of one key or the other, whole,
    and the same call does the rest.

    Args:
        places: ``encrypted``, ``adapted`` and ``finetuned`` are read, and replaced unless ``out`` is given.
        old_id, new_id: ids of keys in the key ring.
        out: a folder for the new ones, each under the name of its place.

    Returns:
        What was written; what was of the new key before is not among it.

    Raises:
        UsageError: a key is missing; cipher or method cannot be moved exactly.
        PpvitError: nothing is there, or it is damaged, of a third key or not made for each other.
    """
    if old_id == new_id:
        raise UsageError(f"{old_id} is the old key and the new one; make another with `ppvit keygen`")
    kept = _kept(places)
    _require_of(kept, old_id, new_id)
    old, new = (_cipher(kept[0].record, keys.load(key_id)) for key_id in (old_id, new_id))
    written: list[Path] = []
    now = {each.place: each.folder for each in kept}
    with ExitStack() as stack:
        # weights first, which tell soon what cannot be; the stack puts the last one in its place first
        for each in reversed([each for each in kept if each.record["key_id"] == old_id]):
            target = out / each.place if out else each.folder
            folder = stack.enter_context(atomic_output(target, *each.known_by))
            if each.place == "encrypted":
                _encrypt_again(each.folder, folder, old, new)
            else:
                _move(each, folder, places.adapted, old, new)
            now[each.place] = folder
            written.insert(0, target)
        if out is None and "finetuned" in now:
            _prepare_result(stack, places.result("finetune"), finetuned_id(places.finetuned), now)
    return written


def _prepare_result(stack: ExitStack, path: Path, old_id: str, now: dict[str, Path]) -> None:
    """Have the result of `finetune` name the models by their new ids; it gets them before any takes its place.

    Args:
        stack: puts it in its place.
        path: the result; that of another model stays as it is.
        old_id: of the fine-tuned model that is still in its place.
        now: folders of the models for the new key, by their places.
    """
    if not path.exists():
        return
    values, new = read_json(path, "finetune"), identities(now["adapted"], now["finetuned"])
    if isinstance(values, dict) and values.get("finetuned_id") in (old_id, new["finetuned_id"]):
        text = as_json({**values, **new})
        stack.enter_context(atomic_output(path)).write_text(text, encoding="utf-8")


def _kept(places: Places) -> list[_Kept]:
    kept = []
    splits = [split for split in SPLITS if (places.encrypted / split).exists()]
    if splits:
        manifests = [
            Made(places.encrypted / split, read_manifest(places.encrypted / split), "encrypt") for split in splits
        ]
        require_made_alike(*manifests)
        kept.append(_Kept("encrypted", places.encrypted, "encrypt", manifests[0].record, (KNOWN_BY, "")))
    if places.adapted.exists():
        record = read_record(places.adapted, "adapt")
        kept.append(_Kept("adapted", places.adapted, "adapt", record, (_MODEL_CONFIG, '"ppvit"')))
    if places.finetuned.exists():
        record = read_finetuned_record(places.finetuned)
        kept.append(_Kept("finetuned", places.finetuned, "finetune", record, (_RECORD, "")))
    if not kept:
        raise PpvitError(
            f"there is nothing to bring to another key: neither {places.encrypted} nor {places.adapted} nor "
            f"{places.finetuned}; name them, or run dvc pull"
        )
    return kept


def _require_of(kept: list[_Kept], *key_ids: str) -> None:
    for each in kept:
        if each.record["key_id"] not in key_ids:
            found = f"was made with key {each.record['key_id']}" if each.record["key_id"] else "was made without a key"
            raise PpvitError(f"{each.folder} {found}, not with {key_ids[0]}; name its key, or another folder")
    alike = [
        Made(each.folder, {name: each.record[name] for name in ("cipher", "image_size")}, each.by) for each in kept
    ]
    require_made_alike(*alike)


def _cipher(record: dict[str, Any], key: keys.Key) -> Cipher:
    options = dict(record["cipher"])
    return make_cipher(options.pop("name"), key, record["image_size"], **options)


def _encrypt_again(source: Path, folder: Path, old: Cipher, new: Cipher) -> None:
    splits = {split: DecryptedImages(source, split, old) for split in SPLITS if (source / split).exists()}
    largest = max(splits.values(), key=len)
    storing = Storing.of(largest.compressed, largest.once, largest, new)
    fill(folder, splits, new, next(iter(splits.values())).images_per_shard, storing)


def _move(each: _Kept, folder: Path, adapted: Path, old: Cipher, new: Cipher) -> None:
    """Write the files of a model's folder for the new key; those that a key is not in are copied."""
    weights = _ADAPTER if (each.folder / _ADAPTER).exists() else _MODEL
    move = _moved_adapter if weights == _ADAPTER else _moved_model
    if (moved := move(each, adapted, old, new)) is None:
        shutil.copyfile(each.folder / weights, folder / weights)
    else:
        contiguous = {name: tensor.detach().contiguous() for name, tensor in moved.items()}
        save_file(contiguous, folder / weights, metadata={"format": "pt"})
    for path in each.folder.iterdir():
        if path.name in (_MODEL_CONFIG, _RECORD):
            values = read_json(path, each.by)
            write_json(
                folder / path.name,
                _renamed(values, new) if path.name == _RECORD else values | {"ppvit": _renamed(values["ppvit"], new)},
            )
        elif path.name == _CARD:
            text = read_bounded(path, JSON_BYTES)  # bytes, since the other party may have written anything
            (folder / _CARD).write_bytes(text.replace(str(old.key_id).encode(), str(new.key_id).encode()))
        elif path.name != weights and not path.is_dir():
            (folder / path.name).write_bytes(read_bounded(path, JSON_BYTES))


def _renamed(record: dict[str, Any], new: Cipher) -> dict[str, Any]:
    return record | {name: value for name, value in new.record.items() if name in record}


def _moved_model(each: _Kept, adapted: Path, old: Cipher, new: Cipher) -> dict[str, Tensor] | None:
    """The state of a whole model; None where a key is not in it."""
    model = load_model(each.folder, each.by)
    if each.place == "adapted" and not each.record.get("adapted", True):
        return None
    return move_model(model, old, new)


def _moved_adapter(each: _Kept, adapted: Path, old: Cipher, new: Cipher) -> dict[str, Tensor] | None:
    load_adapter(adapted, each.folder, each.record["num_classes"])  # nothing damaged gets a new record
    if not read_record(adapted, "adapt").get("adapted", True):
        raise UsageError(
            f"{each.folder} was trained on a model that is not adapted to its key, so it has learned the key itself; "
            "take it away, and train again on the shards of the new key"
        )
    state = load_file(each.folder / _ADAPTER)
    moved = move_adapter(state, load_model(adapted, "adapt"), old, new)
    return moved if any(moved[name] is not tensor for name, tensor in state.items()) else None
