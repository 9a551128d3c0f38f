"""Changes by which contrastive pre-training makes several pictures of one, as published for images of 32 pixels.

Sources: BYOL and SimCLR as solo-learn trains them on CIFAR (da Costa et al., arXiv 2106.01775, its public settings);
ACL, Jiang et al., arXiv 2010.13337, public code; the strength of DynACL, Luo et al., ICLR 2023, public code. Papers of
AdvCL do not say how views are drawn where we could read; it has those of ACL here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

FLIPPED = 0.5  # share of the views that are mirrored
SOLARIZED_FROM = 128  # grey levels from here on are inverted


@dataclass(frozen=True)
class Contrast:
    """How views are drawn.

    Attributes:
        smallest: share of the picture's area that a part shows at least; at most all of it, sides up to 4 : 3.
        colour: brightness, contrast, saturation and hue of torchvision's ColorJitter.
        coloured, grey: shares of the views whose colours change, and that lose them.
        blurred: share of the views that are blurred, with a deviation of 0.1 to 2 pixels.
        solarized: share of the first and of the second views whose bright pixels are inverted.
    """

    smallest: float
    colour: tuple[float, float, float, float]
    coloured: float = 0.8
    grey: float = 0.2
    blurred: float = 0.0
    solarized: tuple[float, float] = (0.0, 0.0)

    def at(self, strength: float) -> Contrast:
        """Weaker ones, as DynACL has them: colours, their shares and the cut times ``strength``, 0 .. 1."""
        colour = tuple(strength * each for each in self.colour)
        return Contrast(
            1 - (1 - self.smallest) * strength,
            colour,  # type: ignore[arg-type]  # as many as before
            strength * self.coloured,
            strength * self.grey,
            self.blurred,
            self.solarized,
        )

    def changes(self, view: int = 0) -> Any:
        """What is done to a part that was cut out: a transform of torchvision, from Pillow image to Pillow image.

        Args:
            view: 0 or 1, the first or the second of two.
        """
        from torchvision.transforms import v2

        chain = [
            v2.RandomHorizontalFlip(FLIPPED),
            v2.RandomApply([v2.ColorJitter(*self.colour)], self.coloured),
            v2.RandomGrayscale(self.grey),
        ]
        if self.blurred:
            chain.append(v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], self.blurred))
        if self.solarized[view]:
            chain.append(v2.RandomSolarize(SOLARIZED_FROM, self.solarized[view]))
        return v2.Compose(chain)

    def draw(self, picture: Image.Image, view: int = 0) -> Image.Image:
        """A view of a square picture, of its size, drawn by torch's global generator."""
        from torchvision.transforms import v2

        cut = v2.RandomResizedCrop(picture.height, (self.smallest, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        drawn: Image.Image = self.changes(view)(cut(picture))
        return drawn


_ACL = Contrast(0.1, (0.4, 0.4, 0.4, 0.1))
CONTRASTS = {
    "byol": Contrast(0.08, (0.4, 0.4, 0.2, 0.1), solarized=(0.0, 0.2)),
    "simclr": Contrast(0.08, (0.8, 0.8, 0.8, 0.2), blurred=0.5),
    "acl": _ACL,
    "dynacl": _ACL,
    "advcl": _ACL,
}
OWNERS = Contrast(0.08, (0.4, 0.4, 0.2, 0.1), solarized=(0.1, 0.1))
"""BYOL's, drawn by the owner: any two views are a pair, so that each is inverted half as often"""
