"""Every fine-tuning method on the default data: training on adapted ciphertext is training on plain images, and learns.

scikit-learn's digits, the embedded micro-ViT, cipher ``block``; few images and epochs.
"""

from pathlib import Path

import pytest
import torch
from conftest import make_config, make_places

from ppvit.data.batches import EncryptedImages
from ppvit.models import load_model, model_input
from ppvit.training.finetuning import finetune
from ppvit.tuners import TUNERS, load_finetuned, save_finetuned
from ppvit.verbs import adapt, download, encrypt

EMBEDDED = Path(__file__).parent.parent / "models" / "pretrained" / "vit_micro_patch4_32.safetensors"
CIPHERS = ("none", "block")
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}

# Relative difference of losses, and of logits to their largest. On ciphertext float32 sums tokens and pixels in another
# order, which is 1e-7 a step and grows while training.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Places of shards and adapted model by cipher, a few images of every class."""
    folder = tmp_path_factory.mktemp("methods")
    worlds = {cipher: make_places(folder / cipher, raw=folder / "raw", embedded=EMBEDDED) for cipher in CIPHERS}
    download.run(make_config(), worlds["none"])
    for cipher, places in worlds.items():
        config = make_config(
            dataset={"train_fraction": 0.015, "test_fraction": 0.03},
            cipher={"name": cipher},
        )
        encrypt.run(config, places)
        adapt.run(config, places)
    return worlds


class Trained:
    """A method trained on the shards of one cipher: losses, and the reloaded model on the test images."""

    def __init__(self, places, method):
        config = make_config(finetune={**TRAINING, "method": method})
        self.losses = []

        def log(epoch, metrics):
            self.losses.append(metrics["train_loss"])

        trained = finetune(config.finetune, config.adversarial, places.encrypted, places.adapted, log)
        out = places.finetuned / method
        trained_names = [name for name, parameter in trained.model.named_parameters() if parameter.requires_grad]
        self.head_alone = all("head." in name for name in trained_names)
        save_finetuned(trained.tuner, trained.model, out, places.adapted, trained.record)
        test = EncryptedImages(places.encrypted, "test")
        images = model_input(torch.stack([test[index][0] for index in range(len(test))]))
        with torch.no_grad():
            tuned = load_finetuned(places.adapted, out, test.num_classes)
            self.logits, self.features = tuned(images), tuned.forward_features(images)
            self.base_features = load_model(places.adapted, "adapt").forward_features(images)


@pytest.mark.parametrize("method", TUNERS)
def test_training_on_adapted_ciphertext_equals_training_on_plain_images(method, worlds):
    plain, encrypted = (Trained(worlds[cipher], method) for cipher in CIPHERS)
    assert encrypted.losses == pytest.approx(plain.losses, rel=TOLERANCE)
    scale = plain.logits.abs().max().item()
    torch.testing.assert_close(encrypted.logits, plain.logits, rtol=0, atol=TOLERANCE * scale)
    assert plain.losses[-1] < 0.9 * plain.losses[0]  # it learns
    moved = (plain.features - plain.base_features).abs().max()
    assert moved == 0 if plain.head_alone else moved > 1e-3
