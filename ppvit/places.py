"""Where a run keeps its files: one frozen object that every verb is handed.

`dvc.yaml` names the same places for DVC; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help of the command needs no pydantic
    from ppvit.config import Config


@dataclass(frozen=True)
class Places:
    """All inputs and outputs of the stages; what each is stands in its ``metadata``."""

    raw: Path = field(metadata={"what": "the data set as downloaded: plain images, for the owner only"})
    encrypted: Path = field(metadata={"what": "encrypted shards, a folder a split; what the trainer receives"})
    embedded: Path = field(metadata={"what": "weights of the embedded model, which are public"})
    adapted: Path = field(metadata={"what": "the model that adapt wrote"})
    finetuned: Path = field(metadata={"what": "what finetune wrote: an adapter, or a whole model"})
    he: Path = field(metadata={"what": "the model that homomorphic training gave"})
    results: Path = field(metadata={"what": "folder of result files, with metrics and times below it"})
    live: Path = field(metadata={"what": "metrics of every epoch, as DVCLive writes them"})
    plots: Path = field(metadata={"what": "tables of evaluate"})
    curves: Path = field(metadata={"what": "table of robustness: accuracy against epsilon"})
    pictures: Path = field(metadata={"what": "pictures that audit recovered, for the owner only"})
    page: Path = field(metadata={"what": "the report"})

    @classmethod
    def of(cls, config: Config, root: Path = Path(), **given: Path) -> Places:
        """The pipeline's own places.

        Args:
            config: ``dataset.name`` is used.
            root: the project's folder.
            given: places that are elsewhere; what lies in ``results`` moves with it.
        """
        results = given.get("results", root / "results")
        usual = cls(
            raw=root / "data/raw" / config.dataset.name,
            encrypted=root / "data/encrypted" / config.dataset.name,
            embedded=root / "models/pretrained/vit_micro_patch4_32.safetensors",
            adapted=root / "models/adapted",
            finetuned=root / "models/finetuned",
            he=root / "models/he",
            results=results,
            live=results / "live",
            plots=results / "plots",
            curves=results / "robustness",
            pictures=results / "audit",
            page=results / "report.html",
        )
        return cls(**{each.name: given.get(each.name, getattr(usual, each.name)) for each in fields(cls)})

    def result(self, stage: str) -> Path:
        """The result file of a stage."""
        return self.results / f"{stage}.json"


def what_is(place: str) -> str:
    """What a place holds, in words."""
    return str(next(each.metadata["what"] for each in fields(Places) if each.name == place))
