"""``settings.json``: what every stage reads of ``params.yaml``, for DVC to track."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.pipeline import STAGES

if TYPE_CHECKING:  # the help of the command needs no pydantic
    from ppvit.config import Config

SETTINGS = Path("settings.json")
_LOCK_BYTES = 2**24


def write_settings(config: Config, path: Path = SETTINGS) -> None:
    """Write what every stage reads, for DVC to track: a value that nothing reads is not in it and reruns nothing.

    Args:
        config: all parameters.
        path: a JSON file: stage, section, parameter.

    Raises:
        UsageError: a name of a cipher, method, attack or data set that there is not; a path that git would carry to the
            trainer, or where there is nothing; choices that the data set does not have; values that do not go together.
    """
    from ppvit.config import NO_DATA, NO_MODEL
    from ppvit.config.fitting import refusals_to_come, require_encryptable, without_effect
    from ppvit.core.errors import PpvitError, say
    from ppvit.core.files import write_json
    from ppvit.core.git import require_commit
    from ppvit.datasets import require_choices
    from ppvit.datasets.local import own_data
    from ppvit.places import require_untold

    require_untold("dataset.path", config.dataset.path, "data")
    require_untold("model.checkpoint", config.model.checkpoint, "models")
    require_choices(config.dataset)
    _require_there("dataset.path", config.dataset.path, NO_DATA)
    if Path(config.dataset.path).exists():
        own_data(Path(config.dataset.path))
    _require_there("model.checkpoint", config.model.checkpoint, NO_MODEL)
    require_encryptable(config)
    for line in without_effect(config):
        say(f"note: {line}")
    for line in refusals_to_come(config):
        say(f"note: these values will stop a later stage, {line}")
    try:
        require_commit()
    except PpvitError as error:
        say(f"note: finetune will stop: {error}")
    write_json(path, settings_of(config))


def settings_of(config: Config) -> dict[str, dict[str, Any]]:
    """What every stage reads: stage, section, parameter, value."""
    read = {name: stage.narrowed(config).model_dump(mode="json", exclude_unset=True) for name, stage in STAGES.items()}
    # the report prints what all stages read: it depends on the whole file, where that need not stand twice
    read["report"] = {"report": read["report"]["report"]}
    return read


def _require_there(parameter: str, path: str, default: str) -> None:
    """Refuse a path that does not exist, before DVC deletes what it would replace.

    A trainer has not the files of the owner, and an owner not all for ever: paths that ``dvc.lock`` names are taken.
    """
    from ppvit.core.errors import UsageError
    from ppvit.core.reading import read_bounded

    if path == default or Path(path).exists():
        return
    lock = Path("dvc.lock")
    if not lock.is_file() or f"path: {path}\n" not in read_bounded(lock, _LOCK_BYTES).decode("utf-8", "replace"):
        raise UsageError(f"{parameter}: {path} does not exist; correct it, or set it back to {default}")
