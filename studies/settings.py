"""What a run of a study is: its images, its fine-tuning method and its seed, as a checked configuration.

A study is a folder with ``variants.yaml``: ``stages`` (the axes of its DVC stages), ``methods`` (overrides of
params.yaml, those of one size under the size's name) and ``sizes`` (overrides of all methods).
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ppvit.config import Config, load
from ppvit.core.errors import UsageError

STUDIES = Path(__file__).parent.resolve()
ROOT = STUDIES.parent
ADAPTED = "_adapted"  # ending of the names of images whose model is adapted to the key


@dataclass(frozen=True, order=True)
class Run:
    """One training run of a study.

    Attributes:
        paper: the study's folder.
        size: of ``sizes.yaml``.
        images: ``plain``, or a cipher, with the ending ``_adapted`` where the model is adapted to the key.
        method: of the study's ``variants.yaml``.
        seed: of training.
    """

    paper: str
    size: str
    images: str
    method: str
    seed: int

    @property
    def result(self) -> Path:
        """The result file, relative to this folder."""
        return Path(self.paper) / "results" / self.size / f"{self.images}-{self.method}-{self.seed}.json"

    def config(self, extra: tuple[str, ...] = ()) -> Config:
        """The configuration of the run; ``extra`` overrides come last.

        Raises:
            UsageError: an unknown name, or an environment variable that is not set.
        """
        variants = read_yaml(STUDIES / self.paper / "variants.yaml")
        if self.method not in variants["methods"] or self.size not in variants["sizes"]:
            raise UsageError(
                f"{self.paper}/variants.yaml has no size '{self.size}' or no method '{self.method}'; it has "
                f"{', '.join(variants['sizes'])} and {', '.join(variants['methods'])}"
            )
        method = variants["methods"][self.method]
        overrides = [*variants["sizes"][self.size], *method["overrides"], *method[self.size]]
        return prepared_config(self.size, self.images, (*overrides, f"finetune.seed={self.seed}", *extra))


def prepared_config(size: str, images: str, extra: tuple[str, ...] = ()) -> Config:
    """The configuration that encrypts the data of a size and adapts its model; ``extra`` overrides come last."""
    sizes = read_yaml(STUDIES / "sizes.yaml")
    if size not in sizes:
        raise UsageError(f"unknown size '{size}'; sizes.yaml has {', '.join(sizes)}")
    cipher = "none" if images == "plain" else images.removesuffix(ADAPTED)
    adapted = images == "plain" or images.endswith(ADAPTED)  # adapting to plain images only folds the normalisation
    overrides = [f"cipher.name={cipher}", f"adapt.enabled={str(adapted).lower()}"]
    return load(ROOT / "params.yaml", [*map(_expand, sizes[size]), *overrides, *extra])


def data_folder(size: str, images: str) -> Path:
    """Shards (``encrypted``) and model to train (``model``), as ``prepare.py`` writes them."""
    return STUDIES / "data" / size / images


def planned(paper: str, size: str) -> list[Run]:
    """All runs of a size, in the order of ``variants.yaml``."""
    found = []
    for axes in read_yaml(STUDIES / paper / "variants.yaml")["stages"].values():
        if size in axes["size"]:
            combinations = itertools.product(axes["images"], axes["method"], axes["seed"])
            found += [Run(paper, size, *combination) for combination in combinations]
    return found


def read_yaml(path: Path) -> Any:
    """The contents of a YAML file of ours."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _expand(override: str) -> str:
    for name in re.findall(r"\$(\w+)", override):
        if name not in os.environ:
            raise UsageError(f"set the environment variable {name}, which sizes.yaml asks for; see studies/README.md")
        override = override.replace(f"${name}", str(Path(os.environ[name]).resolve()))
    return override
