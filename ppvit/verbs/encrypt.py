"""Encrypt the plain images of every split into keyed shards."""

from __future__ import annotations

from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.data.encrypted import write_encrypted
from ppvit.data.plain import plain_splits, print_range
from ppvit.data.shards import sizes
from ppvit.data.storing import Storing
from ppvit.data.views import Views
from ppvit.places import Places


def run(config: Config, places: Places) -> None:
    """Write ``encrypted``, a folder a split.

    Args:
        config: ``dataset``, ``cipher`` and ``encrypt`` are used.
        places: ``raw`` is read, ``encrypted`` written.

    Raises:
        PpvitError: a class is missing in a split, an image cannot be decoded, the disk is full, no key.
    """
    cipher = load_cipher(config)
    splits = plain_splits(places.raw, config.dataset, config.encrypt, Views.of(config, "train"))
    print_range(splits["train"])
    print(sizes({split: len(plain) for split, plain in splits.items()}))
    settings = config.encrypt
    storing = Storing.of(settings.compress, settings.repeated_values == "once", splits["train"], cipher)
    write_encrypted(splits, cipher, places.encrypted, settings.images_per_shard, storing)
    shards = [path.stat().st_size for path in places.encrypted.rglob("*.tar")]
    print(
        f"encrypt: {len(shards):,} shards, {sum(shards) / 2**20:,.1f} MiB, cipher {cipher.name}, in {places.encrypted}"
    )
