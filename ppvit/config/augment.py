"""Parameters of augmentation on ciphertext."""

from __future__ import annotations

from pydantic import Field, model_validator

from ppvit.config.section import Section, Text


class Augment(Section):
    """changes of encrypted training images at the trainer; docs/augmentation.md says which go with a cipher"""

    names: list[Text] = Field([], max_length=20)
    """which, in their order; `ppvit list augmentations` names all; of several that mix images a pair takes one"""
    mixup_alpha: float = Field(0.2, gt=0, le=1e6)
    """mixup: the share of an image in its mixture with another is Beta(alpha, alpha) distributed"""
    cutmix_alpha: float = Field(1.0, gt=0, le=1e6)
    """cutmix_blocks: so is the share of the blocks that an image keeps"""
    erase_fraction: float = Field(0.25, gt=0, lt=1)
    """erase_blocks: largest share of the blocks that become mid-grey"""
    erase_probability: float = Field(0.5, gt=0, le=1)
    """erase_blocks: share of the images in which any do"""
    contrast: float = Field(0.4, gt=0, lt=1)
    """contrast: distances from mid-grey are multiplied by 1 - contrast to 1 + contrast"""
    brightness: float = Field(0.1, gt=0, le=1)
    """brightness: largest shift up or down, as a share of the range from black to white"""
    drop_fraction: float = Field(0.25, gt=0, lt=1)
    """drop_tokens: share of the patches that the network does not see in a step; more is faster"""

    @model_validator(mode="after")
    def _once_each(self) -> Augment:
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"augment.names has '{name}' twice; name it once")
        return self
