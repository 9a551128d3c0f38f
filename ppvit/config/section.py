"""What all sections of ``params.yaml`` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

Auto = Literal["auto"]

CONTROL = r"^[^\p{Cc}]*$"  # a text without control characters
Text = Annotated[str, Field(max_length=4096, pattern=CONTROL)]
"""a name or a path: no control characters, and no longer than Linux lets a path be"""


@dataclass(frozen=True)
class AutoOr:
    """Of a parameter that is ``auto`` or a whole number in a range: ``Annotated[int | Auto, AutoOr(1, 1000)]``.

    One type and not a union of two, whose errors would name their branches.
    """

    ge: int
    le: int

    def _number(self) -> CoreSchema:
        return core_schema.int_schema(ge=self.ge, le=self.le, strict=True)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, number: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return value if value == "auto" else number(value)

        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(check, self._number(), serialization=as_it_is)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"const": "auto"}, handler(self._number())]}


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
