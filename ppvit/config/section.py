"""What all sections of ``params.yaml`` have in common."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of ``params.yaml``: no unknown names, no silent conversion from text, finite numbers only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=Section)


def narrowed_section(section: S, names: set[str]) -> S:
    """The same section with all parameters but ``names`` at their defaults, and only these in ``model_fields_set``."""
    kept = {name: getattr(section, name) for name in names}
    return type(section).model_construct(names, **kept)
