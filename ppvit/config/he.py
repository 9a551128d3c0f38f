"""Parameters of homomorphic training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ppvit.config.section import Auto, AutoOr, Section

# most iterations of the published algorithm at 128 bits of security, in either layout
_MOST = {"volley_revolver": 3, "diagonals": 6}
# what it does not have: there is no other value than these
_PUBLISHED: dict[str, Any] = {"components": 0, "batch_images": 0, "mode": "levelled", "loss": "sigmoid", "l2": 0.0}


class He(Section):
    """homomorphic training of a linear head: features and labels are encrypted with CKKS, which has a security proof"""

    algorithm: Literal["tiles", "volley_revolver", "diagonals"] = "tiles"
    """tiles: our own, whitened features; volley_revolver: Chiang 2023, raw features, slow; diagonals: the same, fast"""
    features: Literal["backbone", "pixels", "grey"] = "backbone"
    """what is encrypted: the features of model.name on plain images, the pixels themselves, or their grey values"""
    train_images: Annotated[int | Auto, AutoOr(8, 1_000_000)] = "auto"
    """training images that are encrypted, at most; upload, memory, time grow; auto: 1024, or 256 above 64 px"""
    batch_images: int = Field(0, ge=0, le=1_000_000)
    """images in an iteration, where all at once need too much memory; 0 takes all"""
    components: int = Field(0, ge=0, le=8192)
    """principal components that are kept; 0 takes min(63, train_images / 2, features); published ones: 0 only"""
    mode: Literal["levelled", "refresh"] = "levelled"
    """levelled: no help by the owner, 1 to 5 iterations or a few more; refresh: the owner re-encrypts the weights"""
    iterations: int = Field(2, ge=1, le=1000)
    """steps of accelerated gradient ascent"""
    patience: int = Field(0, ge=0, le=1000)
    """refresh only: the owner stops training after so many steps that help no validation image more; 0 never stops"""
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    """sigmoid: a cubic for each class; softmax: a parabola, better with many classes and 4 or more iterations"""
    learning_rate: float = Field(4.0, gt=0, le=1e6)
    """tiles: step along the mean gradient; `he encrypt` warns of scores beyond 12 (softmax: 8), refuses divergence"""
    l2: float = Field(0.0, ge=0, le=1e6)
    """weight decay: this multiple of the weights goes into the gradient; keeps scores small"""

    @model_validator(mode="after")
    def _published_as_published(self) -> He:
        if self.algorithm in _MOST:
            for name, only in _PUBLISHED.items():
                if getattr(self, name) != only:
                    raise ValueError(
                        f"he.{name} {getattr(self, name)}: he.algorithm={self.algorithm} takes {only} alone; set "
                        f"he.{name}={only} or he.algorithm=tiles"
                    )
            if self.iterations > _MOST[self.algorithm]:
                raise ValueError(
                    f"he.iterations {self.iterations}: he.algorithm={self.algorithm} takes {_MOST[self.algorithm]} at "
                    f"most at 128 bits of security; set he.iterations={_MOST[self.algorithm]} or he.algorithm=tiles"
                )
        if self.patience and self.mode == "levelled":
            raise ValueError(
                f"he.patience {self.patience}: with he.mode=levelled nobody sees the weights before the end; set "
                "he.mode=refresh or he.patience=0"
            )
        return self
