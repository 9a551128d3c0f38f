"""Where the pipeline keeps its files, relative to the project's folder: the one list for stages and command line.

Library code takes explicit paths and does not import this module.
"""

from __future__ import annotations

from pathlib import Path

from ppvit.config import Config

PRETRAINED = Path("models/pretrained/vit_micro_patch4_32.safetensors")
ADAPTED = Path("models/adapted")
FINETUNED = Path("models/finetuned")
HE = Path("models/he")
RESULTS = Path("results")
LIVE = RESULTS / "live"  # metrics of every epoch, as DVCLive writes them
PLOTS = RESULTS / "plots"
PICTURES = RESULTS / "audit"
REPORT = RESULTS / "report.html"
CIPHER_STUDY = Path("studies/ciphers/ciphers.json")  # in git


def raw(config: Config) -> Path:
    """The data set as downloaded: plain images, for the owner only."""
    return Path("data/raw") / config.dataset.name


def encrypted(config: Config) -> Path:
    """The encrypted shards, which the trainer receives."""
    return Path("data/encrypted") / config.dataset.name


def result(stage: str) -> Path:
    """The result file of a stage."""
    return RESULTS / f"{stage}.json"
