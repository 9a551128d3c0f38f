"""Attack by comparison of weights: a model that was adapted to a key is the public checkpoint, rearranged by that key.

Adaptation folds the normalisation, whose mean and std are public, and then permutes and negates columns of the patch
embedding (or multiplies it by a matrix) and permutes rows of the position embedding, or what mixes patches in an
MLP-Mixer (``ppvit.adaptation.embedding``). Whoever has the checkpoint therefore only has to find which column is which.
Fine-tuning adds noise, so columns are compared by least squares under one-to-one assignment: the permutation of maximum
likelihood for Gaussian noise of any size. A model that knows places in another way holds the order of the blocks as a
list, which is read as it stands, with no checkpoint at all.

Where the model was not adapted it holds no key, and the attack finds the identity, which is no better than a guess. But
a patch embedding that was trained on ciphertext (`full`, `lora_patch`) has moved from public weights under the
influence of the key, so what training added is compared with the public weights as well (variant ``update``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ppvit.adaptation.embedding import Embedding
from ppvit.audit.base import attack
from ppvit.audit.view import Finding, KeySpace, View, decrypt, nearest_rotation, not_attacked
from ppvit.ciphers import AffineMap
from ppvit.models.mixing import mixing_axes
from ppvit.models.projections import expand_to_nibbles

_REFINEMENTS = 5  # of the order of patches; it settles in two


@attack(
    "weights",
    "weights",
    variants={"": "", "finetuned": "after fine-tuning", "update": "what fine-tuning changed"},
    place=1,
)
def find(view: View) -> Iterator[Finding]:
    """Compare the adapted model, the fine-tuned one, and what fine-tuning changed, with the public checkpoint."""
    if not view.space.mapped or view.public is None or view.adapted is None or view.finetuned is None:
        why = "no key enters the weights of a model that is not adapted, and none is read out of what training changed."
        yield not_attacked(why)
        return
    observed = [("", "adapted", view.adapted), ("finetuned", "fine-tuned", view.finetuned)]
    change = update(view.adapted, view.finetuned)
    if change is not None:
        observed.append(("update", "trained patch embedding of the fine-tuned", change))
    for variant, model, embedding in observed:
        key = recover_key(view.public, embedding, view.space, np.random.default_rng(view.seed))
        images = decrypt(view.encrypted, key, view.block_size)
        needs = f"the public checkpoint and the {model} model" + _where_blocks_stand(embedding, view.space)
        yield Finding(needs, images, key, variant=variant, headline=not variant)


def update(before: Embedding, after: Embedding) -> Embedding | None:
    """What training added to an embedding; None where it left the patch embedding as it was."""
    if before.weight.shape != after.weight.shape:
        return None
    change = after.weight - before.weight
    # a merged adapter or a change of dtype moves the last bits only
    if change.abs().max() <= 1e-6 * before.weight.abs().max():
        return None
    return replace(after, weight=change)


def recover_key(public: Embedding, observed: Embedding, space: KeySpace, rng: np.random.Generator) -> AffineMap:
    """The key under which ``observed`` is most like ``public``.

    Args:
        public: of the checkpoint, normalisation folded in.
        observed: of the model under attack.
        space: parts that the cipher does not key are taken as known.
        rng: guesses the parts of which the model says nothing: no position embedding, or patches of another size.
    """
    key = space.guess(rng)
    if space.scrambles and (blocks := block_order(public, observed, space.blocks)) is not None:
        key = replace(key, block_permutation=blocks)
    weight = (expand_to_nibbles(public.weight) if space.nibbles else public.weight).numpy()
    seen = (expand_to_nibbles(observed.weight) if space.nibbles and not observed.nibbles else observed.weight).numpy()
    if weight.shape != seen.shape[-2:] or weight.shape[1] != space.values:
        return key
    if space.dense:
        return replace(key, matrix=space.scale * nearest_rotation(seen.T @ weight))
    if not space.per_position:
        permutation, sign = _match_columns(seen if seen.ndim == 2 else seen[0], weight, key, space)
        return replace(key, value_permutation=permutation, sign=sign)
    kernels = seen if seen.ndim == 3 else np.broadcast_to(seen, (space.blocks, *seen.shape))
    found = [_match_columns(kernel, weight, _of_position(key, t), space) for t, kernel in enumerate(kernels)]
    permutations, signs = zip(*found, strict=True)
    return replace(key, value_permutation=np.stack(permutations), sign=np.stack(signs))


def block_order(public: Embedding, observed: Embedding, blocks: int) -> np.ndarray | None:
    """The order of the blocks under which ``observed`` is most like ``public``, intp (N,); None where neither tells.

    Args:
        public, observed: as of :func:`recover_key`.
        blocks: N.
    """
    if observed.order is not None and len(observed.order) == blocks:
        return np.argsort(observed.order.numpy())  # given in the clear: patch i is block order[i] of the ciphertext
    places, seen = public.positions, observed.positions
    if places is not None and seen is not None and len(places) == len(seen) == blocks:
        # a bias that every position carries (see write_embedding) adds the same to every assignment
        return match(seen.numpy() @ places.numpy().T)
    if public.mixing and public.mixing.keys() == observed.mixing.keys():
        return _order_of_mixing(public.mixing, observed.mixing)
    return None


def _order_of_mixing(public: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> np.ndarray:
    """The order of the patches in weights that mix them; those between patches and patches have two axes to reorder.

    Sorted, a row says which patch it is of whatever the order of its columns; once that is known, the columns can be
    put in order too, so that rows are compared value by value.
    """

    def features(weights: Mapping[str, Tensor], columns: np.ndarray | None) -> np.ndarray:
        found = []
        for name, tensor in weights.items():
            values, axes = tensor.numpy(), mixing_axes(name)
            if len(axes) == 2:
                pairs = np.stack([values, values.T])  # rows and columns of every patch
                pairs = np.sort(pairs) if columns is None else pairs[..., columns]
                found.append(np.concatenate([*pairs, np.diagonal(values)[:, None]], axis=1))
            else:
                found.append(np.moveaxis(values, axes[0], 0).reshape(values.shape[axes[0]], -1))
        return np.concatenate(found, axis=1)

    order = match(_closeness(features(observed, None), features(public, None)))
    for _ in range(_REFINEMENTS if any(len(mixing_axes(name)) == 2 for name in public) else 0):
        # W^[t, u] = W[kb[t], kb[u]]: column kb[u] of the public weights is column u
        order = match(_closeness(features(observed, np.argsort(order)), features(public, np.arange(len(order)))))
    return order


def _closeness(seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Inner products about the mean, in units of each column's deviation: (N, d) and (N, d) to (N, N)."""
    middle, scale = known.mean(axis=0), known.std(axis=0) + np.finfo(float).tiny
    return np.asarray(((seen - middle) / scale) @ ((known - middle) / scale).T)


def _where_blocks_stand(observed: Embedding, space: KeySpace) -> str:
    """What gave the order of the blocks away, as the end of a sentence about a model."""
    if not space.scrambles:
        return ""
    if observed.order is not None:
        return ", in which the order of the blocks is given in the clear"
    return ", whose weights between patches tell their order" if observed.mixing else ""


def _match_columns(
    seen: np.ndarray, weight: np.ndarray, key: AffineMap, space: KeySpace
) -> tuple[np.ndarray, np.ndarray]:
    """Value permutation and signs under which the kernel ``seen`` (D, V) is most like ``weight``."""
    similarity = seen.T @ weight  # (V, V)
    permutation, sign = key.value_permutation, key.sign
    if space.shuffles or space.per_position:
        permutation = match(np.abs(similarity) if space.inverts else similarity)
    if space.inverts:
        matched = similarity[np.arange(space.values), permutation]
        sign = _half_negative(matched) if space.inverts_half else np.where(matched < 0, -1, 1).astype(np.int8)
    return permutation, sign


def _of_position(key: AffineMap, position: int) -> AffineMap:
    return replace(key, value_permutation=key.value_permutation[position], sign=key.sign[position])


def match(similarity: np.ndarray) -> np.ndarray:
    """One-to-one assignment of largest total similarity: entry i is the column assigned to row i, intp, (n,).

    With inner products as similarity this is least squares, since ``|a - b|^2 = |a|^2 + |b|^2 - 2 a.b`` and a
    permutation leaves the sums of the squares alone. 768 x 768 take well under a second.
    """
    best: np.ndarray = similarity.argmax(axis=1)
    if len(np.unique(best)) == len(best):  # every row's best is nobody else's: no assignment can total more
        return best
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def _half_negative(similarity: np.ndarray) -> np.ndarray:
    # exactly half of the positions are inverted, so the least similar half is the likeliest
    sign = np.ones(len(similarity), np.int8)
    sign[np.argsort(similarity, kind="stable")[: len(similarity) // 2]] = -1
    return sign
