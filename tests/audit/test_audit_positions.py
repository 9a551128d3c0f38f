"""The order of the blocks, read off whatever tells a network where a patch is."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from tiny_backbones import KINDS, MIXERS, PATCH_4

from ppvit.adaptation.embedding import Embedding, encrypt_embedding, read_embedding
from ppvit.audit.attacks import weights
from ppvit.audit.score import key_recovered_percent
from ppvit.audit.view import KeySpace
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key


def network(kind: str, seed: int = 0) -> Embedding:
    """What adaptation changes in a network with random weights, of which none is zero."""
    torch.manual_seed(seed)
    model = timm.create_model(KINDS[kind]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return read_embedding(model)


def shaken(embedding: Embedding, factor: float, seed: int = 1) -> Embedding:
    """Trained: noise on every tensor, in units of its deviation; an order of patches does not train."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(tensor):
        return tensor + factor * tensor.std() * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    positions = None if embedding.positions is None else noisy(embedding.positions)
    mixing = {name: noisy(tensor) for name, tensor in embedding.mixing.items()}
    return replace(embedding, weight=noisy(embedding.weight), positions=positions, mixing=mixing)


def cipher_for(kind: str, key: Key, name: str = "block"):
    return make_cipher(name, key, 32, 4 if kind in PATCH_4 else 8)


def share(public: Embedding, observed: Embedding, cipher) -> float:
    space = KeySpace.of(cipher)
    found = weights.recover_key(public, observed, space, np.random.default_rng(0))
    return key_recovered_percent(found, cipher.affine_map(), space)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_key_is_read_off_an_adapted_network_and_a_trained_one(kind, key):
    cipher, public = cipher_for(kind, key), network(kind)
    adapted = encrypt_embedding(public, cipher.affine_map())
    assert share(public, adapted, cipher) == 100
    assert share(public, shaken(adapted, 0.1), cipher) == 100


@pytest.mark.parametrize("kind", KINDS)
def test_networks_without_the_key_give_nothing(kind, key, other_key):
    """Never adapted, adapted to another key, or another network."""
    cipher, public = cipher_for(kind, key, "block_np"), network(kind)
    others = (
        public,
        shaken(public, 0.1),
        encrypt_embedding(public, cipher_for(kind, other_key, "block_np").affine_map()),
    )
    assert max(share(public, each, cipher) for each in (*others, network(kind, seed=5))) < 10


def test_an_order_is_read_with_no_checkpoint_at_all(key):
    cipher = cipher_for("swin", key, "scramble")
    adapted = encrypt_embedding(network("swin"), cipher.affine_map())
    assert share(network("swin", seed=9), adapted, cipher) == 100


@pytest.mark.parametrize("kind", sorted(MIXERS))
def test_mixing_weights_alone_tell_the_order_under_much_noise(kind, key):
    """Of weights between patches and patches the sorted rows only start the search; the rows themselves decide."""
    cipher, public = cipher_for(kind, key, "scramble"), network(kind)
    assert share(public, shaken(encrypt_embedding(public, cipher.affine_map()), 0.2), cipher) == 100


def test_the_order_is_one_of_the_definition(key):
    """``y[t] = x[kb[t]]`` and patch i of the plain image is patch order[i] of the ciphertext: order inverts kb."""
    cipher, public = cipher_for("dinov3", key, "scramble"), network("dinov3")
    kb = cipher.affine_map().block_permutation
    order = encrypt_embedding(public, cipher.affine_map()).order.numpy()
    np.testing.assert_array_equal(kb[order], np.arange(16))
    observed = replace(public, order=torch.from_numpy(order))
    np.testing.assert_array_equal(weights.block_order(public, observed, 16), kb)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("dinov3", "block", ", in which the order of the blocks is given in the clear"),
        ("dinov3", "shuffle", ""),
        ("mixer", "block", ", whose weights between patches tell their order"),
        ("cait", "block", ""),
    ],
)
def test_what_gave_the_order_away_is_said(kind, name, told, key):
    cipher = cipher_for(kind, key, name)
    adapted = encrypt_embedding(network(kind), cipher.affine_map())
    assert weights._where_blocks_stand(adapted, KeySpace.of(cipher)) == told
