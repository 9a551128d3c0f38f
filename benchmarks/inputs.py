"""What the benchmarks work on: photographs, raw shards as `download` writes them, models, copies of the repository."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import ROOT

from ppvit.config import Config, default_yaml, load
from ppvit.core.files import write_json
from ppvit.data.images import encode_png
from ppvit.data.shards import SCHEMA, shard_records, write_shards
from ppvit.places import Places

CLASSES = 10


def photographs(count: int, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Random crops of scikit-learn's two photographs (427 x 640), mirrored at random: uint8, (size, size, 3)."""
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    random = np.random.default_rng(seed)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (random.integers(0, side - size + 1) for side in picture.shape[:2])
        crop = picture[top : top + size, left : left + size]
        yield np.ascontiguousarray(crop[:, ::-1] if random.integers(2) else crop)


def upscaled_cifar10(count: int, size: int) -> list[np.ndarray]:
    """CIFAR-10 images from the folder that ``PPVIT_ASSETS`` names, brought to ``size``; empty where there is none."""
    archive = Path(os.environ.get("PPVIT_ASSETS", "")) / "cifar10_jpeg_q75.tar.xz"
    if not archive.is_file():
        return []
    images: list[np.ndarray] = []
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                with Image.open(io.BytesIO(tar.extractfile(member).read())) as image:
                    images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)))
            if len(images) == count:
                break
    return images


def jpeg(image: np.ndarray) -> bytes:
    """Encode at quality 90."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_raw(folder: Path, train: Iterable[bytes], test: Iterable[bytes], extension: str = "jpg") -> Path:
    """Write encoded images as the raw shards of a data set of ten classes; returns the folder."""
    folder.mkdir(parents=True)
    splits = {"train": train, "test": test}
    shards = {
        split: write_shards(folder, split, (_sample(n, data, extension) for n, data in enumerate(encoded)), 512)
        for split, encoded in splits.items()
    }
    manifest = {
        "schema": SCHEMA,
        "name": "benchmark",
        "classes": [f"class{number}" for number in range(CLASSES)],
        "source": "benchmark",
        "counts": {split: sum(shard.samples for shard in shards[split]) for split in splits},
        "shards": {split: shard_records(shards[split]) for split in splits},
    }
    write_json(folder / "dataset.json", manifest)
    return folder


def encrypted_photographs(folder: Path, config: Config, images: int) -> Places:
    """Training images of ten classes and a test image of each, raw and encrypted, of the size that is configured."""
    from ppvit.verbs import encrypt

    places = Places.of(config, root=folder)
    encoded = [encode_png(image) for image in photographs(images + CLASSES, config.dataset.image_size)]
    write_raw(places.raw, encoded[:images], encoded[images:], "png")
    encrypt.run(config, places)
    return places


def _sample(number: int, data: bytes, extension: str) -> dict[str, bytes]:
    return {extension: data, "cls": str(number % CLASSES).encode(), "txt": f"image {number}".encode()}


def configuration(folder: Path, *overrides: str) -> Config:
    """The default parameters with ``section.name=value`` texts in place; all training images are trained on."""
    path = folder / "params.yaml"
    path.write_text(default_yaml(), encoding="utf-8")
    return load(path, ("dataset.val_fraction=0", "finetune.select=last", *overrides))


def save_random_model(config: Config, places: Places, **arguments: Any) -> None:
    """Write ``adapted``: a Vision Transformer with random weights that fits the encrypted images of ``config``.

    Args:
        config: ``cipher`` and ``dataset.image_size`` are used.
        places: ``adapted`` is written.
        arguments: of the timm model.
    """
    import timm

    from ppvit.ciphers.keyed import load_cipher
    from ppvit.models import MICRO_ARCHITECTURE, Backbone, save_model

    model = timm.create_model(MICRO_ARCHITECTURE, num_classes=CLASSES, **arguments).eval()
    backbone = Backbone(model, MICRO_ARCHITECTURE, arguments, (0.5,) * 3, (0.5,) * 3)
    save_model(places.adapted, backbone, load_cipher(config).record)


def copy_repository(folder: Path) -> None:
    """Copy the files that git knows or would add, as they are now; DVC works in the copy without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    without_git(folder)


def without_git(folder: Path) -> None:
    """Let DVC work in a folder that is no git repository."""
    (folder / ".dvc").mkdir(exist_ok=True, parents=True)
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n    analytics = false\n")
