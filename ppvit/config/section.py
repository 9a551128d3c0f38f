"""What all sections of ``params.yaml`` have in common."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of ``params.yaml``: no unknown names, no silent conversion from text, finite numbers only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    def narrowed(self, names: set[str]) -> Self:
        """The same with all parameters but ``names`` at their defaults, and only these in ``model_fields_set``."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        narrowed: Self = type(self).model_construct(_fields_set=names, **kept)  # type: ignore[assignment]  # pydantic's Self
        return narrowed
