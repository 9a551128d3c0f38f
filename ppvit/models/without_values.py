"""Networks without values: names, shapes and dtypes, on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# what initialisation is made of; each gives values to a tensor in place and changes nothing else
_GIVES_VALUES = {
    *("zero_", "fill_", "constant_", "uniform_", "normal_", "kaiming_uniform_"),
    *("add_", "mul_", "div_", "erfinv_", "clamp_"),
}


class _NoInitialisation(TorchFunctionMode):
    """Leaves tensors on the meta device as they are where they would be given values, which there are none.

    torch goes through each such call in Python: for a ViT-Ti they are three quarters of the time of building it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _GIVES_VALUES and args:
            tensor, *others = args
            by_numbers = not any(isinstance(each, Tensor) for each in (*others, *kwargs.values()))
            if by_numbers and isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """What is built here is on the meta device: it takes no memory, whatever its size, and is not initialised."""
    with torch.device("meta"), _NoInitialisation():
        yield
