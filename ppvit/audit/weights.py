"""Attack by comparison of weights: a model that was adapted to a key is the public checkpoint, rearranged by that key.

Adaptation folds the normalisation, whose mean and std are public, and then permutes and negates columns of the patch
embedding and permutes rows of the position embedding (``ppvit.adapt``). Whoever has the checkpoint therefore only has
to find which column is which. Fine-tuning adds noise, so columns are compared by least squares under one-to-one
assignment: the permutation of maximum likelihood for Gaussian noise of any size.

Where the model was not adapted it holds no key, and the attack finds the identity, which is no better than a guess.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from ppvit.adapt import Embedding
from ppvit.audit.view import Finding, KeySpace, View, decrypt
from ppvit.ciphers import AffineMap


def attack(view: View) -> Iterator[Finding]:
    """Compare the adapted model, then the fine-tuned one, with the public checkpoint."""
    for variant, model, observed in (("", "adapted", view.adapted), ("finetuned", "fine-tuned", view.finetuned)):
        key = recover_key(view.public, observed, view.space, np.random.default_rng(view.seed))
        images = decrypt(view.encrypted, key, view.block_size)
        needs = f"the public checkpoint and the {model} model"
        yield Finding(needs, images, key, variant=variant, headline=not variant)


def recover_key(public: Embedding, observed: Embedding, space: KeySpace, rng: np.random.Generator) -> AffineMap:
    """The key under which ``observed`` is most like ``public``.

    Args:
        public: of the checkpoint, normalisation folded in.
        observed: of the model under attack.
        space: parts that the cipher does not key are taken as known.
        rng: guesses the parts of which the model says nothing: no position embedding, or patches of another size.
    """
    key = space.guess(rng)
    value_permutation, sign, block_permutation = key.value_permutation, key.sign, key.block_permutation
    weight, observed_weight = public.weight.numpy(), observed.weight.numpy()
    if weight.shape == observed_weight.shape and weight.shape[1] == space.values:
        similarity = observed_weight.T @ weight  # (B, B)
        if space.shuffles:
            value_permutation = match(np.abs(similarity) if space.inverts else similarity)
        if space.inverts:
            sign = _signs(similarity[np.arange(space.values), value_permutation])
    if space.scrambles and public.positions is not None and len(public.positions) == space.blocks:
        # a bias that every position carries (ppvit.adapt.write_embedding) adds the same to every assignment
        block_permutation = match(observed.positions.numpy() @ public.positions.numpy().T)
    return AffineMap(block_permutation, value_permutation, sign)


def match(similarity: np.ndarray) -> np.ndarray:
    """One-to-one assignment of largest total similarity: entry i is the column assigned to row i, intp, (n,).

    With inner products as similarity this is least squares, since ``|a - b|^2 = |a|^2 + |b|^2 - 2 a.b`` and a
    permutation leaves the sums of the squares alone. 768 x 768 take well under a second.
    """
    return linear_sum_assignment(similarity, maximize=True)[1]


def _signs(similarity: np.ndarray) -> np.ndarray:
    # exactly half of the positions are inverted, so the least similar half is the likeliest
    sign = np.ones(len(similarity), np.int8)
    sign[np.argsort(similarity, kind="stable")[: len(similarity) // 2]] = -1
    return sign
