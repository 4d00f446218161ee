"""Which pieces stand in which row of packed rows, and where: of documents or of labelled examples.

Legend: B rows, L length, G segments per row.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

Batch = dict[str, np.ndarray]
ZEROS: Mapping[str, int] = MappingProxyType({})
"""`fill` of rows in which 0 says that there is nothing, in every array (see data.stream.Rows)."""


def group_by_row(row_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pieces by row, keeping their order within a row; the place of each row's first one, and their number)."""
    counts = np.bincount(row_of) if len(row_of) else np.zeros(0, np.int64)
    return np.argsort(row_of, kind="stable"), np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


class RowIndex:
    """Which pieces stand in which row, and where: shared by packed documents and packed labelled examples.

    Pieces are counted by row: row r holds those from first[r] to first[r + 1].
    """

    def __init__(self, sizes: np.ndarray, first: np.ndarray, *, length: int):
        self.length = length
        self._sizes = sizes
        self._first = first

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def real_share(self) -> float:
        """Share of positions that hold a token."""
        return float(self._sizes.sum() / max(1, len(self) * self.length))

    @property
    def segments(self) -> int:
        """Number of segments in all rows."""
        return len(self._sizes)

    def place(self, numbers: Sequence[int] | np.ndarray) -> "Placement":
        """Lay out the rows `number % len(self)`: a stream counts on over epochs."""
        rows = np.asarray(numbers, np.int64) % len(self)
        first = self._first[rows]
        counts = self._first[rows + 1] - first
        row = np.repeat(np.arange(len(rows)), counts)
        piece = ragged_arange(first, counts)
        sizes = self._sizes[piece].astype(np.int64)
        ends = np.cumsum(sizes)
        row_start = (ends - sizes)[np.cumsum(counts) - counts]
        return Placement(
            shape=(len(rows), self.length),
            piece=piece,
            row=row,
            segment=piece - first[row] + 1,
            start=row * self.length + ends - sizes - row_start[row],
            sizes=sizes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where each piece of a few rows goes: parallel arrays; positions count through the flattened [B, L] arrays."""

    shape: tuple[int, int]
    """(B, L)."""
    piece: np.ndarray
    """Its number."""
    row: np.ndarray
    segment: np.ndarray
    """1..G within its row."""
    start: np.ndarray
    """Position of its first token."""
    sizes: np.ndarray

    def rows(self, pad: int) -> Batch:
        """Tokens still all padding, segment ids and positions filled in."""
        flat = {
            name: np.zeros(self.shape[0] * self.shape[1], np.int32) for name in ("segment_ids", "positions")
        }
        where = ragged_arange(self.start, self.sizes)
        flat["segment_ids"][where] = np.repeat(self.segment, self.sizes)
        flat["positions"][where] = where - np.repeat(self.start, self.sizes)
        return {
            "tokens": np.full(self.shape, pad, np.int32),
            **{name: array.reshape(self.shape) for name, array in flat.items()},
        }


def ragged_arange(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0]+1, ... (counts[0] of them), starts[1], ...: many ranges end to end."""
    offsets = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - offsets, counts)
