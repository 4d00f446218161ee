"""The range of a number, stated once where its field is declared, and the check of all numbers of a dataclass.

    rate: Annotated[float, Range(above=0, most=1)] = 0.15

A field that states no range takes any integer of 64 bits, any finite float32.
"""

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

LARGEST = 3.4e38
"""What float32 holds, in which everything is computed."""
WORD = 64
"""Bits of an integer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """What a number may be, as metadata of an `Annotated` field; of a tuple, what each number in it may be.

    >>> print(Range(least=1), Range(above=0, most=1), Range(least=1, also=-1), sep=", ")
    at least 1, above 0 and at most 1, at least 1 or -1
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    also: float | None = None
    """One more value, that says something of its own."""

    def __contains__(self, number: float) -> bool:
        if self.also is not None and number == self.also:
            return True
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        limits = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        said = " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)
        return said if self.also is None else f"{said} or {self.also}"


COUNT = Range(least=1)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(least=0)
SHARE = Range(least=0, most=1)
"""Of a whole, none and all of it included."""
DROPOUT = Range(least=0, below=1)
STEPS = Range(least=1, below=2**31)
"""Updates of a run, which are counted in 32 bits."""
SEED = Range(least=0, below=2**32)
"""Of a larger one jax.random.key drops the upper bits, and two runs would be one."""


def check_ranges(value: Any, path: str = "") -> None:
    """Raise ValueError for the first number in a dataclass, and in those inside it, that is out of its range.

    Args:
      value: the dataclass.
      path: what stands in front of the names of its fields in the message, such as "optimizer.".
    """
    for field in dataclasses.fields(value):
        if field.init:
            _check(getattr(value, field.name), f"{path}{field.name}", ranges_of(type(value))[field.name])


def check_number(number: float, name: str, *ranges: Range) -> None:
    """Raise ValueError, with its name, if a number is out of a range, or no integer of 64 bits and no float32."""
    holds = abs(number) < 2 ** (WORD - 1) if isinstance(number, int) else abs(number) <= LARGEST
    if not holds:
        limit = f"below 2**{WORD - 1}" if isinstance(number, int) else "finite"
        raise ValueError(f"{name} must be {' and '.join([*map(str, ranges), limit])}, got {_short(number)}")
    for allowed in ranges:
        if number not in allowed:
            raise ValueError(f"{name} must be {allowed}, got {_short(number)}")


def _check(value: Any, path: str, ranges: tuple[Range, ...]) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_number(value, path, *ranges)
    elif isinstance(value, tuple | list):
        for number, one in enumerate(value):
            _check(one, f"{path}.{number}", ranges)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_ranges(value, f"{path}.")


def _short(number: float) -> str:
    # An integer may have more digits than anybody reads.
    if isinstance(number, int) and abs(number) >= 2**WORD:
        return f"a number of {number.bit_length()} bits"
    return str(number)


@functools.cache
def ranges_of(kind: type) -> Mapping[str, tuple[Range, ...]]:
    """Field -> the ranges in its annotation, of every field of a dataclass."""
    found: dict[str, tuple[Range, ...]] = {}
    for base in kind.__mro__:
        own = inspect.get_annotations(base)
        hints = get_type_hints(base, include_extras=True) if own else {}
        for name in own:
            # A field that is declared again, for another default, keeps its range unless it states one.
            found[name] = found[name] if found.get(name) else tuple(ranges_in(hints[name]))
    return found


def ranges_in(annotation: Any) -> Iterator[Range]:
    """The ranges that an annotation states, at whatever depth."""
    if get_origin(annotation) is Annotated:
        yield from (one for one in annotation.__metadata__ if isinstance(one, Range))
    for inner in get_args(annotation):
        yield from ranges_in(inner)
