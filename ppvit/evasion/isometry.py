"""Which ciphers an attacker can attack without the key: those that keep distances between images.

Where encrypting is an isometry E, |E x' - E x| = |x' - x|: a perturbation of the ciphertext is one of the plain image,
and of its size. So the trainer attacks ciphertext, and a radius means what it means on plain pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvit.core.errors import PpvitError, UsageError
from ppvit.evasion.ball import Ball, Norm


def plain_ball(norm: Norm, epsilon: float, record: Mapping[str, Any], section: str = "adversarial") -> Ball:
    """The ball of ciphertext that is a ball of plain images.

    Args:
        norm: ``linf`` or ``l2``.
        epsilon: radius in grey levels of the plain image, 0..255.
        record: what manifests and models say of the cipher, see :attr:`ppvit.ciphers.Cipher.record`; the trainer has no
            cipher to ask.
        section: of ``params.yaml``, where the norm stands; named in errors.

    Returns:
        The ball; without the box of valid pixels where only the key could tell which pixels are valid.

    Raises:
        UsageError: the cipher does not keep this norm.
        PpvitError: the record is of an older version.
    """
    name, keeps = record["cipher"]["name"], record.get("isometry")
    if keeps is None:
        raise PpvitError("the adapted model was made by an older version of ppvit; make it again: dvc repro adapt")
    if keeps == "values":
        return Ball.of_grey_levels(norm, epsilon)
    if keeps == "length":
        if norm != "l2":
            raise UsageError(f"cipher.name '{name}' keeps Euclidean distances only; set {section}.norm=l2")
        return Ball.of_grey_levels(norm, epsilon, box=False)
    if options := record["isometry_options"]:
        raise UsageError(
            f"cipher.name '{name}' keeps distances only with other options; set "
            + ", ".join(f"cipher.{option}={value}" for option, value in options.items())
        )
    raise UsageError(
        f"cipher.name '{name}' does not keep distances between images, so epsilon would not be in plain pixels; choose "
        "a cipher that moves and inverts values, such as block_np"
    )
