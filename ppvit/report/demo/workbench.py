"""What the demo shows, without the page: a picture encrypted, what models say of it, and what attackers recover of it.

The model is the embedded one with a linear head for handwritten digits. The head is fitted to features of plain digits
when the demo starts; since adaptation is exact, the adapted model has the same features of encrypted ones.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from ppvit.adaptation.adapt import adapt_model
from ppvit.adaptation.embedding import fold_normalization, read_embedding
from ppvit.audit.base import ATTACKS
from ppvit.audit.score import key_recovered_percent, mean_ssim
from ppvit.audit.view import KeySpace, View
from ppvit.ciphers import CIPHERS, Cipher, make_cipher
from ppvit.ciphers.keys import Key
from ppvit.core.errors import PpvitError
from ppvit.data.images import displayable
from ppvit.models import MICRO_NAME, Backbone, load_backbone, model_input

SIZE, BLOCK = 32, 4  # pixels; what the embedded model takes
_FITTED = 600  # digits that the head is fitted to; enough for 9 of 10
_POOLED = 60  # ciphertexts that the pooled attack is given
SHOWN_ATTACKS = {
    "known_plaintext": "Known plaintext",
    "pooled": "Pooled ciphertexts",
    "weights": "Weights of the adapted model",
}


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture: digit and probability in percent; ``says`` where it says nothing."""

    model: str
    digit: int | None
    percent: float
    says: str = ""


@dataclass(frozen=True)
class Recovered:
    """What an attack made of the picture.

    Attributes:
        attack: in words.
        needs: what the attacker had.
        picture: uint8, (S, S, 3), or None where the attack cannot be made on the cipher.
        key_percent: share of the key that was found, None without a key of that form.
        ssim: likeness to the plain picture.
        says: why there is no picture.
    """

    attack: str
    needs: str
    picture: np.ndarray | None
    key_percent: float | None
    ssim: float
    says: str = ""


def cipher_names() -> list[str]:
    """Ciphers of which the demo can show all: those that make pictures."""
    return [name for name in CIPHERS if not make_cipher(name, Key(bytes(32)), SIZE, BLOCK).makes_tokens]


def key_of(words: str) -> Key:
    """A key from words that anybody types: for the demo alone, since words are guessed."""
    return Key(words.encode("utf-8", "surrogatepass")[:32].ljust(32, b"\0"))


def as_digit(drawn: np.ndarray) -> np.ndarray:
    """A drawing as the digits of the data set are: cut out, centred, 8 x 8 levels, then enlarged.

    Args:
        drawn: (H, W), 0 where nothing was drawn, at most 255.

    Returns:
        uint8, (32, 32, 3), light on black.
    """
    rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((SIZE, SIZE, 3), np.uint8)
    cut = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(cut.shape)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return _enlarged(np.asarray(Image.fromarray(square).resize((8, 8), Image.Resampling.BOX)))


def as_picture(image: Image.Image) -> np.ndarray:
    """The middle of a photograph at the size of the model: uint8, (32, 32, 3)."""
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return np.array(cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _enlarged(grey: np.ndarray) -> np.ndarray:
    large = np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return np.repeat(large[..., None], 3, axis=-1)


class Workbench:
    """The model and the pictures that everything is shown with.

    Args:
        weights: file of the embedded model's weights.

    Raises:
        PpvitError: the weights cannot be read.
    """

    def __init__(self, weights: Path) -> None:
        self._plain: Backbone = load_backbone(MICRO_NAME, weights, SIZE)
        data = load_digits()
        self.digits = np.stack([_enlarged((image * 255 / 16).astype(np.uint8)) for image in data.images[:_FITTED]])
        features = self._features(self._plain.model, self._normalized(self.digits))
        self._head = LogisticRegression(max_iter=500).fit(features, data.target[:_FITTED])
        self.photographs = _crops(_POOLED)

    def encrypted(self, picture: np.ndarray, name: str, key: Key) -> np.ndarray:
        """The picture as the trainer sees it: uint8, (32, 32, 3) to (H, W, 3)."""
        shown: np.ndarray = displayable(self._encrypt(make_cipher(name, key, SIZE, BLOCK), picture[None]))[0]
        return shown

    def answers(self, picture: np.ndarray, name: str, key: Key, wrong: Key) -> list[Answer]:
        """What the plain model, the adapted one under the right and a wrong key, and the unadapted one say.

        Args:
            picture: uint8, (32, 32, 3).
            name: of the cipher.
            key: under which the model is adapted.
            wrong: another one, under which the picture is encrypted for the third answer.
        """
        found = [self._answer("plain picture, plain model", self._plain.model, self._normalized(picture[None]))]
        right = make_cipher(name, key, SIZE, BLOCK)
        encrypted = self._input(right, picture)
        try:
            adapted = self._adapted(name, key, True).model
        except PpvitError as error:
            found.append(Answer("encrypted, adapted model", None, 0.0, str(error)))
        else:
            found.append(self._answer("encrypted, adapted model", adapted, encrypted))
            other = self._input(make_cipher(name, wrong, SIZE, BLOCK), picture)
            found.append(self._answer("encrypted with a wrong key, adapted model", adapted, other))
        unadapted = self._adapted("none", key, False).model
        found.append(self._answer("encrypted, model not adapted", unadapted, encrypted))
        return found

    def recovered(self, picture: np.ndarray, name: str, key: Key, known: int) -> list[Recovered]:
        """What three attackers make of the encrypted picture.

        Args:
            picture: uint8, (32, 32, 3); no attacker is given it.
            name: of the cipher.
            key: secret.
            known: digits of which the first attacker has plain picture and ciphertext, 1 .. 100.
        """
        cipher = make_cipher(name, key, SIZE, BLOCK)
        view = View(
            space=KeySpace.of(cipher),
            block_size=BLOCK,
            encrypted=self._encrypt(cipher, picture[None]),
            seed=0,
            image_size=SIZE,
            known_plain=self.digits[:known],
            known_encrypted=self._encrypt(cipher, self.digits[:known], 1),
            known_pairs=(known,),
            pooled=self._encrypt(cipher, self.photographs, 1000),
            pooled_images=(_POOLED,),
            public_plain=self.digits,
        )
        try:
            adapted = read_embedding(self._adapted(name, key, True).model)
            public = fold_normalization(read_embedding(self._plain.model), self._plain.mean, self._plain.std)
            view = replace(view, public=public, adapted=adapted, finetuned=adapted)
        except PpvitError:
            pass  # no model is adapted to this cipher, so none tells its key; the attack says so
        return [self._attacked(attack, view, picture, cipher) for attack in SHOWN_ATTACKS]

    def _attacked(self, attack: str, view: View, picture: np.ndarray, cipher: Cipher) -> Recovered:
        title = SHOWN_ATTACKS[attack]
        finding = next(each for each in ATTACKS[attack].find(view) if each.headline)
        if not finding.applies:
            return Recovered(title, "", None, None, 0.0, finding.says)
        images = finding.align(finding.images, picture[None]) if finding.align else finding.images
        truth, percent = cipher.affine_map(), None
        if finding.key is not None and truth is not None:
            keys = finding.equivalents(finding.key) if finding.equivalents else [finding.key]
            shares = [key_recovered_percent(each, truth, view.space) for each in keys]
            percent = max((share for share in shares if share is not None), default=None)
        return Recovered(title, finding.needs, images[0], percent, mean_ssim(images, picture[None]))

    def _normalized(self, pictures: np.ndarray) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._plain.mean, self._plain.std))
        return (_channels_first(pictures) / 255 - mean) / std

    def _encrypt(self, cipher: Cipher, pictures: np.ndarray, first: int = 0) -> np.ndarray:
        return cipher.encrypt(pictures, first + np.arange(len(pictures)))

    def _input(self, cipher: Cipher, picture: np.ndarray) -> torch.Tensor:
        return model_input(_channels_first(self._encrypt(cipher, picture[None])))

    @lru_cache(maxsize=8)  # noqa: B019  # one workbench a process
    def _adapted(self, name: str, key: Key, enabled: bool) -> Backbone:
        backbone = deepcopy(self._plain)
        adapt_model(backbone, make_cipher(name, key, SIZE, BLOCK), enabled)
        return backbone

    def _answer(self, model: str, network: torch.nn.Module, pictures: torch.Tensor) -> Answer:
        probabilities = self._head.predict_proba(self._features(network, pictures))[0]
        return Answer(model, int(self._head.classes_[probabilities.argmax()]), 100 * float(probabilities.max()))

    def _features(self, network: torch.nn.Module, pictures: torch.Tensor) -> np.ndarray:
        model: Any = network  # timm's two halves of a model, of which torch knows nothing
        with torch.inference_mode():
            batches = [model.forward_features(batch) for batch in pictures.float().split(128)]
            return np.concatenate([model.forward_head(each, pre_logits=True).numpy() for each in batches])


def _channels_first(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def _crops(count: int) -> np.ndarray:
    """Crops of scikit-learn's two photographs, the same ones always: uint8, (count, 32, 32, 3)."""
    rng, photographs = np.random.default_rng(0), load_sample_images().images
    found = []
    for _ in range(count):
        photograph = photographs[rng.integers(2)]
        side = int(rng.integers(120, 400))
        top, left = (int(rng.integers(length - side)) for length in photograph.shape[:2])
        found.append(as_picture(Image.fromarray(photograph[top : top + side, left : left + side])))
    return np.stack(found)
