"""Every fine-tuning method on the default data: training on adapted ciphertext is training on plain images, and learns.

scikit-learn's digits, the embedded micro-ViT, cipher ``block``; few images and epochs.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import make_config

from ppvit.verbs import adapt, download, encrypt, finetune
from ppvit.data.batches import EncryptedImages
from ppvit.models import load_model, model_input
from ppvit.tuners import TUNERS, load_finetuned

EMBEDDED = Path(__file__).parent.parent / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"
CIPHERS = ("none", "block")
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}

# Relative difference of losses, and of logits to their largest. On ciphertext float32 sums tokens and pixels in another
# order, which is 1e-7 a step and grows while training.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards and adapted models of both ciphers, a few images of every class."""
    folder = tmp_path_factory.mktemp("methods")
    with contextlib.chdir(folder):  # without a data/local, so that the digits are scikit-learn's
        download.run(make_config(), Path("raw"))
    for cipher in CIPHERS:
        config = make_config(
            dataset={"train_fraction": 0.015, "test_fraction": 0.03},
            cipher={"name": cipher},
            model={"checkpoint": str(EMBEDDED)},
        )
        encrypt.run(config, folder / "raw", folder / f"{cipher}-encrypted")
        adapt.run(config, EMBEDDED, folder / f"{cipher}-adapted", folder / "adapt.json")
    return folder


class Trained:
    """A method trained on the shards of one cipher: losses, and the reloaded model on the test images."""

    def __init__(self, folder, cipher, method):
        settings = make_config(finetune={**TRAINING, "method": method}).finetune
        encrypted, adapted = folder / f"{cipher}-encrypted", folder / f"{cipher}-adapted"
        out = folder / f"{cipher}-{method}"
        self.losses = []

        def log(epoch, metrics):
            self.losses.append(metrics["train_loss"])

        finetune.run(settings, encrypted, adapted, out, folder / "finetune.json", log)
        test = EncryptedImages(encrypted, "test")
        images = model_input(torch.stack([test[index][0] for index in range(len(test))]))
        with torch.no_grad():
            tuned = load_finetuned(adapted, out, test.num_classes)
            self.logits, self.features = tuned(images), tuned.forward_features(images)
            self.base_features = load_model(adapted, "adapt").forward_features(images)


@pytest.mark.parametrize("method", TUNERS)
def test_training_on_adapted_ciphertext_equals_training_on_plain_images(method, folder):
    plain, encrypted = (Trained(folder, cipher, method) for cipher in CIPHERS)
    assert encrypted.losses == pytest.approx(plain.losses, rel=TOLERANCE)
    scale = plain.logits.abs().max().item()
    torch.testing.assert_close(encrypted.logits, plain.logits, rtol=0, atol=TOLERANCE * scale)
    assert plain.losses[-1] < 0.9 * plain.losses[0]  # it learns
    moved = (plain.features - plain.base_features).abs().max()
    assert moved == 0 if method == "linear" else moved > 1e-3  # and not in the head alone
