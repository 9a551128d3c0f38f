"""How the attacker who holds the weights and not the key finds the key: by the attacks of the audit on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppvit.adaptation.embedding import fold_normalization, read_embedding
from ppvit.audit import ATTACKS
from ppvit.audit.score import key_recovered_percent
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import AffineMap, Cipher
from ppvit.config import Config
from ppvit.core.results import Stopwatch
from ppvit.data.plain import PlainImages
from ppvit.models import backbone_of, load_model

KNOWN_PAIRS = 10  # plain images with their ciphertexts, where the weights hold no key


@dataclass(frozen=True)
class Recovered:
    """A key as the attacker believes it.

    Attributes:
        key: the map.
        attack: of the audit, that found it.
        percent: how much of it is right, 0 a guess, 100 all.
        seconds: what it took.
    """

    key: AffineMap
    attack: str
    percent: float
    seconds: float


def recover(config: Config, cipher: Cipher, plain: PlainImages, embedded: Path, adapted: Path) -> Recovered | None:
    """Find the key: from the adapted weights, or from known pairs where the model is not adapted.

    Args:
        config: ``model``, ``adapt``, ``threats.seed`` and ``dataset.image_size`` are used.
        cipher: the owner's; it encrypts the known images and scores the key, and nothing else of it is used.
        plain: training images, the first of which are known.
        embedded: weights of the embedded model.
        adapted: folder that `adapt` wrote.

    Returns:
        None where the key is no single affine map, so that no attack of the audit gives it back in a usable form.
    """
    space, truth = KeySpace.of(cipher), cipher.affine_map()
    if truth is None:
        return None
    known = plain.read(0, min(KNOWN_PAIRS, len(plain)))
    encrypted = cipher.encrypt(known)
    public = observed = None
    if config.adapt.enabled:
        backbone = backbone_of(config, embedded)
        public = fold_normalization(read_embedding(backbone.model), backbone.mean, backbone.std)
        observed = read_embedding(load_model(adapted, "adapt"))
    view = View(
        space=space,
        block_size=cipher.block_size,
        encrypted=encrypted[:1],
        seed=config.threats.seed,
        image_size=cipher.image_size,
        known_plain=known,
        known_encrypted=encrypted,
        known_pairs=(len(known),),
        public=public,
        adapted=observed,
        finetuned=observed,
    )
    watch = Stopwatch()
    attack = "weights" if config.adapt.enabled else "known_plaintext"
    key = next(ATTACKS[attack].find(view)).key
    seconds = watch.seconds()
    if key is None:
        return None
    return Recovered(key, attack, key_recovered_percent(key, truth, space) or 0.0, seconds)
