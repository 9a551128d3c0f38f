"""Features of any timm backbone, from a weights file of one's own: what timm itself gives before its head."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import make_config, write_raw
from safetensors.torch import save_file
from tiny_backbones import KINDS

from ppvit.data.plain import PlainImages
from ppvit.evaluation.owner_checks import plain_batches
from ppvit.he.parties import features as he_features
from ppvit.he.parties.features import backbone_of, extract
from ppvit.he.parties.model import save_model_with_head
from ppvit.models import model_input
from ppvit.tuners import load_finetuned

SIZE = 64


@pytest.mark.parametrize(
    ("name", "width"),
    [("regnetx_004_tv", 400), ("mobilenetv3_small_050", 1024), ("resnet18", 512), ("vit_tiny_patch16_224", 192)],
)
def test_features_are_timms(name, width, tmp_path):
    """``regnetx_004_tv`` is the network of Chiang (arXiv 2304.03807), with its 400 features."""
    torch.manual_seed(1)
    arguments = {"img_size": SIZE} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=7, **arguments).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 3}, size=SIZE)
    config = make_config(
        dataset={"image_size": SIZE},
        cipher={"block_size": 16},
        model={"name": name, "checkpoint": str(tmp_path / "w.safetensors")},
    )
    found, labels = extract(config, raw, "train", 6, backbone_of(config, tmp_path / "unused"))
    images = PlainImages(raw, "train", config.dataset, config.encrypt).read(0, 6)
    mean, std = (torch.tensor(model.pretrained_cfg[part]).view(3, 1, 1) for part in ("mean", "std"))
    model.reset_classifier(0)
    with torch.no_grad():
        expected = model((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    assert found.shape == (6, width)
    assert labels.shape == (6,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*KINDS.values(), "deit_tiny_distilled_patch16_224"])
def test_head_on_a_backbone_of_any_kind_of_positions(name, tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 6, "test": 6}, size=32)
    config = make_config(model={"name": name, "pretrained": False})
    backbone = backbone_of(config, tmp_path / "unused")
    features, _ = extract(config, raw, "test", 6, backbone)
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, features.shape[1])), random.normal(size=3)
    (tmp_path / "he").mkdir()
    save_model_with_head(tmp_path / "he", backbone, weight, bias, 32)
    model = load_finetuned(tmp_path / "unused", tmp_path / "he", 3)
    [(images, _)] = plain_batches(PlainImages(raw, "test", config.dataset, config.encrypt), None)
    with torch.inference_mode():
        logits = model(model_input(images)).numpy()
    np.testing.assert_allclose(logits, features @ weight.T + bias, atol=1e-3)


@pytest.mark.parametrize("sealed", [False, True])
def test_features_are_computed_once_unless_the_images_are_sealed(sealed, tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "raw", {"train": 70, "test": 6}, size=32)
    config = make_config(model={"name": "vit_micro_patch4_32", "pretrained": False})
    backbone = backbone_of(config, tmp_path / "unused")
    seen, pooled = [], he_features.pooled
    monkeypatch.setattr(he_features, "pooled", lambda images, of: seen.append(len(images)) or pooled(images, of))
    if sealed:
        monkeypatch.setattr(he_features, "read_dataset", lambda _: ({}, "a seal"))
    first, labels = extract(config, raw, "train", 70, backbone)
    assert sum(size for size in seen if size > 1) == 70
    seen.clear()
    again, same = extract(config, raw, "train", 70, backbone)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, same)
    assert sum(size for size in seen if size > 1) == (70 if sealed else 0)
    other = make_config(model={"name": "vit_micro_patch4_32", "pretrained": False}, encrypt={"resize_filter": "box"})
    seen.clear()
    extract(other, raw, "train", 70, backbone)
    assert sum(size for size in seen if size > 1) == 70
    kept = list(Path(os.environ["PPVIT_SCRATCH"]).rglob("*.array"))
    assert len(kept) == (0 if sealed else 2)
