"""What a model expects around a text, or around two, and how texts are cut to fit."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

FramingName = Literal["cls_sep", "bos_eos", "eos"]
Side = Literal["left", "right"]
TEMPLATES: dict[FramingName, tuple[str, str]] = {
    "cls_sep": ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"),
    "bos_eos": ("{bos}:0 $A:0 {eos}:0", "{bos}:0 $A:0 {eos}:0 $B:0 {eos}:0"),
    "eos": ("$A:0 {eos}:0", "$A:0 {eos}:0 $B:0 {eos}:0"),
}
"""What stands around one text and around two: special tokens by role, each with its type."""


class Frame(NamedTuple):
    """Special ids around one text (nothing stands between) or around two."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    types: tuple[int | tuple[int, ...], ...] = (0, 0, 0, 0, 0)
    """Type of what stands before, of the first text, of what stands between, of the second text, of what stands after: one
    of all its ids, or one of each."""
    side: Side = "right"
    """Where texts lose what does not fit a row."""

    @property
    def added(self) -> int:
        """How many ids it adds."""
        return len(self.before) + len(self.between) + len(self.after)

    def spread(self, values: Sequence[int], fill: int) -> list[int]:
        """One value for each id around one text: the text's own, and `fill` elsewhere."""
        return [*(fill for _ in self.before), *values, *(fill for _ in self.after)]

    def around(self, first: Sequence[int], second: Sequence[int] = ()) -> tuple[list[int], list[int]]:
        """Framed ids, and their types.

        >>> Frame(before=(2,), between=(3,), after=(3,), types=(0, 0, 0, 1, 1)).around([7, 8], [9])
        ([2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1])
        >>> Frame(between=(3, 3), types=(0, 0, (0, 1), 1, 1)).around([7], [9])
        ([7, 3, 3, 9], [0, 0, 1, 1])
        """
        parts = (self.before, first, self.between, second, self.after)
        ids = [i for part in parts for i in part]
        types: list[int] = []
        for part, kind in zip(parts, self.types, strict=True):
            types += [kind] * len(part) if isinstance(kind, int) else kind
        return ids, types


def shorten(
    first: Sequence[int], second: Sequence[int], room: int, side: Side = "right"
) -> tuple[Sequence[int], Sequence[int]]:
    """Cut two texts to `room` ids together, the longer first, so that a short one is never lost to a long partner.

    Source: `truncate_encodings` (LongestFirst) of the `tokenizers` library.

    >>> shorten([1, 2, 3, 4, 5], [6, 7], 5)
    ([1, 2, 3], [6, 7])
    """
    short, long = sorted((len(first), len(second)))
    if short + long <= room:
        return first, second
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short, long = room // 2, room - room // 2
    # Of two of one length, the second is taken as the longer one.
    a, b = (short, long) if len(first) <= len(second) else (long, short)
    return cut(first, a, side), cut(second, b, side)


def cut(ids: Sequence[int], room: int, side: Side) -> Sequence[int]:
    """The first `room` ids, or where the left side is cut the last."""
    return ids[:room] if side == "right" else ids[max(0, len(ids) - room) :]
