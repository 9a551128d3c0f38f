"""Search parameters of training by the validation images, with Optuna: no test image is read, and no key.

Every trial is the training of the stage ``finetune`` on the shards and the adapted model that are there, in one
process, so that files are read and libraries imported once. Trials that are worse than the median of the others after
the same epoch are stopped. What was tried is kept in the scratch folder; a search that was killed goes on, and ends
where an uninterrupted one does.

Source: Akiba et al., "Optuna", arXiv 1907.10902; the sampler is TPE (Bergstra et al., 2011), the rule that stops is
that of Golovin et al., "Google Vizier", 2017.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ppvit import __version__
from ppvit.config import Config, load
from ppvit.config.ranges import Range, Value, read_range
from ppvit.core.device import device
from ppvit.core.errors import PpvitError, UsageError, say
from ppvit.core.files import write_json
from ppvit.core.locks import sole_writer
from ppvit.core.reading import Record, read_record, sha256_of
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages
from ppvit.pipeline import STAGES
from ppvit.places import Places
from ppvit.training.endings import Abandoned, Diverged
from ppvit.training.finetuning import chosen_figure, finetune
from ppvit.training.hardware import Arithmetic

_STAGE = STAGES["finetune"]
_NOT_SEARCHED = tuple(f"finetune.{name}" for name in ("recipe", "select", "select_by", "track_test", "seed"))
_RANDOM_TRIALS = 4  # before the sampler has enough to go by; the first one is of params.yaml's own values
_WHOLE_TRIALS = 3  # before any is stopped


class Trial(Record):
    """One training.

    Attributes:
        values: of the parameters that are searched.
        curve: the figure after every epoch.
        kept: the epoch, from 1, whose weights were kept; the last where training did not end.
        ended: by its last epoch, because others were better, or because the loss was no number.
    """

    values: Annotated[dict[str, Value], Field(max_length=100)]
    curve: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(max_length=10_000)]
    kept: int = Field(ge=0, le=10_000)
    ended: Literal["trained", "stopped", "diverged"]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.kept > len(self.curve) or (self.ended == "trained" and not self.kept):
            raise ValueError(f"epoch {self.kept} of {len(self.curve)} is kept")
        return self

    @property
    def score(self) -> float:
        """The figure of the weights that are kept."""
        return self.curve[self.kept - 1]


class Trials(Record):
    """The file of a search."""

    trials: Annotated[list[Trial], Field(max_length=10_000)]


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        figure: name of what was compared.
        trials: all, in their order.
        best: the trained one with the best figure; the first of equals.
        score: its figure.
        own: the figure of the parameters as they are, where they are within the ranges.
    """

    figure: str
    trials: list[Trial]
    best: Trial
    score: float
    own: float | None


def run(params: Path | None, overrides: Sequence[str], places: Places, ranges: Sequence[str], trials: int) -> Found:
    """Search until there are so many trials, earlier ones of the same search among them.

    Args:
        params: the parameter file; None for the defaults.
        overrides: ``section.name=value`` texts on top of it.
        places: ``encrypted`` and ``adapted`` are read; nothing but scratch is written.
        ranges: ``section.name=low..high``, searched on a logarithmic scale unless low is 0, or
            ``section.name=[a, b, c]``.
        trials: at least 1.

    Raises:
        UsageError: no such parameter, none of training, or one that is not read; a range that is none.
        PpvitError: Optuna is missing; shards or model are missing or damaged; there are no validation images; every
            trial diverged.
    """
    search = _Search(params, overrides, places, ranges)
    with sole_writer(search.path.with_suffix(".search")):  # whose own lock is taken to write it
        for number in range(len(search.trials), trials):
            search.add(search.trial(number, trials))
    return search.found()


def as_overrides(trial: Trial) -> list[str]:
    """A trial's values as ``section.name=value`` texts."""
    return [f"{name}={value}" for name, value in trial.values.items()]


class _Search:
    def __init__(self, params: Path | None, overrides: Sequence[str], places: Places, ranges: Sequence[str]) -> None:
        self._optuna = _optuna()
        self._params, self._overrides, self._places = params, list(overrides), places
        own = load(params, self._overrides)
        self._ranges: dict[str, Range] = {}
        for text in ranges:
            name, among = read_range(text, _STAGE.sections, _NOT_SEARCHED)
            if name in self._ranges:
                raise UsageError(
                    f"{name} is given two ranges, {self._ranges[name].text} and {among.text}; leave one out"
                )
            self._ranges[name] = among
        for name, among in self._ranges.items():
            for value in among.ends:
                self._require_read(name, self._config({name: value}))
        self._own = {name: _value(own, name) for name in self._ranges}
        val = EncryptedImages(places.encrypted, "val")
        if not len(val):
            raise PpvitError(
                f"{val.folder} has no images, and `tune` compares by them; set dataset.val_fraction above 0, then: "
                "dvc repro encrypt"
            )
        self.figure = chosen_figure(own.finetune, val.labelling)
        train = EncryptedImages(places.encrypted, "train")
        self.path = scratch_folder() / f"tune-{self._digest(own, train, val)}.json"
        self.trials = read_record(self.path, Trials, "finetune").trials if self.path.exists() else []

    def trial(self, number: int, of: int) -> Trial:
        """Train once, with values that follow from the trials so far."""
        study = self._study(number)
        own = not number and all(among.has(self._own[name]) for name, among in self._ranges.items())
        if own:
            study.enqueue_trial(self._own)
        asked = study.ask({name: among.distribution(self._optuna) for name, among in self._ranges.items()})
        suggested = {name: among.rounded(asked.params[name]) for name, among in self._ranges.items()}
        values = self._own if own else suggested
        curve: list[float] = []

        def log(epoch: int, metrics: dict[str, float]) -> None:
            if self.figure not in metrics:
                raise PpvitError(f"{self.figure} cannot be measured on the validation images; set finetune.select_by")
            curve.append(metrics[self.figure])
            asked.report(curve[-1], epoch)
            if epoch < config.finetune.epochs and asked.should_prune():
                raise Abandoned

        config = self._config(values)
        ended: Literal["trained", "stopped", "diverged"] = "trained"
        kept = 0
        try:
            sections, places = (config.finetune, config.adversarial), self._places
            trained = finetune(*sections, places.encrypted, places.adapted, log, config.augment)
            kept = trained.values["selected_epoch"]
            trained.written()
        except Abandoned:
            ended = "stopped"
        except Diverged:
            ended = "diverged"
        tried = Trial(values=values, curve=curve, kept=kept or len(curve), ended=ended)
        say(f"tune: trial {number + 1} of {of}: {', '.join(as_overrides(tried))}: {self._end(tried)}")
        return tried

    def add(self, trial: Trial) -> None:
        """Keep a trial, for the next ones and for a search that goes on after this."""
        self.trials = [*self.trials, trial]
        write_json(self.path, {"trials": [each.model_dump() for each in self.trials]})

    def found(self) -> Found:
        trained = [trial for trial in self.trials if trial.ended == "trained"]
        if not trained:
            raise PpvitError(f"all {len(self.trials)} trials diverged; search smaller values of finetune.learning_rate")
        best = max(trained, key=lambda trial: trial.score)
        own = next((trial for trial in trained if trial.values == self._own), None)
        score = own.score if own else None
        return Found(self.figure, self.trials, best, best.score, score)

    def _study(self, number: int) -> Any:
        """Optuna's view of the trials so far; its next suggestion is a function of them, and of their number alone."""
        optuna = self._optuna
        # not the number itself: first draws from neighbouring seeds lie close together
        seed = int.from_bytes(hashlib.sha256(f"ppvit tune {number}".encode()).digest()[:4])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_WHOLE_TRIALS, n_warmup_steps=1)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        states = optuna.trial.TrialState
        for trial in self.trials:
            trained = trial.ended == "trained"
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.COMPLETE if trained else states.PRUNED,  # one that diverged is worse than any
                    value=trial.score if trained else None,
                    params=trial.values,
                    distributions={name: among.distribution(optuna) for name, among in self._ranges.items()},
                    intermediate_values=dict(enumerate(trial.curve, start=1)),
                )
            )
        return study

    def _config(self, values: dict[str, Value]) -> Config:
        """What the stage would read with these values; test images are not tracked, what is compared is measured."""
        overrides = [*self._overrides, *(f"{name}={json.dumps(value)}" for name, value in values.items())]
        whole = load(self._params, overrides)
        narrowed = _STAGE.narrowed(whole)
        # the stage reads select_by only where it chooses the epoch
        update = {"track_test": False, "select_by": whole.finetune.select_by}
        return narrowed.model_copy(update={"finetune": narrowed.finetune.model_copy(update=update)})

    def _require_read(self, name: str, config: Config) -> None:
        section, _, parameter = name.partition(".")
        if parameter not in getattr(config, section).model_fields_set:
            raise UsageError(
                f"{name} is not read with finetune.method {config.finetune.method} and the other parameters as they "
                "are; leave it out"
            )

    def _digest(self, own: Config, train: EncryptedImages, val: EncryptedImages) -> str:
        """Of all that decides the figures; the numbers that are searched stand for themselves."""
        narrowed = self._config({name: among.ends[0] for name, among in self._ranges.items()})
        decides = {
            **{section: getattr(narrowed, section).model_dump() for section in _STAGE.sections},
            "own": self._own,
            "ranges": {name: among.text for name, among in self._ranges.items()},
            "model": sha256_of(self._places.adapted / "model.safetensors"),
            "shards": [each.manifest[kind] for each in (train, val) for kind in ("shards", "view_shards")],
            "versions": [__version__, version("torch")],
            "device": device().type,
            "arithmetic": Arithmetic.of(own.finetune.precision).record(),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]

    def _end(self, trial: Trial) -> str:
        if trial.ended == "diverged":
            return "the loss is not a number"
        told = f"{self.figure} {trial.score:.4g}"
        return told if trial.ended == "trained" else f"{told}, stopped after {len(trial.curve)} epochs"


def _value(config: Config, name: str) -> Any:
    section, _, parameter = name.partition(".")
    return getattr(getattr(config, section), parameter)


def _optuna() -> ModuleType:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise PpvitError("`tune` needs Optuna; install it: pip install 'ppvit[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
