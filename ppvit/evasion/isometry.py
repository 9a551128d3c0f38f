"""Which distances a cipher keeps, from its public settings: an attack on ciphertext is then one on plain pixels.

Where encrypting is an isometry E, |E x' - E x| = |x' - x|, so that the trainer, who has no key, attacks ciphertext, and
the radius still means what it means on the plain image. A test measures every entry of the table on the cipher itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvit.core.errors import UsageError
from ppvit.evasion.ball import Ball, Norm

# values change places or v becomes 255 - v, in every image under one key or each under its own: the box of valid pixels
# and every norm stay as they are
_SIGNED_PERMUTATIONS = frozenset(
    {
        "none",
        "shuffle",
        "scramble",
        "block",
        "np",
        "block_np",
        "pixel_position",
        "etc",
        "subblock_etc",
        "pe",
        "restricted",
        "disposable",
    }
)


def plain_ball(norm: Norm, epsilon: float, cipher: Mapping[str, Any], section: str = "adversarial") -> Ball:
    """The ball of ciphertext that is a ball of plain images.

    Args:
        norm: ``linf`` or ``l2``.
        epsilon: radius in grey levels of the plain image, 0..255.
        cipher: the public settings, as manifests and models record them; ``name`` and ``storage`` matter.
        section: of ``params.yaml``, where the norm stands; named in errors.

    Returns:
        The ball; under ``orthogonal`` without the box of valid pixels, which only the key could tell.

    Raises:
        UsageError: the cipher does not keep this norm.
    """
    name = cipher["name"]
    if name in _SIGNED_PERMUTATIONS:
        return Ball.of_grey_levels(norm, epsilon)
    if name != "orthogonal":
        raise UsageError(
            f"cipher.name '{name}' does not keep distances between images, so epsilon would not be in plain "
            "pixels; choose a cipher that moves and inverts values, such as block_np"
        )
    if norm != "l2":
        raise UsageError(f"cipher.name 'orthogonal' keeps Euclidean distances only; set {section}.norm=l2")
    if cipher.get("storage") != "float16":
        raise UsageError(
            "cipher.storage uint8 rounds and clips, which keeps no distances exactly; set cipher.storage=float16 for "
            "an attack on cipher 'orthogonal'"
        )
    return Ball.of_grey_levels(norm, epsilon, box=False)
