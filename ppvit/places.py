"""Where a run keeps its files: one frozen object that every verb is handed; and who may see them, or learn of them.

`dvc.yaml` names the same places for DVC; a test compares the two.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help of the command needs no pydantic
    from ppvit.config import Config

EMBEDDED = Path(__file__).parent / "models" / "vit_micro_patch4_32.safetensors"
"""the embedded weights as ppvit brings them; in a clone a link to the place that ``dvc.yaml`` names"""


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
    pretrained: Path = field(
        metadata={
            "what": "The model that pretrain made of the adapted one without labels.",
            "usual": "models/local/pretrained",
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


def require_untold(parameter: str, path: str, folder: str) -> None:
    """Refuse a path that tells where and what things of one's own are: it would stand in files that git carries.

    Args:
        parameter: its name.
        path: its value.
        folder: where git has ``none``, which stands for nothing of one's own, and ignores all in ``local``.

    Raises:
        UsageError: names a link that does instead.
    """
    from ppvit.core.errors import UsageError

    local = PurePosixPath(folder, "local")
    below = PurePosixPath(path)
    if path == f"{folder}/none" or (local in below.parents and ".." not in below.parts):
        return
    ending = "".join(each for each in below.suffixes[-2:] if each == ".tar" or each == below.suffix)  # tells the kind
    link = local / f"own{ending}"
    make = shlex.join(["ln", "-s", str(Path(path).absolute()), str(link)])
    raise UsageError(
        f"{parameter} {path} would stand in params.yaml, settings.json and dvc.lock, which the trainer gets; link it "
        f"under a name that tells nothing ({make}) and set {parameter}={link}"
    )


def keep_to_owner(raw: Path) -> None:
    """Take the folder above ``raw``, and DVC's cache, from all but the user, whatever modes DVC gives files in them.

    What it restores is 0644 by the usual umask, and its cache is 0444 in folders that everybody may enter. A cache that
    is shared by DVC's own settings stays as it is.
    """
    import configparser

    from ppvit.core.private import keep_private, make_private

    dvc = Path(".dvc")
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    settings.read([dvc / "config", dvc / "config.local"], encoding="utf-8")
    own_cache = dvc.is_dir() and not settings.has_option("cache", "shared")
    for folder in (raw.parent, dvc / "cache") if own_cache else (raw.parent,):
        make_private(folder)
        with suppress(PermissionError):  # somebody else's, who has decided
            keep_private([folder])
