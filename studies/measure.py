"""Measuring one variant of a study: stages of the pipeline, one after another, in a folder that is thrown away.

Each stage runs in a process of its own, forked from one that has imported the libraries, so that peak memory and CPU
time are its own.
"""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from study import ROOT, Variant

from ppvit.config import NO_MODEL, Config
from ppvit.core.files import as_json
from ppvit.core.reading import read_json, sha256_of
from ppvit.core.results import environment, read_times
from ppvit.pipeline import STAGES
from ppvit.places import Places

OF_TRAINING = (
    "train_loss",
    "trainable_parameters",
    "adapter_bytes",
    "peak_memory_bytes",
    "images_per_second",
    "wall_seconds",
    "cpu_seconds",
)
IMPORTED = [f"ppvit.verbs.{stage}" for stage in ("encrypt", "adapt", "finetune", "evaluate", "robustness", "audit")]


class Run:
    """A variant under way.

    Attributes:
        variant: what is run.
        config: its parameters.
        places: in a folder for this run alone, but for the raw data and the embedded weights.
    """

    def __init__(self, variant: Variant, folder: Path, extra: tuple[str, ...] = ()) -> None:
        self.variant, self._folder, self._extra = variant, folder, extra
        self.config = variant.local_config(extra)
        raw = variant.study.folder.parent / "data" / variant["size"] / variant.axes.get("task", "") / "raw"
        embedded = Places.of(self.config, ROOT).embedded
        self.places = Places.of(self.config, folder, raw=raw, embedded=embedded)

    def changed(self, *overrides: str) -> Config:
        """Its parameters with others in place of some."""
        return self.variant.local_config((*self._extra, *overrides))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's value, computed in a process of its own, in the root folder."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with ProcessPoolExecutor(1, mp_context=context, initializer=_enter, initargs=(self._folder,)) as pool:
            return pool.submit(function, *arguments).result()

    def stage(self, name: str, config: Config | None = None, **places: Path) -> dict[str, Any]:
        """Run a stage; returns its result, times, memory, and ``cpu_seconds``, which other work hardly changes."""
        return self.call(_stage, name, config or self.config, replace(self.places, **places))

    def encrypt(self) -> None:
        """Encrypt, or take the shards that another variant of the size left: the same images under the same cipher."""
        decides = STAGES["encrypt"].narrowed(self.config).model_dump_json(exclude_unset=True)
        digest = hashlib.sha256(f"{decides} {self.data_id()}".encode()).hexdigest()[:16]
        self.places = replace(self.places, encrypted=self.places.raw.parent / "encrypted" / digest)
        if not self.places.encrypted.exists():  # whole or absent
            self.stage("encrypt")

    def images(self, split: str) -> int:
        """How many images there are."""
        return read_json(self.places.encrypted / split / "manifest.json", "encrypt")["count"]

    def data_id(self) -> str:
        """Names the images and weights that it starts from, by 16 hex digits. What is missing is fetched or made."""
        self.variant.study.own("prepare", "prepare", dict)(self.variant.axes)
        if not (self.places.raw / "dataset.json").exists():
            self.stage("download")
        checkpoint = self.config.model.checkpoint
        weights = self.places.embedded if checkpoint == NO_MODEL else ROOT / checkpoint
        both = _images_sha256(self.places.raw / "dataset.json") + _sha256(weights)
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    def is_current(self) -> bool:
        """Whether there is a result that was made with this method, these settings and these data."""
        if not self.variant.path.exists():
            return False
        result = read_json(self.variant.path, self.variant.study.name)
        return not self.variant.outdated(result) and result["data_id"] == self.data_id()

    def result(self) -> dict[str, Any]:
        """Measure: the figures of the variant, and what they were made with."""
        made = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "load_average": round(os.getloadavg()[0], 1),
            "method_number": self.variant.study.method_number,
            "settings": "; ".join(f"{name}={value}" for name, value in self.variant.settings(self._extra).items()),
            "data_id": self.data_id(),
        }
        if not _environment:  # once: the first result that is written makes the working tree another one
            _environment.update(self.call(environment))
        figures = self.variant.study.own("figures", "figures", trained_and_tested)(self)
        return {**figures, **_environment, **made}


_environment: dict[str, str] = {}


def trained_and_tested(run: Run) -> dict[str, Any]:
    """The usual figures: accuracy, and the cost of fine-tuning alone."""
    run.encrypt()
    run.stage("adapt")
    trained, tested = run.stage("finetune"), run.stage("evaluate")
    figures = {name: tested[name] for name in ("accuracy_percent", "cross_entropy")}
    figures |= {name: trained[name] for name in OF_TRAINING}
    curves = [f"{split}_{figure}" for split in ("train", "val", "test") for figure in ("loss", "accuracy_percent")]
    return figures | {f"{name}_by_epoch": by_epoch(run, name) for name in curves if is_measured(run, name)}


def is_measured(run: Run, metric: str) -> bool:
    """Whether fine-tuning has measured it: there may be no validation images, and test images are not tracked."""
    return _curve(run, metric).exists()


def _curve(run: Run, metric: str) -> Path:
    return run.places.live / "plots" / "metrics" / f"{metric}.tsv"


def by_epoch(run: Run, metric: str) -> list[float]:
    """A metric of fine-tuning, a value an epoch."""
    with open(_curve(run, metric), encoding="utf-8") as file:
        return [float(row[metric]) for row in csv.DictReader(file, delimiter="\t")]


def _enter(folder: Path) -> None:
    os.chdir(ROOT)  # where relative paths of parameters start
    os.environ["PPVIT_SCRATCH"] = str(folder / "scratch")  # what a killed run left would make time and speed wrong


def _stage(name: str, config: Config, places: Places) -> dict[str, Any]:
    started = time.process_time()
    STAGES[name].run(config, places)
    seconds = round(time.process_time() - started, 3)
    path = places.result(name)
    found = {**read_json(path, name), **read_times(path)} if path.exists() else {}
    return {**found, "cpu_seconds": seconds}


@functools.cache
def _sha256(path: Path) -> str:
    return sha256_of(path)


def _images_sha256(description: Path) -> str:
    """Of what says which images there are; the SHA-256 that the whole file had before it told of checks."""
    told = read_json(description, "download")
    kept = {name: value for name, value in told.items() if name not in ("wide", "checks")}
    return hashlib.sha256(as_json(kept).encode()).hexdigest()
