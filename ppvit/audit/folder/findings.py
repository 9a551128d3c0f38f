"""What was found out about the pictures of a folder, in sentences that say no more than is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ppvit.audit.folder.attempts import WHOLE, Attempt, left_out
from ppvit.audit.folder.colours import ColourOrder
from ppvit.audit.folder.reading import Pictures
from ppvit.audit.folder.structure import Structure

_SEEN = 32  # pixels of a side from which on a block that is as it was shows what is in it
_NO_PROOF = "That is no proof of security."


@dataclass
class Findings:
    """What was found out about pictures of one size.

    Attributes:
        pictures: which.
        lossy: number of those looked at that were stored with loss.
        unseen: the side of the blocks was given, and nothing in the pictures tells that there are any.
        values: for ``audit.json``.
        told: lines for the terminal.
        best: the attack that made pictures of them, if any.
        inside: order of the pixels inside blocks, 0 .. 1, where no attack did.
        value_range: of values above 8 bits.
    """

    pictures: Pictures
    lossy: int
    unseen: bool
    values: dict[str, Any]
    value_range: tuple[float, float]
    told: list[str] = field(default_factory=list)
    best: Attempt | None = None
    inside: float = 0.0


def what(group: Pictures, structure: Structure, guessed: bool, lossy: int) -> str:
    """The pictures, their blocks, and what damaged them."""
    told = f"{len(group.paths)} picture{'s' * (len(group.paths) > 1)}, {group.width} x {group.height} px"
    if structure.kind == "blocks":
        sure = f" (guessed, {100 * structure.confidence:.0f} % sure)" if guessed else ""
        told += f", blocks of {structure.block_size} px{sure}"
        if guessed and structure.others:
            told += f", perhaps {' or '.join(map(str, structure.others))}"
    if lossy:  # as pictures come from social networks
        damaged = "" if structure.kind == "plain" else ", which damaged the ciphertext and may hide what leaks"
        told += f"; {lossy} of them {'is' if lossy == 1 else 'are'} JPEG or as lossy{damaged}"
    return told


def verdict(found: Findings, structure: Structure, order: ColourOrder | None) -> str:
    """Whether the pictures are encrypted, whether that is broken, and what stays open."""
    if structure.kind == "plain":
        return "Not encrypted, by the look of it: the pictures are smooth or drawn, with no borders of blocks in them."
    if structure.kind == "small":
        return "Too small to tell: fewer than 8 pixels a side show neither pictures nor blocks."
    if structure.kind == "noise":
        return (
            "No structure found: neither blocks nor pixels that are alike, as in noise or under a strong cipher. "
            f"{_NO_PROOF}"
        )
    if found.best is None:
        return _nothing_made(found, structure)
    name = found.best.attack
    if found.lossy and found.unseen:  # what JPEG of low quality makes of noise is smooth, and an attack collects that
        told = (
            f"Perhaps broken: {name} made something smooth of them, but so it does of noise that was stored with loss."
        )
    else:
        told = f"Broken, by the look of it: {name} made something like pictures of them."
    return f"{told} {_about_colours(order, found.best.negative_free)}" if order is not None else told


def _nothing_made(found: Findings, structure: Structure) -> str:
    side, square = structure.block_size, found.pictures.width == found.pictures.height
    blocks = structure.kind == "blocks"
    if blocks and found.inside >= WHOLE and side >= _SEEN:
        told = f"Hardly encrypted, if at all: all is in order in blocks of {side} px, as in plain pictures side by side"
        return f"{told}." if square else f"{told}. They were not put together: the attacks need square pictures."
    if not square:
        return "Encrypted in blocks, by the look of it, and not attacked: the attacks need square pictures."
    told = f"Nothing found: none of these attacks made anything like a picture. {_NO_PROOF}"
    return f"{told} {left_out(found.pictures.width, side)}".rstrip() if blocks else told


def _about_colours(order: ColourOrder, negative_free: bool) -> str:
    if order.grey:
        return (
            "They are grey: which of three equal values was red, green or blue cannot be told and changes nothing, so "
            "the key is one of many that decrypt alike."
        )
    free = "flips and a negative of all of them cannot be told" if negative_free else "flips of all of them are free"
    if order.confidence == 0:
        return f"The order of their colours cannot be told, since there is hardly any colour; {free}."
    if negative_free:
        return f"Green is found ({100 * order.green:.0f} % sure); red and blue change places with the negative; {free}."
    return f"Red, green and blue are found as most pictures have them ({100 * order.confidence:.0f} % sure); {free}."
