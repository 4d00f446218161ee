"""What a model expects around a text, or around two: ids before, between and after, and their types."""

from collections.abc import Sequence
from typing import NamedTuple


class Frame(NamedTuple):
    """Special ids around one text (nothing stands between) or around two."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    types: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    """Type of what stands before, of the first text, of what stands between, of the second text, of what stands after."""

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
        """
        parts = (self.before, first, self.between, second, self.after)
        ids = [i for part in parts for i in part]
        return ids, [kind for part, kind in zip(parts, self.types, strict=True) for _ in part]
