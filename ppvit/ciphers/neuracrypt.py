"""NeuraCrypt: a secret random network turns patches into tokens, whose order is random in every image.

Source: Yala et al., "NeuraCrypt: hiding private health data via random neural networks for public training",
arXiv 2106.02484; for colour images Qi, AprilPyone and Kiya, "Color-NeuraCrypt".
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


@CIPHERS.register()
class NeuraCrypt(Cipher):
    """A secret random network makes a token of every block; the tokens of each image have an order of their own.

    Source: Yala et al. 2021; see the module.

    The network: p x p convolution of stride p to ``token_width``, ReLU; 4 x (1 x 1 convolution, batch norm, ReLU); plus
    random position vectors, ReLU; linear.

    Batch norm takes the statistics of one image, as the authors' code does for a batch of one, so that an image's
    ciphertext does not depend on what else is in the batch. There is no decryption, and no exact adaptation: a model
    must be trained on the tokens. Key space: the real weights, about 5 ``token_width``^2 of them.

    Sums in float32 differ in the last bits between machines; rounding to float16 hides nearly all of that.
    """

    name = "neuracrypt"
    options: ClassVar[dict[str, Any]] = {"token_width": 2048}
    token_width: int
    published = MappingProxyType({"matching": (100.0, "Carlini et al., arXiv 2108.07256")})
    dtype = np.dtype(np.float16)
    lossless = False
    invertible = False

    def __init__(self, key: Key | None, image_size: int, block_size: int, **options: Any) -> None:
        super().__init__(key, image_size, block_size, **options)
        if self.token_width < 1:
            raise UsageError(f"cipher.token_width {self.token_width} must be 1 or more")
        if self.blocks == 1:  # batch norm over a single patch leaves nothing of it
            raise UsageError(
                f"cipher 'neuracrypt' needs 2 blocks or more, cipher.block_size {block_size} makes one of the image; "
                "choose a smaller one"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.blocks, self.token_width)

    @property
    def image_keys(self) -> bool:
        return True  # the order of the patches; the network is the same for all

    @cached_property
    def _network(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
        width = self.token_width
        first = self._weights("first", self.values, width)
        hidden = [self._weights(f"hidden {layer}", width, width) for layer in range(HIDDEN_LAYERS)]
        positions = self._stream("positions", width).normal(self.blocks * width).reshape(self.blocks, width)
        return first, hidden, positions.astype(np.float32), self._weights("last", width, width)

    def _weights(self, layer: str, inputs: int, outputs: int) -> np.ndarray:
        # normal with variance 1 / inputs: tokens keep the size of the pixels
        normal = self._stream(layer, self.token_width).normal(inputs * outputs).reshape(inputs, outputs)
        return np.asarray(normal / inputs**0.5, np.float32)

    def encrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """Tokens, float16, (n, N, token_width)."""
        self._check(images)
        ids = self._check_ids(images, ids)
        tokens = [self._tokens(image, int(number)) for image, number in zip(images, ids, strict=True)]
        return np.array(tokens, np.float16).reshape(len(images), *self.shape)

    def _tokens(self, image: np.ndarray, number: int) -> np.ndarray:
        first, hidden, positions, last = self._network
        side, p = self.image_size // self.block_size, self.block_size
        patches = image.reshape(side, p, side, p, 3).transpose(0, 2, 4, 1, 3).reshape(self.blocks, self.values)
        tokens = np.maximum((patches / np.float32(127.5) - np.float32(1)) @ first, 0)  # (N, width)
        for weights in hidden:
            tokens = tokens @ weights
            tokens = (tokens - tokens.mean(0)) / np.sqrt(tokens.var(0) + _EPSILON)
            tokens = np.maximum(tokens, 0)
        tokens = np.maximum(tokens + positions, 0) @ last
        return np.asarray(tokens[self._stream("order", "image", number).permutation(self.blocks)], np.float16)

    def decrypt(self, images: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """There is none.

        Raises:
            UsageError: always.
        """
        raise UsageError("cipher 'neuracrypt' has no decryption: its network cannot be inverted")

    @property
    def key_space_bits(self) -> float:
        # float32 weights of all layers; what is derived is a function of the 256-bit key
        width = self.token_width
        return 32 * (self.values * width + (HIDDEN_LAYERS + 1) * width**2 + self.blocks * width)
