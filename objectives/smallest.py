"""The smallest batch on which a property still fails: what a researcher wants to look at.

Rows, then packed segments, then tokens from the end are turned into padding as long as the property fails. Shapes never
change, so nothing is compiled again. Shape suffixes: B rows, L tokens of a row.
"""

from collections.abc import Iterator

import numpy as np

from model.config import TextConfig
from objectives.base import Objective
from objectives.measuring import HostBatch, keep_segments
from objectives.verdict import Property


def smallest(check: Property, objective: Objective, config: TextConfig, batch: HostBatch) -> HostBatch:
    """A batch that fails and of which no row, segment or last token can be spared."""

    def fails(candidate: HostBatch) -> bool:
        verdict = check(objective, config, candidate)
        # Without a finite figure it is another failure: nothing is left to score.
        return verdict.verdict == "fails" and bool(np.isfinite(verdict.figure))

    for spare in (_rows, _segments, _tails):
        for keep_BL in spare(batch):
            candidate = keep_segments(batch, keep_BL)
            if candidate["segment_ids"].any() and fails(candidate):
                batch = candidate
    return batch


def _rows(batch: HostBatch) -> Iterator[np.ndarray]:
    row_B1 = np.arange(len(batch["segment_ids"]))[:, None]
    for row in range(len(row_B1)):
        yield np.broadcast_to(row_B1 != row, batch["segment_ids"].shape)


def _segments(batch: HostBatch) -> Iterator[np.ndarray]:
    for row, segment in _present(batch):
        keep_BL = np.ones_like(batch["segment_ids"], bool)
        keep_BL[row] = batch["segment_ids"][row] != segment
        yield keep_BL


def _tails(batch: HostBatch) -> Iterator[np.ndarray]:
    for row, segment in _present(batch):
        here = np.flatnonzero(batch["segment_ids"][row] == segment)
        for cut in here[:0:-1]:
            keep_BL = np.ones_like(batch["segment_ids"], bool)
            keep_BL[row, here[here >= cut]] = False
            yield keep_BL


def _present(batch: HostBatch) -> list[tuple[int, int]]:
    """(row, segment id) of every segment."""
    return [(b, int(s)) for b, row in enumerate(batch["segment_ids"]) for s in np.unique(row[row > 0])]


def shown(batch: HostBatch) -> str:
    """The tokens that are left, one line a row.

    >>> shown({"tokens": np.array([[2, 9, 2, 8], [5, 5, 5, 5]]), "segment_ids": np.array([[1, 1, 2, 2], [0, 0, 0, 0]])})
    'row 0: [2 9] [2 8]'
    """
    lines: dict[int, list[str]] = {}
    for row, segment in _present(batch):
        tokens = batch["tokens"][row][batch["segment_ids"][row] == segment]
        lines.setdefault(row, []).append(f"[{' '.join(map(str, tokens))}]")
    return "; ".join(f"row {row}: {' '.join(found)}" for row, found in lines.items())
