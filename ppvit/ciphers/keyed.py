"""What only the owner can do: find the secret key and make the cipher of a run."""

from __future__ import annotations

from ppvit.ciphers import CIPHERS, Cipher, keys
from ppvit.config import Config


def load_cipher(config: Config, key: keys.Key | None = None) -> Cipher:
    """The cipher that ``params.yaml`` describes, with its key from the keyring.

    Args:
        config: ``cipher`` and ``dataset.image_size`` are used.
        key: used instead of the one that ``cipher.key_id`` names.

    Raises:
        UsageError: unknown cipher, missing key, geometry or option that does not fit.
    """
    kind = CIPHERS[config.cipher.name]
    if key is None and kind.keyed:
        key = keys.load(config.cipher.key_id)
    options = {name: getattr(config.cipher, name) for name in kind.options}
    return kind(key, config.dataset.image_size, config.cipher.block_size, **options)
