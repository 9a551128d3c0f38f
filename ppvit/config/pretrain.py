"""Parameters of pre-training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppvit.config.section import Section

PretrainMethod = Literal["supervised", "byol", "simclr", "acl", "dynacl", "advcl"]
ATTACKED = ("acl", "dynacl", "advcl")  # which pre-train against an attack


class Pretrain(Section):
    """of the model that comes with ppvit, or of any without labels; dvc repro leaves it out: its weights are in git"""

    method: PretrainMethod = "supervised"
    """supervised: the model that comes with ppvit, on glyphs; others: the adapted model, on encrypted images"""
    steps: int = Field(3000, ge=1, le=10_000_000)
    """supervised: optimiser steps; the time of the stage is proportional to them"""
    epochs: int = Field(100, ge=1, le=100_000)
    """without labels: passes over the images; published are 1000"""
    batch_size: int = Field(64, ge=2, le=65_536)
    """rendered glyphs, or images without labels, in a step"""
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """without labels: lars is the published one, for large batches and ResNets, with learning rates near 1"""
    learning_rate: float = Field(5e-3, gt=0, le=1000)
    """peak of the cosine schedule; supervised: the same for Muon (matrices of the blocks) and AdamW (the rest)"""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """without labels: share of all steps over which the learning rate rises from zero"""
    weight_decay: float = Field(0.05, ge=0, le=1000)
    """weight decay on matrices: decoupled with adamw and supervised, else L2"""
    hidden: int = Field(512, ge=1, le=65_536)
    """without labels: width of hidden layers of projector and predictor; published are 4096 (byol), 2048, 512 (acl)"""
    projection: int = Field(128, ge=1, le=65_536)
    """without labels: width of what is compared; published are 256 (byol, simclr), 512 (acl), 128 (advcl)"""
    temperature: float = Field(0.5, ge=0.01, le=100)
    """of the contrastive losses, all but byol; published are 0.2 (simclr) and 0.5"""
    momentum: float = Field(0.99, ge=0, lt=1)
    """share of the slow network that a step keeps; byol: at the start, it rises to 1; dynacl: always"""
    pseudo_weight: float = Field(0.2, ge=0, le=1000)
    """advcl: weight of the cross-entropy on pseudo-labels"""
    probe_epochs: int = Field(10, ge=1, le=100_000)
    """without labels: epochs between two measurements of nearest neighbours and a linear classifier on its features"""
    patch_drop: float = Field(0.25, ge=0, lt=1)
    """supervised: share of the patches hidden from the model in each step; more is faster and regularises more"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides initial weights, hidden patches, every rendered glyph, and the views of images"""

    @property
    def attacked(self) -> bool:
        """Whether the method trains against an attack, that of the section ``adversarial``."""
        return self.method in ATTACKED
