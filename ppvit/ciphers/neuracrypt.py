"""NeuraCrypt: a secret random network turns patches into tokens, whose order is random in every image.

Source: Yala et al., "NeuraCrypt: hiding private health data via random neural networks for public training",
arXiv 2106.02484. It was made for X-rays. Qi, AprilPyone and Kiya, "Color-NeuraCrypt: privacy-preserving color-image
classification using extended random neural networks", arXiv 2301.04875, extend it to colour images; of that paper only
the abstract could be read, and it does not say how. So three ways are here, none of which is a reproduction:
``neuracrypt`` itself on three colours, and the two at the end of the file.
"""

from __future__ import annotations

from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ppvit.ciphers.base import CIPHERS, Cipher
from ppvit.ciphers.keys import Key
from ppvit.core.errors import UsageError

HIDDEN_LAYERS = 4
_EPSILON = 1e-5  # of batch normalisation
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

Encoder = tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]
"""weights of the first layer, of hidden ones, position vectors, weights of the last layer; float32"""


@CIPHERS.register()
class NeuraCrypt(Cipher):
    """A secret random network makes a token of every block; the tokens of each image have an order of their own.

    Source: Yala et al. 2021; see the module.

    The network: p x p convolution of stride p to ``token_width``, ReLU; 4 x (1 x 1 convolution, batch norm, ReLU); plus
    random position vectors, ReLU; linear.

    Batch norm takes the statistics of one image, as the authors' code does for a batch of one, so that an image's
    ciphertext does not depend on what else is in the batch. There is no decryption, and no exact adaptation: a model
    must be trained on the tokens. Key space: the real weights, about 5 ``token_width``^2 of them.

    All colours of a patch go into one network, so this is the joint way of Color-NeuraCrypt.

    Sums in float32 differ in the last bits between machines; rounding to float16 hides nearly all of that.
    """

    name = "neuracrypt"
    options: ClassVar[dict[str, Any]] = {"token_width": 2048}
    token_width: int
    published = MappingProxyType({"matching": (100.0, "Carlini et al., arXiv 2108.07256")})
    dtype = np.dtype(np.float16)
    lossless = False
    invertible = False
    encoders: ClassVar[tuple[tuple[str, ...], ...]] = ((),)
    """what sets the secret networks apart in the derivation of their weights; a token is those of all, side by side"""

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        if self.token_width < 1:
            raise UsageError(f"cipher.token_width {self.token_width} must be 1 or more")
        if self.blocks == 1:  # batch norm over a single patch leaves nothing of it
            raise UsageError(
                f"cipher '{self.name}' needs 2 blocks or more, cipher.block_size {block_size} makes one of the image; "
                "choose a smaller one"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.blocks, self.token_width * len(self.encoders))

    @property
    def image_keys(self) -> bool:
        return True  # the order of the patches; the network is the same for all

    @cached_property
    def _encoders(self) -> list[Encoder]:
        return [self._encoder(*which) for which in self.encoders]

    def _encoder(self, *which: str) -> Encoder:
        width = self.token_width
        first = self._weights(self._inputs, width, *which, "first")
        hidden = [self._weights(width, width, *which, f"hidden {layer}") for layer in range(HIDDEN_LAYERS)]
        positions = self._stream(*which, "positions", width).normal(self.blocks * width).reshape(self.blocks, width)
        return first, hidden, positions.astype(np.float32), self._weights(width, width, *which, "last")

    def _weights(self, inputs: int, outputs: int, *layer: str) -> np.ndarray:
        # normal with variance 1 / inputs: tokens keep the size of the pixels
        normal = self._stream(*layer, self.token_width).normal(inputs * outputs).reshape(inputs, outputs)
        return np.asarray(normal / inputs**0.5, np.float32)

    @property
    def _inputs(self) -> int:
        """Values of a patch that an encoder sees."""
        return self.values

    def _seen(self, patches: np.ndarray) -> list[np.ndarray]:
        """What the encoders see of patches, float32 (N, 3, p^2) in [-1, 1]: (N, inputs) each."""
        return [patches.reshape(self.blocks, -1)]

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Tokens, float16, (n, N, token_width)."""
        self._check(images)
        ids = self._check_ids(images, ids)
        tokens = [self._tokens(image, int(number)) for image, number in zip(images, ids, strict=True)]
        return np.array(tokens, np.float16).reshape(len(images), *self.shape)

    def _tokens(self, image: np.ndarray, number: int) -> np.ndarray:
        side, p = self.image_size // self.block_size, self.block_size
        patches = image.reshape(side, p, side, p, 3).transpose(0, 2, 4, 1, 3).reshape(self.blocks, 3, p * p)
        seen = self._seen(patches / np.float32(127.5) - np.float32(1))
        tokens = np.concatenate([_encoded(*each) for each in zip(seen, self._encoders, strict=True)], axis=1)
        return np.asarray(tokens[self._stream("order", "image", number).permutation(self.blocks)], np.float16)

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """There is none.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"cipher '{self.name}' has no decryption: its network cannot be inverted")

    @property
    def key_space_bits(self) -> float:
        # float32 weights of all layers; what is derived is a function of the 256-bit key
        width = self.token_width
        weights = self._inputs * width + (HIDDEN_LAYERS + 1) * width**2 + self.blocks * width
        return 32.0 * len(self.encoders) * weights


def _encoded(patches: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Tokens (N, width) of one image's patches (N, inputs), in the order of the patches."""
    first, hidden, positions, last = encoder
    tokens = np.maximum(patches @ first, 0)
    for weights in hidden:
        tokens = tokens @ weights
        tokens = (tokens - tokens.mean(0)) / np.sqrt(tokens.var(0) + _EPSILON)
        tokens = np.maximum(tokens, 0)
    return np.asarray(np.maximum(tokens + positions, 0) @ last)


@CIPHERS.register()
class NeuraCryptGray(NeuraCrypt):
    """The same on the luminance of a picture alone: what colours add to the accuracy is lost, and hidden.

    Source: ours, for lack of the text of Color-NeuraCrypt; luminance as in ITU-R BT.601. Key space: as there, with a
    third of the weights in the first layer.
    """

    name = "neuracrypt_gray"
    published = MappingProxyType({})

    @property
    def _inputs(self) -> int:
        return self.block_size**2

    def _seen(self, patches: np.ndarray) -> list[np.ndarray]:
        return [np.einsum("c,ncv->nv", _LUMINANCE, patches)]


@CIPHERS.register()
class NeuraCryptPerChannel(NeuraCrypt):
    """A secret network for each colour; a token is those of the three side by side, ``3 token_width`` numbers.

    Source: ours, for lack of the text of Color-NeuraCrypt. Key space: the weights of three networks.
    """

    name = "neuracrypt_per_channel"
    published = MappingProxyType({})
    encoders = (("red",), ("green",), ("blue",))

    @property
    def _inputs(self) -> int:
        return self.block_size**2

    def _seen(self, patches: np.ndarray) -> list[np.ndarray]:
        return list(patches.transpose(1, 0, 2))
