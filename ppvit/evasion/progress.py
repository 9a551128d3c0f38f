"""What a killed evaluation has found so far: every batch of every attack is written down as soon as it is done.

The state file of `pyautoattack` 0.2.0 cannot be read back (its sets return as text), and resuming from it would form
other batches, hence other random starts. Here a batch is a unit that depends on nothing but its images and the seed, so
a resumed evaluation gives exactly what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ppvit.core.files import write_json
from ppvit.core.progress import tqdm
from ppvit.core.sharing import by_all, from_main, is_main
from ppvit.evasion.cascade import Finds, Remember, under


class Progress:
    """Findings of one evaluation, on disk.

    Args:
        stage: ``robustness`` or ``threats``.
        determines: everything that the result depends on, beside the versions of packages; equal values share findings,
            and a run that was changed in any way starts anew.
        folder: see :func:`ppvit.core.scratch.scratch_folder`.
        passes: forward passes of an image that all will take, for a progress bar; None shows none.
    """

    def __init__(self, stage: str, determines: dict[str, Any], folder: Path, passes: float | None = None) -> None:
        quiet = passes is None or not is_main()
        self._bar = tqdm(total=round(passes or 0), desc=stage, unit="pass", disable=quiet, file=sys.stderr)
        determines = {**determines, "versions": _versions()}
        digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
        self._path = folder / f"{stage}-{digest[:32]}.json"
        self._found: dict[str, list[bool]] = from_main(_read(self._path))

    def remember(self, finds: Finds) -> list[list[bool]]:
        """What each found under its name before, or finds now."""

        def known(own: Iterable[tuple[str, Callable[[], list[bool]]]]) -> Iterator[list[bool]]:
            return (self._found.get(name) or find() for name, find in own)

        for name, found in zip(finds, by_all(list(finds.items()), known), strict=True):
            if name not in self._found:
                self._found[name] = found
                if is_main():
                    write_json(self._path, self._found)
        return [self._found[name] for name in finds]

    def watch(self, model: nn.Module) -> None:
        """Let the bar follow what the model computes; a pass of which a gradient is taken counts twice."""

        def count(_: nn.Module, inputs: tuple[Tensor, ...], __: object) -> None:
            self._bar.update(len(inputs[0]) * (2 if inputs[0].requires_grad else 1))

        model.register_forward_hook(count)

    def under(self, prefix: str) -> Remember:
        """:meth:`remember` with names of their own for one of several attackers."""
        return under(prefix, self.remember)

    def remove(self) -> None:
        """Forget everything once the result is written."""
        self._bar.close()
        self._path.unlink(missing_ok=True)


def _versions() -> list[str]:
    found = []
    for package in ("ppvit", "torch", "timm", "peft", "pyautoattack"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _read(path: Path) -> dict[str, list[bool]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        usable = all(isinstance(each, bool) for batch in found.values() for each in batch)
    except (OSError, ValueError, AttributeError, TypeError):  # nothing there, or nothing that can be used
        return {}
    return found if usable else {}
