"""Where `ppvit tune` searches a parameter: from a low to a high value, or in a list."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

from ppvit.config.limits import parameters
from ppvit.config.parsing import parse
from ppvit.core.errors import UsageError

_DIGITS = 3  # of a value, which the noise of training makes more than enough

Value = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched.

    Attributes:
        text: as it was given.
        ends: low and high, or all of a list.
        listed: whether they are a list.
    """

    text: str
    ends: tuple[Any, ...]
    listed: bool

    @property
    def _whole(self) -> bool:
        return all(isinstance(end, int) for end in self.ends)

    def distribution(self, optuna: ModuleType) -> Any:
        """As Optuna draws from it: on a logarithmic scale, unless low is 0 or there is a list."""
        kinds = optuna.distributions
        if self.listed:
            return kinds.CategoricalDistribution(self.ends)
        low, high = self.ends
        if self._whole:
            return kinds.IntDistribution(low, high, log=low > 0)
        return kinds.FloatDistribution(low, high, log=low > 0)

    def has(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return value in self.ends if self.listed else self.ends[0] <= value <= self.ends[1]

    def rounded(self, value: Any) -> Value:
        """To a few digits, within the range."""
        if self.listed or self._whole:
            return cast(Value, value)
        return min(max(float(f"{value:.{_DIGITS}g}"), cast(float, self.ends[0])), cast(float, self.ends[1]))


def read_range(text: str, sections: tuple[str, ...], never: tuple[str, ...]) -> tuple[str, Range]:
    """A parameter's name and its range.

    Args:
        text: ``section.name=low..high`` or ``section.name=[a, b, c]``.
        sections: those whose parameters can be searched.
        never: parameters of them that cannot.

    Raises:
        UsageError: no such parameter, or a range that is none.
    """
    name, equals, given = text.partition("=")
    shown = text[:100]
    if not equals:
        raise UsageError(
            f"'{shown}' is no range such as finetune.learning_rate=1e-4..1e-1 or finetune.batch_size=[16, 32]"
        )
    known = {each: default for each, default, _ in parameters(sections)}
    if name not in known:
        raise UsageError(
            f"`tune` searches parameters of training, those of {', '.join(sections)}; '{name[:100]}' is none"
        )
    if name in never:
        raise UsageError(f"{name} is not to be searched: it does not make a model better")
    parts = given.split("..")
    try:
        ends = [parse(part) for part in parts] if len(parts) == 2 else parse(given)
    except ValueError as error:
        raise UsageError(f"the range in '{shown}' cannot be read: {error}") from None
    if len(parts) == 2:
        return name, _between(name, given, ends, isinstance(known[name], float))
    if not (isinstance(ends, list) and ends and all(isinstance(end, Value) for end in ends)):
        raise UsageError(f"'{shown}' is neither a range such as 1e-4..1e-1 nor a list such as [16, 32]")
    return name, Range(given, tuple(ends), True)


def _between(name: str, given: str, ends: list[Any], real: bool) -> Range:
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends) or not 0 <= ends[0] < ends[1]:
        raise UsageError(
            f"'{name}={given[:60]}': the ends of a range are two numbers, the smaller one first, from 0 on"
        )
    return Range(given, tuple(float(end) for end in ends) if real else tuple(ends), False)
