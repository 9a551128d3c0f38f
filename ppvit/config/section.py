"""What all sections of ``params.yaml`` have in common."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

CONTROL = r"^[^\p{Cc}]*$"  # a text without control characters
Text = Annotated[str, Field(max_length=4096, pattern=CONTROL)]
"""a name or a path: no control characters, and no longer than Linux lets a path be"""


class Section(BaseModel):
    """One section of ``params.yaml``: no unknown names, finite numbers, and no value of another type.

    Nothing is converted but a whole number where any number may stand: true is no 1, 3.0 no 3 and "3" neither. Every
    number has a lower and an upper bound, so that a slip of the hand starts no work without end.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def narrowed(self, names: set[str]) -> Self:
        """The same with all parameters but ``names`` at their defaults, and only these in ``model_fields_set``."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        narrowed: Self = type(self).model_construct(_fields_set=names, **kept)  # type: ignore[assignment]  # pydantic's Self
        return narrowed
