"""The same formats everywhere: folders, archives, shards of others and predict give the same pixels of each."""

import io
import shutil
import tarfile

import numpy as np
import pillow_heif
import pytest
from conftest import make_config, make_places
from PIL import Image
from test_dicom import dicom

from ppvit.audit.folder import read_folder
from ppvit.data.decoding import IMAGE_EXTENSIONS
from ppvit.data.plain import PlainImages
from ppvit.evaluation.prediction import read_images
from ppvit.verbs import download

SIDE = 64
BLOCKS = np.random.default_rng(0).integers(0, 4, (2, 4, 4), dtype=np.uint8) * 80
GREY = np.kron(BLOCKS, np.ones((16, 16), np.uint8))  # of four levels, and smooth, so that every format has it exactly


def encoded(ending, grey):
    buffer = io.BytesIO()
    image = Image.fromarray(grey)
    if ending == "dcm":
        return dicom(grey)
    if ending == "heic":
        pillow_heif.from_pillow(image.convert("RGB")).save(buffer, quality=-1, chroma=444, matrix_coefficients=0)
    elif ending in ("webp", "avif"):
        image.convert("RGB").save(buffer, ending, lossless=True, quality=100, subsampling="4:4:4")
    elif ending in ("jpg", "mpo"):
        image.save(buffer, "JPEG", quality=100)
    else:
        kind = {"tif": "TIFF", "pgm": "PPM", "j2k": "JPEG2000", "jp2": "JPEG2000"}.get(ending, ending)
        image.convert("P" if ending == "blp" else "RGB").save(buffer, kind)
    return buffer.getvalue()


WRITTEN = (
    *("png", "jpg", "mpo", "webp", "avif", "heic", "jp2", "j2k", "tif", "gif", "bmp", "dib", "pgm", "tga", "qoi"),
    *("dds", "blp", "ico", "pcx", "sgi", "dcm"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Each picture once in every format that can be written here, in two splits of two classes, and noise of a Mac."""
    folder = tmp_path_factory.mktemp("formats")
    for number, ending in enumerate(WRITTEN):
        for label, grey in enumerate(GREY):
            shouted = ending.upper() if number % 3 == 0 else ending
            path = folder / ("train" if number % 2 else "test") / f"class {label}" / f"{number:02d}.{shouted}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(ending, grey))
            path.with_name(f"._{path.name}").write_bytes(b"\0" * 50)
    (folder / ".DS_Store").write_bytes(b"\0" * 50)
    return folder


def shards_of(pictures, folder):
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
            for path in sorted((pictures / split).rglob("*.*")):
                label = path.parent.name[-1]
                members = {path.name.lower(): path.read_bytes()}
                members |= {} if path.name.startswith("._") else {f"{path.stem}.cls": label.encode()}
                for name, content in members.items():
                    member = tarfile.TarInfo(f"{label}/{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def test_each_format_is_one_that_the_table_names():
    assert {IMAGE_EXTENSIONS[ending] for ending in WRITTEN} > {"jpg", "avif", "heic", "jp2", "tga", "dcm"}


@pytest.mark.parametrize("way", ["folder", "zip", "tar", "webdataset", "predict", "audit"])
def test_every_format_gives_the_same_pixels_wherever_it_is_read(pictures, tmp_path, way):
    expected = np.repeat(GREY[..., None], 3, axis=-1)
    files = [path for path in sorted(pictures.rglob("*.*")) if not path.name.startswith((".", "._"))]
    assert len(files) == 2 * len(WRITTEN)
    if way == "predict":
        found, labels = read_images(files, SIDE), np.array([int(path.parent.name[-1]) for path in files])
    elif way == "audit":
        (group,) = read_folder(pictures)
        found, _, _ = group.looked_at()
        labels = np.array([int(path.parent.name[-1]) for path in files])
    else:
        own = pictures
        if way in ("zip", "tar"):
            own = shutil.make_archive(str(tmp_path / "own"), way, pictures)
        elif way == "webdataset":
            own = shards_of(pictures, tmp_path / "own")
        name = "webdataset" if way == "webdataset" else "imagefolder"
        config = make_config(dataset={"name": name, "path": str(own), "image_size": SIDE})
        places = make_places(tmp_path / "out", config)
        download.run(config, places, tmp_path / "cache")
        splits = [PlainImages(places.raw, split, config.dataset, config.encrypt) for split in ("train", "test")]
        found = np.concatenate([split.read(0, len(split)) for split in splits])
        labels = np.concatenate([split.labels for split in splits])
    assert len(found) == 2 * len(WRITTEN)
    assert np.abs(found.astype(int) - expected[labels]).max() <= 2  # of those that go by way of YCbCr
