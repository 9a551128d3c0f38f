"""The library without params.yaml and without DVC, as in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_config, write_raw
from PIL import Image

import ppvit
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.batches import EncryptedImages
from ppvit.data.plain import plain_splits

WEIGHTS = Path(__file__).parent.parent / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Stripes that lie and stripes that stand, in noise, as a folder a class: no grey value tells them apart."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name in ("lying", "standing"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                stripes = np.zeros((40, 40), np.int64)
                stripes[rng.integers(8) :: 8] = stripes[1 + rng.integers(7) :: 8] = 200
                stripes = stripes if name == "lying" else stripes.T
                noisy = np.clip(stripes + rng.integers(0, 56, stripes.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / split / name / f"{number}.png")
    return folder


def test_ten_lines_from_a_folder_of_images_to_a_prediction(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no params.yaml
    key = ppvit.generate_key()
    cipher = ppvit.make_cipher("block", key, image_size=32, block_size=4)
    plain = ppvit.import_images(photos, "raw", image_size=32)
    ppvit.encrypt_images(plain, cipher, "encrypted")
    difference = ppvit.adapt("vit_micro_patch4_32", cipher, "adapted", checkpoint=WEIGHTS)
    trained = ppvit.finetune("encrypted", "adapted", "finetuned", method="lora", rank=4, epochs=4, batch_size=8)
    scores = ppvit.evaluate("encrypted", "adapted", "finetuned")
    files = sorted(photos.glob("test/*/*.png"))
    answers = ppvit.predict(files, cipher, "adapted", "finetuned")
    names = [plain["test"].classes[number] for number in answers.argmax(1)]

    assert difference["max_logit_difference_float64"] < 1e-6
    assert trained["trainable_parameters"] < 50_000
    right = np.mean([name == file.parent.name for name, file in zip(names, files, strict=True)])
    assert scores["accuracy_percent"] == pytest.approx(100 * right)
    assert scores["accuracy_percent"] > 90
    other = ppvit.make_cipher("block", ppvit.generate_key(), image_size=32, block_size=4)
    with pytest.raises(ppvit.PpvitError, match=r"cipher\.key_id"):
        ppvit.predict(files, other, "adapted", "finetuned")


def test_shards_are_stored_as_the_stage_stores_them(tmp_path):
    """Compressed, or with repeated values once; the ciphertext is the same."""
    config = make_config(dataset={"image_size": 32}, encrypt={"resize_filter": "nearest"})
    raw = write_raw(tmp_path / "raw", {"train": 12, "test": 6}, size=16)
    plain = plain_splits(raw, config.dataset, config.encrypt)
    cipher = ppvit.make_cipher("block", ppvit.generate_key(), image_size=32, block_size=4)
    ways = {"usual": {}, "small": {"compress": True}, "once": {"repeated_values": "once"}}
    for name, options in ways.items():
        ppvit.encrypt_images(plain, cipher, tmp_path / name, **options)
    stored = {name: EncryptedImages(tmp_path / name, "train") for name in ways}
    assert not stored["usual"].manifest["compression"]
    assert stored["small"].manifest["compression"].startswith("zlib")
    assert stored["once"].manifest["distinct"] == 16 * 16 * 3
    for name in ("small", "once"):
        assert (stored[name].ciphertext(np.arange(12)) == stored["usual"].ciphertext(np.arange(12))).all()
    with pytest.raises(UsageError, match=r"repeated_values"):
        ppvit.encrypt_images(plain, cipher, tmp_path / "wrong", repeated_values="twice")
    assert not (tmp_path / "wrong").exists()


def test_a_mistyped_parameter_is_told(tmp_path):
    with pytest.raises(UsageError, match="unknown parameter 'rnk'; did you mean 'rank'"):
        ppvit.finetune(tmp_path, tmp_path, tmp_path, rnk=3)
    with pytest.raises(UsageError, match="unknown parameter 'mixup_alfa'; did you mean 'mixup_alpha'"):
        ppvit.finetune(tmp_path, tmp_path, tmp_path, augment={"names": ["mixup"], "mixup_alfa": 0.2})


def test_every_public_name_is_there_and_importing_ppvit_loads_nothing():
    assert all(getattr(ppvit, name) is not None for name in ppvit.__all__)
    assert set(ppvit.__all__) <= set(dir(ppvit))
    with pytest.raises(AttributeError):
        _ = ppvit.nothing
    code = "import sys, ppvit; sys.exit(len({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, ppvit.ciphers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_are_not_written_over_themselves(photos):
    for out in (photos, photos / "raw", photos.parent):
        with pytest.raises(UsageError, match="overlaps"):
            ppvit.import_images(photos, out, image_size=32)
    assert len(list(photos.rglob("*.png"))) == 100


def test_prediction_takes_images_as_training_did(photos, tmp_path, monkeypatch):
    """A wide picture of which the middle is cut out, or all is squeezed, is another one to the model."""
    monkeypatch.chdir(tmp_path)
    cipher = ppvit.make_cipher("none", None, image_size=32, block_size=4)
    plain = ppvit.import_images(photos, "raw", image_size=32, crop="squash")
    ppvit.encrypt_images(plain, cipher, "encrypted")
    ppvit.adapt("vit_micro_patch4_32", cipher, "adapted", checkpoint=WEIGHTS)
    ppvit.finetune("encrypted", "adapted", "finetuned", method="linear", epochs=1, augment={"names": ["mixup"]})
    wide = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(wide).save("wide.png")
    squeezed = np.asarray(Image.fromarray(wide).resize((32, 32), Image.Resampling.BICUBIC))[None]
    expected = ppvit.predict(squeezed, cipher, "adapted", "finetuned")
    np.testing.assert_array_equal(ppvit.predict(["wide.png"], cipher, "adapted", "finetuned", crop="squash"), expected)
    with pytest.raises(PpvitError, match=r"encrypt\.crop squash, the images to predict with center"):
        ppvit.predict(["wide.png"], cipher, "adapted", "finetuned")
