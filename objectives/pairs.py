"""Rows made from random-access documents: lengths, draws, layout, and what was drawn. Host side, numpy.

A row is filled with pairs or stretches until it is full; what they are made of and mean is the objective's affair.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from objectives.rows import Documents, Row

TRIES = 32
"""Random documents looked at before the search gives up being random (guess: misses are then below 1 in 10^6
for any corpus in which a third of the documents fit)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairLengths:
    """How a row of `length` tokens is cut into pairs; special tokens count."""

    length: int
    shortest: int
    longest: int
    most: int

    def __post_init__(self) -> None:
        if not 0 < self.shortest <= self.longest <= self.length:
            raise ValueError(
                f"pair lengths must satisfy 0 < shortest {self.shortest} <= longest {self.longest} <= "
                f"length {self.length}"
            )
        if 2 * self.shortest > self.longest and self.longest < self.length:
            raise ValueError(
                f"longest {self.longest} is below twice shortest {self.shortest}: some rows could not "
                f"be filled"
            )
        if self.most * self.shortest < self.length:
            raise ValueError(
                f"{self.most} pairs of at least {self.shortest} tokens cannot be promised to fill a row "
                f"of {self.length}"
            )

    def draw(self, remaining: int, rng: np.random.Generator) -> int:
        """Length of the next pair: uniform, but never leaving a rest too short to be one; 0 at the end."""
        if remaining < self.shortest:
            return 0
        wanted = int(rng.integers(self.shortest, min(self.longest, remaining) + 1))
        if remaining - wanted >= self.shortest or wanted == remaining:
            return wanted
        return remaining if remaining <= self.longest else remaining - self.shortest


class RowBuilder:
    """Lays segments into one row."""

    def __init__(self, length: int, prefix: str = ""):
        """An empty row, all padding; names of its arrays start with `prefix`."""
        names = ("tokens", "segment_ids", "positions")
        self.row: Row = {prefix + name: np.zeros(length, np.int32) for name in names}
        self._arrays = tuple(self.row.values())
        self.used = 0
        self.segments = 0

    @property
    def remaining(self) -> int:
        """Free tokens."""
        return len(self._arrays[0]) - self.used

    def add(self, tokens: np.ndarray) -> slice:
        """One more segment; returns where it lies."""
        here = slice(self.used, self.used + len(tokens))
        self.segments += 1
        for array, value in zip(self._arrays, (tokens, self.segments, np.arange(len(tokens))), strict=True):
            array[here] = value
        self.used += len(tokens)
        return here


def draw_document(docs: Documents, first: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """A document of at least `tokens`: the `first` index, else a uniform draw, else the longest one seen.

    Documents below `tokens` are passed over: ask for no more than is needed.
    """
    best = docs[first]
    for _ in range(TRIES):
        if len(best) >= tokens:
            break
        other = docs[int(rng.integers(len(docs)))]
        best = max(best, other, key=len)
    return best


def draw_stretch(docs: Documents, first: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many neighbouring tokens of a document of at least two (see `draw_document`), from a uniform place."""
    doc = draw_document(docs, first, 2, rng)
    size = min(tokens, len(doc))
    start = int(rng.integers(len(doc) - size + 1))
    return doc[start : start + size]


def draw_two(docs: Documents, first: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two documents of different text that can be cut in two: the `first` index if it can, and a uniform draw.

    Lengths play no part: a preference for long ones on one side would tell the label of a pair.
    """
    one = _search(docs, first, None, rng)
    return docs[one], docs[_search(docs, int(rng.integers(len(docs))), docs.hash(one), rng)]


def _search(docs: Documents, first: int, unlike: int | None, rng: np.random.Generator) -> int:
    """Index of a document of at least two tokens, unlike that hash: `first`, else a uniform draw, else the next."""
    index = first
    for _ in range(TRIES):
        if len(docs[index]) > 1 and docs.hash(index) != unlike:
            return index
        index = int(rng.integers(len(docs)))
    for step in range(len(docs)):
        index = (first + step) % len(docs)
        if len(docs[index]) > 1 and docs.hash(index) != unlike:
            return index
    raise ValueError("fewer than two different documents of at least two tokens: no pair can be made")


def check_two_distinct(docs: Documents, purpose: str) -> None:
    """Raise unless two documents of at least two tokens differ."""
    seen: int | None = None
    for index in range(len(docs)):
        if len(docs[index]) < 2:
            continue
        if seen is not None and docs.hash(index) != seen:
            return
        seen = docs.hash(index)
    raise ValueError(
        f"{purpose} needs two different documents of at least two tokens; these {len(docs)} documents hold "
        f"{0 if seen is None else 1}"
    )


def check_some_to_cut(docs: Documents, purpose: str) -> None:
    """Raise unless a document has two tokens."""
    if not any(len(docs[i]) > 1 for i in range(len(docs))):
        raise ValueError(f"{purpose} needs a document of at least two tokens; these {len(docs)} have none")


def never(bad: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """The claim that none of so many things is bad, as (observed, expected) counts of bad and good ones."""
    return np.array([bad, total - bad]), np.array([0, total])


def is_of_a_document(docs: Documents, span: np.ndarray) -> bool:
    """Whether some document holds this span."""
    return any(holds_span(docs[i], span) for i in range(len(docs)))


def are_of_one_document(docs: Documents, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether some document holds both spans."""
    return any(holds_span(docs[i], a) and holds_span(docs[i], b) for i in range(len(docs)))


def holds_span(doc: np.ndarray, span: np.ndarray) -> bool:
    """Whether the document holds these tokens in this order without a gap.

    >>> holds_span(np.array([7, 8, 9]), np.array([8, 9])), holds_span(np.array([7, 8, 9]), np.array([7, 9]))
    (True, False)
    """
    if not 0 < len(span) <= len(doc):
        return False
    return bool(np.any(np.all(np.lib.stride_tricks.sliding_window_view(doc, len(span)) == span, axis=1)))


def pairs_of(row: Row) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(A, B, label) of every pair framed [CLS] A [SEP] B [SEP] in a row."""
    for segment, label in enumerate(row["labels"], start=1):
        here = row["segment_ids"] == segment
        if here.any():
            tokens, second = row["tokens"][here], row["type_ids"][here] == 1
            yield tokens[~second][1:-1], tokens[second][:-1], int(label)
