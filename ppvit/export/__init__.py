"""Export of a finished run as a folder for the Hugging Face Hub: weights, a card that says what they are, nothing else.

Neither key nor plain image is needed or looked for, so owner and trainer can both export. Tensors that reveal the key
stay behind unless they are asked for.
"""

from __future__ import annotations

from pathlib import Path

from ppvit.config import Config
from ppvit.core.errors import UsageError
from ppvit.core.files import atomic_output, write_json
from ppvit.export.card import model_card, require_licence
from ppvit.export.finished import read_finished
from ppvit.export.names import CARD, FILES, RECORD
from ppvit.export.weights import write_weights
from ppvit.places import Places

__all__ = ["export"]


def export(
    config: Config,
    places: Places,
    out: Path,
    *,
    as_lora: bool = False,
    with_key_material: bool = False,
    force: bool = False,
    licence: str | None = None,
) -> list[str]:
    """Write the folder, whole or not at all; same run, same bytes.

    Args:
        config: all of params.yaml, which must be that of the run.
        places: ``encrypted`` (only the manifests), ``adapted``, ``finetuned`` and ``results`` are read; those of
            `finetune` and `evaluate` must be there.
        out: the folder to write.
        as_lora: write the adapter as stock LoRA, where that is exact.
        with_key_material: export tensors that reveal the key as well.
        force: replace an earlier export.
        licence: for the card, as the Hub names it, such as apache-2.0; by default that of the base model.

    Returns:
        Names of the exported tensors that reveal the key.

    Raises:
        UsageError: ``out`` is in use; no name of a licence; tensors that reveal the key; the method is no LoRA.
        PpvitError: a file is missing or damaged, or the files are not of one run.
    """
    out = out.resolve()
    _require_free(out, force, (places.adapted, places.finetuned))
    if licence is not None:
        require_licence(licence)
    finished = read_finished(config, places)
    with atomic_output(out, known_by=RECORD) as folder:
        weights = write_weights(folder, finished, places.adapted, places.finetuned, as_lora)
        if weights.revealing and not with_key_material:
            raise UsageError(
                f"these tensors reveal the key to whoever has the public checkpoint: {_listed(weights.revealing)}; "
                "export them with --with-key-material, or train without them (finetune.method, target_modules)"
            )
        record = {**finished.record, "model": finished.base["model"], "adapted": finished.base["adapted"]}
        write_json(folder / RECORD, record)
        (folder / CARD).write_text(model_card(finished, weights, licence), encoding="utf-8")
    return weights.revealing


def _require_free(out: Path, force: bool, inputs: tuple[Path, ...]) -> None:
    """Refuse to write over anything but an earlier export."""
    for folder in inputs:
        if out.is_relative_to(folder.resolve()):
            raise UsageError(f"{out} is in {folder}, which the pipeline keeps; choose another folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; choose a folder")
    found = sorted(path.name for path in out.iterdir())
    ours = (RECORD, CARD, *FILES) if RECORD in found else ()  # a README.md alone is anybody's
    foreign = [name for name in found if name not in ours]
    if foreign:
        raise UsageError(f"{out} holds '{foreign[0]}', which no export wrote; choose another folder")
    if found and not force:
        raise UsageError(f"{out} is not empty; choose another folder, or replace it with --force")


def _listed(names: list[str]) -> str:
    shown = names[:4]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
