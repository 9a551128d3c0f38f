"""Readers of single files, fed with bytes that follow their branches; needs the extra ``fuzz`` (Linux).

    make fuzz READER=manifest RUNS=100000

A reader may refuse what it gets by a :class:`PpvitError`; whatever else it raises is a finding, which atheris prints
with the bytes and keeps as ``crash-<hash>``. For folders, whole verbs and their bounds there is hostile.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import atheris

with atheris.instrument_imports(include=["ppvit", "tarfile"]):
    import numpy as np
    from conftest import make_config, write_raw
    from PIL import Image

    from ppvit.ciphers import keys
    from ppvit.config import default_yaml, load
    from ppvit.core.errors import PpvitError
    from ppvit.data import decoding, images
    from ppvit.data.labels import ClassNumbers
    from ppvit.data.shards import ShardReader, read_manifest
    from ppvit.models.folders import read_configuration
    from ppvit.models.tensors import tensor_names
    from ppvit.tuners.records import checked_record

KEY = keys.Key(bytes(range(32)))
SHAPE = (4, 4, 3)


def read_shard(path: Path) -> None:
    """A tar as the only shard, under the hash that it has."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    reader = ShardReader(path.parent, "train", [{"name": path.name, "samples": 1, "sha256": digest}], ClassNumbers(3))
    reader.image(0)


# the name under which each reader finds the file, and the reader
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("manifest.json", lambda path: read_manifest(path.parent)),
    "dataset": ("dataset.json", lambda path: read_manifest(path.parent, "download", path.name)),
    "model": ("config.json", lambda path: read_configuration(path.parent, "adapt")),
    "record": ("ppvit.json", lambda path: checked_record(path.parent)),
    "params": ("params.yaml", load),
    "key": (f"{KEY.id}.key", lambda path: keys.load(KEY.id, path.parent)),
    "safetensors": ("model.safetensors", lambda path: tensor_names(path, "adapt")),
    "shard": ("000000.tar", read_shard),
    "picture": ("a.png", lambda path: decoding.decode(path.read_bytes(), str(path))),
    "ciphertext": ("a", lambda path: images.decode_array(path.read_bytes(), str(path), SHAPE, np.dtype("uint8"))),
    "tokens": ("a", lambda path: images.decode_array(path.read_bytes(), str(path), SHAPE, np.dtype("float16"))),
}


def seeds(reader: str, folder: Path) -> list[bytes]:
    """Sound files to start from."""
    buffer = io.BytesIO()
    if reader == "params":
        return [default_yaml().encode()]
    if reader == "key":
        return [keys.save(KEY, folder / "keyring").read_bytes()]
    if reader in ("picture", "ciphertext"):
        Image.fromarray(np.zeros(SHAPE, np.uint8)).save(buffer, "PNG")
        return [buffer.getvalue()]
    if reader == "tokens":
        np.save(buffer, np.zeros(SHAPE, np.float16))
        return [buffer.getvalue()]
    if reader in ("dataset", "shard"):
        raw = write_raw(folder / "raw", {"train": 1, "test": 1}, classes=1, size=4)
        return [(raw / ("dataset.json" if reader == "dataset" else "train-000000.tar")).read_bytes()]
    if reader == "safetensors":
        from safetensors.numpy import save

        return [save({"a": np.zeros((2, 3), np.float32)})]
    key_id, shard = KEY.id, {"name": "000000.tar", "samples": 2, "sha256": "0" * 64}
    made = {"key_id": key_id, "cipher": {"name": "block", "block_size": 4}, "image_size": 32, "demo_key": False}
    made |= {"isometry": "values", "isometry_options": {}}
    if reader == "record":
        method = {"method": "lora", "num_classes": 2, "finetune": make_config().finetune.model_dump(mode="json")}
        return [json.dumps({**made, **method}).encode()]
    if reader == "model":
        model = {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 2,
            "num_features": 24,
            "model_args": {"depth": 2},
        }
        pretrained = {
            "input_size": [3, 32, 32],
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "num_classes": 2,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        return [json.dumps({**model, "pretrained_cfg": pretrained, "ppvit": made}).encode()]
    split = {"schema": 2, "split": "train", "num_classes": 2, "count": 2, "shape": [32, 32, 3], "dtype": "float16"}
    split["facts"] = dict.fromkeys(("linear", "permutes", "keeps_blocks", "one_key"), True)
    return [json.dumps({**split, **made, "resize_filter": "bicubic", "crop": "center", "shards": [shard]}).encode()]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        raise SystemExit(f"name a reader: {', '.join(READERS)}")
    name, read = READERS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory(prefix="ppvit-fuzz-") as root:
        folder, corpus = Path(root) / "read", Path(root) / "corpus"
        folder.mkdir(mode=0o700)
        corpus.mkdir()
        reader = next(key for key, each in READERS.items() if each == (name, read))
        for number, data in enumerate(seeds(reader, Path(root))):
            (corpus / str(number)).write_bytes(data)
        path = folder / name
        path.touch(mode=0o600)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read(path)
            except PpvitError:
                return

        for data in seeds(reader, Path(root) / "again"):
            path.write_bytes(data)
            read(path)  # or this fuzzes nothing but the first check
        atheris.Setup([sys.argv[0], "-rss_limit_mb=2048", "-timeout=10", *sys.argv[1:], str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
