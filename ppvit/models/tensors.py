"""Tensors in safetensors files of others: exactly the expected ones are read, and nothing before that is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ppvit.core.errors import PpvitError, brief
from ppvit.core.reading import open_regular

HEADER_BYTES = 8 * 2**20  # ViT-G has 600 tensors, which take 60 kB; the library would take 100 MB
_BOUNDS = ("_min", "_max")  # what values are clipped to, as in Gemma 4: infinite where they are not
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def tensor_names(path: Path, made_by: str) -> list[str]:
    """Names of the tensors in a safetensors file; arguments and errors: see :func:`read_tensors`."""
    with _opened(path, made_by) as file:
        return list(file.keys())


def require_tensors(path: Path, expected: Mapping[str, Tensor], of_what: str, made_by: str) -> None:
    """Check names, dtypes and shapes in a file's header; arguments and errors: see :func:`read_tensors`."""
    with _opened(path, made_by) as file:
        found = set(file.keys())
        missing = next((name for name in expected if name not in found), None)
        if missing is not None:
            raise _refused(path, f"lacks '{_short(missing)}' of {of_what}", made_by)
        if more := sorted(found - expected.keys()):
            raise _refused(path, f"holds '{_short(more[0])}', which is no tensor of {of_what}", made_by)
        for name in expected:
            entry, tensor = file.get_slice(name), expected[name]
            told, shape = entry.get_dtype(), tuple(entry.get_shape())
            if shape != tuple(tensor.shape):
                sizes = f"'{_short(name)}' of shape {_sizes(shape)}, not {_sizes(tuple(tensor.shape))} as in {of_what}"
                raise _refused(path, f"holds {sizes}", made_by)
            if _DTYPES.get(told) != tensor.dtype:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise _refused(path, f"holds '{_short(name)}' as {told}, not as {kind}", made_by)


def read_tensors(path: Path, expected: Mapping[str, Tensor], of_what: str, made_by: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if they are the expected ones: by name, shape, dtype; and finite.

    Args:
        path: the file; links are followed, but never to a device or pipe.
        expected: tensors by name, of which shapes and dtypes count; they may be on the meta device.
        of_what: whose tensors they are, named in errors.
        made_by: the stage that writes the file, named in errors.

    Returns:
        Tensors on the CPU, in memory of their own, in the order of ``expected``.

    Raises:
        PpvitError: missing or unreadable; a tensor is missing, unexpected, of another shape or dtype, or not finite.
    """
    require_tensors(path, expected, of_what, made_by)
    return _read(path, list(expected), made_by)


def read_some(path: Path, names: list[str], made_by: str) -> dict[str, Tensor]:
    """Named tensors of a file that :func:`require_tensors` has checked; arguments and errors: as there."""
    return _read(path, names, made_by)


def _read(path: Path, names: list[str], made_by: str) -> dict[str, Tensor]:
    tensors = {}
    with _opened(path, made_by) as file:
        for name in names:
            tensor = file.get_tensor(name).clone()  # what the library returns is the file itself, mapped
            if not tensor.isfinite().all() and (tensor.isnan().any() or not name.endswith(_BOUNDS)):
                raise _refused(path, f"holds values that are no numbers in '{_short(name)}'", made_by)
            tensors[name] = tensor
    return tensors


def _opened(path: Path, made_by: str) -> Any:
    """``safetensors.safe_open`` on a regular file whose header is of a sane size."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
        if length > HEADER_BYTES:
            raise _refused(path, f"says that its list of tensors takes {length:,} bytes", made_by)
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise PpvitError(f"{path} is missing; run the stage that writes it: dvc repro {made_by}") from None
    except SafetensorError as error:
        raise PpvitError(
            f"{path} cannot be read ({brief(error)}); make it again: dvc repro --force {made_by}"
        ) from None


def _refused(path: Path, why: str, made_by: str) -> PpvitError:
    return PpvitError(f"{path} {why}; make it again: dvc repro --force {made_by}")


def _short(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "..."


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[:6])) or "no size"
