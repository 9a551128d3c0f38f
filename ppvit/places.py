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
    """All inputs and outputs of the stages; ``metadata`` says what each is and where the pipeline keeps it."""

    raw: Path = field(
        metadata={
            "what": "The data set as downloaded: plain images, for the owner only.",
            "usual": "data/raw/{dataset}",
        }
    )
    encrypted: Path = field(
        metadata={
            "what": "Encrypted shards, a folder a split: what the trainer receives.",
            "usual": "data/encrypted/{dataset}",
        }
    )
    embedded: Path = field(
        metadata={
            "what": "Weights of the embedded model, which are public.",
            "usual": "models/pretrained/vit_micro_patch4_32.safetensors",
        }
    )
    adapted: Path = field(metadata={"what": "The model that adapt wrote.", "usual": "models/adapted"})
    finetuned: Path = field(
        metadata={"what": "What finetune wrote: an adapter, or a whole model.", "usual": "models/finetuned"}
    )
    he: Path = field(metadata={"what": "The model that homomorphic training gave.", "usual": "models/he"})
    results: Path = field(
        metadata={"what": "Folder of result files, with metrics and times below it.", "usual": "results"}
    )
    live: Path = field(metadata={"what": "Metrics of every epoch, as DVCLive writes them.", "usual": "{results}/live"})
    plots: Path = field(metadata={"what": "Tables of evaluate.", "usual": "{results}/plots"})
    curves: Path = field(
        metadata={"what": "Table of robustness: accuracy against epsilon.", "usual": "{results}/robustness"}
    )
    pictures: Path = field(
        metadata={"what": "Pictures that audit recovered, for the owner only.", "usual": "{results}/audit"}
    )
    page: Path = field(metadata={"what": "The report.", "usual": "{results}/report.html"})

    @classmethod
    def of(cls, config: Config, root: Path = Path(), **given: Path) -> Places:
        """The pipeline's own places.

        Args:
            config: ``dataset.name`` is used.
            root: the project's folder.
            given: places that are elsewhere; what lies in ``results`` moves with it.
        """
        results = given.get("results", root / "results")
        named = {"dataset": config.dataset.name, "results": results.as_posix()}
        usual = {
            each.name: Path(each.metadata["usual"].format(**named))
            if each.metadata["usual"].startswith("{results}")
            else root / each.metadata["usual"].format(**named)
            for each in fields(cls)
        }
        return cls(**{**usual, **given})

    def result(self, stage: str) -> Path:
        """The result file of a stage."""
        return self.results / f"{stage}.json"


def help_of(place: str) -> str:
    """What a place holds and where the pipeline keeps it, for the help of an option."""
    metadata = next(each.metadata for each in fields(Places) if each.name == place)
    usual = metadata["usual"].format(dataset="<dataset.name>", results="results")
    return f"{metadata['what']}  [default: {usual}]"
