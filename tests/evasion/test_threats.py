"""Attackers K1 to K4: gradients as on the plain image, recovered keys, and the smallest figure as the headline."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import make_config, tiny_backbone, write_raw
from imports import ROOT
from torch import nn

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import CIPHERS
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import PpvitError, UsageError
from ppvit.data.plain import PlainImages
from ppvit.evasion.at_owner import require_measurable, summary
from ppvit.evasion.ball import Ball
from ppvit.evasion.cascade import Adversary
from ppvit.evasion.ciphered import QUERY, StraightThrough, ThroughMap, rounds, through_cipher, whole_bytes
from ppvit.evasion.pgd import PgdAttack
from ppvit.evasion.recovery import recover
from ppvit.evasion.surrogate import own_images, train_head
from ppvit.evasion.verdicts import threat_rows, verdict
from ppvit.models import model_input
from ppvit.places import Places
from ppvit.verbs import adapt, encrypt, finetune, threats

PIXELS = sorted(name for name in CIPHERS if not name.startswith("neuracrypt"))  # the others make tokens
EXACT = ["none", "block", "np", "block_np", "pixel_position", "etc", "subblock_etc", "pe", "restricted"]


def cipher_config(name: str, **cipher) -> Config:
    return make_config(dataset={"image_size": 16}, cipher={"name": name, **cipher})


def noise(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def as_input(images: np.ndarray) -> torch.Tensor:
    return model_input(torch.from_numpy(images).permute(0, 3, 1, 2))


def tiny_model(cipher, adapted: bool = True) -> nn.Module:
    backbone = tiny_backbone()
    adapt_model(backbone, cipher, enabled=adapted)
    return backbone.model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", PIXELS)
def test_forward_is_the_model_on_ciphertext(name):
    cipher = load_cipher(cipher_config(name))
    model = tiny_model(cipher, adapted=False)
    images = noise()
    encrypted = cipher.encrypt(images, np.full(len(images), QUERY))
    expected = model(as_input(encrypted))
    found = through_cipher(model, cipher)(as_input(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 if cipher.dtype == np.float16 else 1e-5)
    assert (found - model(as_input(images))).abs().max() > 2e-3 or name == "none"  # the cipher is not left out


@pytest.mark.parametrize("name", EXACT)
def test_attacking_ciphertext_and_decrypting_is_attacking_plain_pixels(name):
    """Isometry: the same images, whichever side of the cipher the attacker works on, and the plain model's."""
    cipher = load_cipher(cipher_config(name))
    plain_model = tiny_model(load_cipher(cipher_config("none"))).double()
    model = tiny_model(cipher).double()
    through = ThroughMap(model, cipher.affine_map(), cipher.block_size)
    images, labels = as_input(noise()).double(), torch.tensor([0, 1, 2])
    attack = PgdAttack(Ball.of_grey_levels("linf", 8.0), 5, 2 / 127.5, start="none", inner_loss="ce")
    plain = attack.perturb(plain_model, images, labels)
    encrypted = attack.perturb(model, through.encrypt(images), labels)
    torch.testing.assert_close(through.encrypt(attack.perturb(through, images, labels)), encrypted)
    pixels = (encrypted * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    decrypted = as_input(cipher.decrypt(pixels))
    torch.testing.assert_close(decrypted.double(), plain, rtol=0, atol=1e-6)  # steps of whole grey levels
    assert (plain - images).abs().max() == pytest.approx(8 / 127.5)


@pytest.mark.parametrize("name", ["le", "ele"])
def test_stand_in_of_nibbles_is_the_plain_model(name):
    """Where training left the patch embedding alone, its gradient is exact; the true cipher alone has none."""
    cipher = load_cipher(cipher_config(name))
    plain, model = tiny_model(load_cipher(cipher_config("none"))), tiny_model(cipher)
    images = as_input(noise())
    stand_in = whole_bytes(model, cipher.affine_map())
    torch.testing.assert_close(stand_in(images), plain(images), rtol=1e-3, atol=1e-3)
    gradients = []
    for seen in (plain, through_cipher(model, cipher)):
        moved = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(seen(moved)[:, 0].sum(), moved)[0])
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-4)


def test_identity_stands_in_for_a_table_of_values():
    cipher = load_cipher(cipher_config("ffx"))
    model = tiny_model(cipher, adapted=False)
    images = noise()
    moved, encrypted = as_input(images).requires_grad_(), as_input(cipher.encrypt(images)).requires_grad_()
    logits = through_cipher(model, cipher)(moved)
    expected = model(encrypted)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.autograd.grad(logits[:, 1].sum(), moved)[0],
        torch.autograd.grad(expected[:, 1].sum(), encrypted)[0],
        rtol=1e-3,
        atol=1e-5,
    )


def test_tokens_have_no_straight_through():
    cipher = load_cipher(cipher_config("neuracrypt", token_width=8))
    with pytest.raises(UsageError, match="cipher 'neuracrypt' makes tokens .* no straight-through"):
        through_cipher(nn.Identity(), cipher)


def test_fractions_of_grey_levels_are_refused_where_pixels_are_rounded():
    config = make_config(cipher={"name": "ffx"}, robustness={"epsilon": 7.5})
    rounding = StraightThrough(nn.Identity(), lambda images: images)
    with pytest.raises(UsageError, match="robustness.epsilon 7.5 .linf. cannot be measured under cipher 'ffx'"):
        require_measurable(config, rounding)
    broken = make_config(cipher={"name": "ffx"}, robustness={"epsilons": [8.0, 12.5]})
    with pytest.raises(UsageError, match="robustness.epsilon 12.5"):
        require_measurable(broken, rounding)
    require_measurable(make_config(cipher={"name": "ffx"}), rounding)
    require_measurable(config, nn.Identity())
    assert not rounds(nn.Identity())


def make_world(folder, cipher: str, adapted: bool = True, **cipher_settings) -> Config:
    config = make_config(
        dataset={"image_size": 16},
        cipher={"name": cipher, **cipher_settings},
        adapt={"enabled": adapted},
        finetune={"epochs": 4, "rank": 2, "target_modules": ["attn.qkv"], "learning_rate": 1e-2, "batch_size": 16},
        robustness={"attack": "pgd", "epsilon": 24.0, "step_size": 6.0, "epsilons": [96.0]},
        threats={"images": 8, "surrogate_images": 30, "queries": 30},
    )
    places = places_in(folder)
    write_raw(places.raw, {"train": 50, "test": 12})
    for stage in (encrypt, adapt, finetune):
        stage.run(config, places)
    return config


def places_in(folder) -> Places:
    return Places.of(make_config(), root=folder, embedded=Places.of(make_config(), root=ROOT).embedded)


def measure(folder, config) -> dict:
    places = places_in(folder)
    threats.run(config, places)
    return json.loads(places.result("threats").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("PPVIT_SCRATCH", str(folder / "scratch"))
    config = make_world(folder, "block_np")
    patch.undo()
    return folder, config


def test_all_attackers_of_a_keyed_model(world):
    folder, config = world
    found = measure(folder, config)
    accuracies = [found[f"k{number}_accuracy_percent"] for number in range(1, 5)]
    assert found["headline_accuracy_percent"] == min(accuracies)
    assert found["k2_attack"] == "weights"
    assert found["k2_key_recovered_percent"] == 100
    # the same key, so the same attack, but for what differs between true weights and none
    assert found["k2_accuracy_percent"] == found["k1_accuracy_percent"] < found["clean_accuracy_percent"]
    assert found["k1_accuracy_percent"] < found["naive_accuracy_percent"]
    assert found["masking_white_box_strongest"]
    assert "obfuscation, not robustness" in found["verdict"]
    assert "K1" in found["verdict"] or "K2" in found["verdict"]
    assert found["images"] == 8


def test_without_a_key_there_is_nothing_to_recover(tmp_path):
    found = measure(tmp_path, make_world(tmp_path, "none"))
    assert found["k2_accuracy_percent"] == found["k1_accuracy_percent"]
    assert "naive_accuracy_percent" not in found
    assert found["verdict"].endswith("There is no key, so K2 is K1.")


@pytest.mark.parametrize("cipher", ["le", "ffx", "disposable"])
def test_ciphers_without_a_gradient_or_a_single_map(tmp_path, cipher):
    found = measure(tmp_path, make_world(tmp_path, cipher, adapted=cipher == "le"))
    assert found["k1_accuracy_percent"] <= found["clean_accuracy_percent"]
    assert ("k2_accuracy_percent" in found) == (cipher == "le")
    assert {"k3_accuracy_percent", "k4_accuracy_percent", "naive_accuracy_percent"} <= found.keys()
    # the trainer looks for masked gradients where it can measure, the owner behind straight-through gradients
    assert ("masking_falls_with_epsilon" in found) == (cipher != "disposable")


def test_killed_and_resumed_equals_uninterrupted(world, monkeypatch, tmp_path):
    folder, config = world
    monkeypatch.setenv("PPVIT_SCRATCH", str(tmp_path))
    whole = measure(folder, config)
    assert list(tmp_path.iterdir()) == []
    perturb, calls = Adversary.perturb, []

    def killed(self, attack, *arguments):
        calls.append(attack)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return perturb(self, attack, *arguments)

    monkeypatch.setattr(Adversary, "perturb", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, config)
    calls.clear()
    calls.extend([""] * 4)
    resumed = measure(folder, config)
    assert resumed == whole
    assert len(calls) - 4 == 7 - 3  # K1, K2, three surrogates, Square, naive: three of them were known


def test_missing_extra_is_told(world, monkeypatch):
    folder, config = world
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(PpvitError, match=r"the threats .* need pyautoattack; pip install 'ppvit\[robust\]'$"):
        measure(folder, config)


def test_tokens_are_not_measured(tmp_path):
    config = make_world(tmp_path, "neuracrypt", adapted=False, token_width=8)
    found = measure(tmp_path, config)
    assert found["verdict"].startswith("Not measured: cipher 'neuracrypt' makes tokens")
    assert "headline_accuracy_percent" not in found


@pytest.mark.parametrize(("adapted", "attack"), [(True, "weights"), (False, "known_plaintext")])
def test_key_comes_from_the_weights_or_from_known_pairs(world, adapted, attack):
    folder, config = world
    config = Config.model_validate({**config.model_dump(), "adapt": {"enabled": adapted}})
    plain = PlainImages(places_in(folder).raw, "train", config.dataset, config.encrypt)
    found = recover(config, load_cipher(config), plain, places_in(folder).embedded, places_in(folder).adapted)
    assert (found.attack, found.percent) == (attack, 100)
    np.testing.assert_array_equal(found.key.block_permutation, load_cipher(config).affine_map().block_permutation)


def test_model_of_another_key_is_refused(world):
    folder, config = world
    other = Config.model_validate({**config.model_dump(), "cipher": {"name": "block"}})
    places_in(folder).result("threats").unlink(missing_ok=True)
    with pytest.raises(
        PpvitError, match=r"finetuned was made with cipher .*block_np.*, by params\.yaml, with .*'block'"
    ):
        measure(folder, other)
    assert not places_in(folder).result("threats").exists()


def test_surrogates_learn_from_images_of_their_own():
    first, second = (own_images(1000, 300, 0, number) for number in range(2))
    assert len(set(first)) == 300
    assert set(first) != set(second)


def test_head_is_the_optimum_of_logistic_regression():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(3.0, 5.0, (200, 6))).float()
    labels = (features[:, 0] + 2 * features[:, 1] > 9).long() + (features[:, 2] > 3).long()
    head = train_head(features, labels, 3)
    assert (head(features).argmax(1) == labels).float().mean() > 0.7
    shift, scale = features.mean(0), features.std(0, correction=0)
    weight = (head.weight * scale).detach().requires_grad_()
    bias = (head.bias + head.weight @ shift).detach().requires_grad_()
    logits = (features - shift) / scale @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, labels) + 1e-3 * weight.square().sum()
    assert max(gradient.abs().max() for gradient in torch.autograd.grad(loss, (weight, bias))) < 1e-3


def test_summary_takes_the_smallest_and_sees_masking():
    standing = {"k1": np.arange(100) < 40, "k3": np.arange(100) < 50, "k4": np.arange(100) < 30}
    found = summary(standing)
    assert found["headline_accuracy_percent"] == 30
    assert found["masking_white_box_strongest"]
    assert not found["masking_square_no_better"]  # a black box beat who knows the key
    shown = {**found, "images": 100, "norm": "linf", "epsilon": 8.0, "naive_accuracy_percent": 94.0}
    line = verdict(shown, keyed=True)
    assert line.startswith("Not to be believed: 30.0 % of 100 images withstand linf 8 under the strongest attacker, K4")
    assert line.endswith("94.0 % under attack through a wrong key is obfuscation, not robustness.")
    rows = dict((who, accuracy) for who, accuracy, _ in threat_rows(shown))
    assert rows["K4, asks for classes only"] == "30.00 %"
    assert rows["K2, holds the weights and recovers the key"] == "–"


def test_square_asks_no_more_often_than_allowed():
    asked = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

        def forward(self, images):
            asked.append(len(images))
            return torch.stack([images.flatten(1).mean(1) * 0 + 5, images.flatten(1).mean(1)], 1)

    few, many = [], []
    for queries, counts in ((3, few), (23, many)):
        asked.clear()
        adversary = Adversary(Ball.of_grey_levels("linf", 8.0), 2 / 127.5, 2, seed=0, steps=20, queries=queries)
        adversary.perturb("square", Counting(), torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
        counts.append(len(asked))
    assert many[0] - few[0] == 20
