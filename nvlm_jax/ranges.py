"""Which numbers a setting may have, said beside the setting: `layers: Size = 45`.

A range is an annotation's metadata, so that types stay what they are: `typing.get_type_hints` alone drops it.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; neither NaN nor infinite ones are in any."""

    low: float
    high: float
    above: bool = False  # without `low` itself
    below: bool = False  # without `high` itself
    also: tuple[int, ...] = ()  # numbers outside that mean something of their own

    def __contains__(self, value: float) -> bool:
        if value in self.also:
            return True
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        low = f"above {self.low:.12g}" if self.above else f"from {self.low:.12g}"
        high = f"below {self.high:.12g}" if self.below else f"to {self.high:.12g}"
        return " or ".join([*map(str, self.also), f"{low} {high}"])


Size = Annotated[int, Range(1, 10**7)]  # a width, a length, a number of things that there must be
Layers = Annotated[int, Range(1, 10**4)]
Count = Annotated[int, Range(0, 10**7)]  # and none is a choice
Steps = Annotated[int, Range(1, 10**9)]
Share = Annotated[float, Range(0, 1)]
Epsilon = Annotated[float, Range(0, 1, above=True)]  # what keeps a division from zero
Momentum = Annotated[float, Range(0, 1, below=True)]
Factor = Annotated[float, Range(0, 1e6)]
Rate = Annotated[float, Range(0, 10)]  # of learning, a step
Axis = Annotated[int, Range(1, 10**6, also=(-1,))]  # devices along it; -1 = what the others leave


def range_of(hint: Any) -> Range | None:
    """The range in a hint that was read with `include_extras`; None where there is none.

    >>> range_of(Share)
    Range(low=0, high=1, above=False, below=False, also=())
    """
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)), None)


def range_faults(value: Any, prefix: str = "") -> list[str]:
    """One line for each number of a dataclass, and of those in it, that is outside its range.

    Args:
        value: a dataclass, or a tuple of them; anything else has no faults.
        prefix: the key of `value`, with a dot behind it.
    """
    if isinstance(value, tuple):
        key = prefix.removesuffix(".")
        return [fault for i, item in enumerate(value) for fault in range_faults(item, f"{key}[{i}].")]
    if not dataclasses.is_dataclass(value):
        return []
    faults = []
    for name, hint in typing.get_type_hints(type(value), include_extras=True).items():
        item, allowed = getattr(value, name), range_of(hint)
        if allowed is None:
            faults += range_faults(item, f"{prefix}{name}.")
        elif type(item) in (int, float) and item not in allowed:
            faults.append(f"{prefix}{name}: {item} is out of range; {allowed} would be right")
    return faults
