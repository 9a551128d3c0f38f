"""Small worlds for tests: keys, images, models and a whole project folder, all seeded."""

from __future__ import annotations

import os

# before torch is loaded, here and in every process that tests start: models are tiny, so a second thread gains nothing,
# and on a busy machine threads that wait for each other cost several times the work
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that starts the suite in the background has it ignore Ctrl-C, and nohup a closed terminal; so would all
# processes that tests start
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# nothing that is loaded becomes garbage, and looking for that takes a quarter of the time until the first test
import gc

if gc.isenabled():
    gc.disable()

import io
import itertools
import json
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import settings
from hypothesis import strategies as st
from no_network import no_network, pytest_sessionfinish  # noqa: F401 - a fixture and hooks of pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from ppvit.ciphers.keys import Key
from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.core.files import write_json
from ppvit.data.images import encode_png
from ppvit.data.shards import SCHEMA, shard_records, write_shards
from ppvit.models import MICRO, MICRO_ARCHITECTURE, Backbone
from ppvit.places import Places

settings.register_profile(
    "ppvit", deadline=None, derandomize=True
)  # CI machines stall; a flaky failure teaches nothing
settings.load_profile("ppvit")

# what models say of the cipher that they are for
MADE = {"key_id": "pk-0123456789abcdef", "cipher": {"name": "block", "block_size": 4}, "image_size": 16}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as processors: tests wait a fifth of their time, for processes, files and locks."""
    return 3 * (os.cpu_count() or 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline first, so that one process of xdist has it all; and why tests on real data are skipped."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")
    if not os.environ.get("PPVIT_ASSETS"):
        for item in items:
            if item.get_closest_marker("assets"):
                item.add_marker(pytest.mark.skip(reason="set PPVIT_ASSETS to the folder of real weights and data"))


def pytest_collection_finish() -> None:
    """From now on there is garbage; what is loaded stays, and need not be looked at in every test."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries in C++ tell at the end of what was not given back."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def assets() -> Path:
    return Path(os.environ["PPVIT_ASSETS"]).resolve()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for tests that skip themselves where ``browser.MISSING`` says why there is none."""
    from browser import CHROMIUM
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # what is waited for comes late on a busy machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def key() -> Key:
    return Key(bytes(range(32)))


@pytest.fixture
def other_key() -> Key:
    return Key(bytes(range(1, 33)))


_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's keyring, keychain, cache or checkpoints."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.delenv("PPVIT_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr("ppvit.ciphers.keys._warned", False)
    # not by mktemp, which lists the folders of all tests each time: 4 ms where 9,000 are there
    own = tmp_path_factory.getbasetemp() / "private" / str(next(_NUMBERS))
    own.mkdir(mode=0o700, parents=True)
    for name in ("PPVIT_KEYRING", "PPVIT_SCRATCH", "PPVIT_CACHE"):
        (own / name.lower()).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(own / name.lower()))


def make_config(**sections: dict) -> Config:
    """The default configuration with some values replaced; all training images are trained on, unless it says so."""
    sections = {**sections, "dataset": {"val_fraction": 0.0, **sections.get("dataset", {})}}
    return Config.model_validate({name: dict(sections.get(name, {})) for name in Config.model_fields})


def make_places(root: Path, config: Config | None = None, **given: Path) -> Places:
    """The pipeline's places in ``root``, which is a test's own folder, with single places elsewhere if ``given``."""
    return Places.of(config or make_config(), root=root, **given)


def read_result(places: Places, stage: str) -> dict:
    """What a stage measured, without times."""
    return json.loads(places.result(stage).read_text())


def tiny_backbone(
    seed: int = 0, num_classes: int = 7, mean: float | tuple = 0.5, std: float | tuple = 0.5, **arguments
) -> Backbone:
    """A two-layer ViT with random weights: 16 px, 4-px patches, width 24."""
    torch.manual_seed(seed)
    model_args = {
        **MICRO,
        "img_size": 16,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_classes": num_classes,
        **arguments,
    }
    model = timm.create_model(MICRO_ARCHITECTURE, **model_args).eval()
    for parameter in model.parameters():  # timm starts biases at zero, which would hide mistakes with them
        torch.nn.init.normal_(parameter, std=0.2)
    triple = [value if isinstance(value, tuple) else (value,) * 3 for value in (mean, std)]
    return Backbone(model, MICRO_ARCHITECTURE, model_args, *triple)


def write_raw(folder: Path, counts: dict[str, int], classes: int = 3, size: int = 16, seed: int = 0) -> Path:
    """A raw data set as `download` writes it: noise whose brightness tells the class."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    shards = {}
    for split, count in counts.items():
        samples = []
        for index in range(count):
            label = index % classes
            image = random.integers(0, 100, (size, size, 3), dtype=np.uint8) + np.uint8(150 * label // classes)
            origin = f"{split}/{label}/{index}.png".encode()
            samples.append({"png": encode_png(image), "cls": str(label).encode(), "txt": origin})
        shards[split] = shard_records(write_shards(folder, split, samples, per_shard=16))
    manifest = {"schema": SCHEMA, "name": folder.name, "classes": [f"class {label}" for label in range(classes)]}
    write_json(folder / "dataset.json", {**manifest, "source": "test", "counts": counts, "shards": shards})
    return folder


@cache
def cifar(count: int, every: int = 1) -> np.ndarray:
    """CIFAR-10 images, each ``every``-th of the archive in shared assets: uint8, (count, 32, 32, 3)."""
    folder = os.environ.get("PPVIT_ASSETS")
    if not folder:
        pytest.skip("PPVIT_ASSETS is not set: it names the folder of real data and weights")
    with tarfile.open(Path(folder) / "cifar10_jpeg_q75.tar.xz") as archive:
        files = (member for member in archive if member.name.endswith(".jpg"))
        found = [archive.extractfile(member).read() for member in islice(files, 0, count * every, every)]
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found])


def claims_size(path: Path, width: int, height: int) -> None:
    """Write a PNG that claims to be so large, and holds no pixels."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in (header, b"IDAT")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def enlarged(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 RGB image at another size, bicubic."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def photographs(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Random crops of scikit-learn's two photographs: uint8, (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        photo = load_sample_images().images[rng.integers(2)]
        side = rng.integers(200, 420)
        y, x = rng.integers(photo.shape[0] - side), rng.integers(photo.shape[1] - side)
        crop = Image.fromarray(photo[y : y + side, x : x + side])
        crops.append(np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(crops)


def damaged(data, content: bytes, last: int = 0) -> bytes:
    """Content of which one to four pieces of up to three bytes are exchanged, taken out or added.

    Args:
        data: what hypothesis draws from.
        content: that is damaged.
        last: so many bytes at the end are as likely to be hit as all others.
    """
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        places = st.integers(0, len(changed) - 1)
        place = data.draw(places | st.integers(len(changed) - last, len(changed) - 1) if last else places)
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    return bytes(changed)


def refused(do, *arguments, most_bytes: float = 20e6) -> str:
    """The one line in which something ends, having taken at most so much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(PpvitError) as caught:
            do(*arguments)
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)
