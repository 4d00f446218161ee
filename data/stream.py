"""Batches in training order: a pure function of (seed, step), for one source of rows or a mixture.

The position in the data is one integer, so resuming is asking for the next step, on any number of processes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import grain
import numpy as np

from data.documents import Documents
from data.row_index import ZEROS, Batch

T = TypeVar("T")
MakeExample = Callable[[Documents, int, np.random.Generator], Mapping[str, np.ndarray]]
# Below this grain's stateless shuffle walks 65536/n steps for each index (measured: 30 us at n = 1,000,
# 2.6 ms at n = 10); a permutation of so few rows is cheaper to hold.
_SMALL = 2**16


class Rows(Protocol):
    """A source of rows; number n means row n % len(rows) in epoch n // len(rows)."""

    @property
    def fill(self) -> Mapping[str, int]:
        """What says "nothing" in these arrays, where it is not 0: mixed rows that lack an array are filled with it."""
        ...

    def __len__(self) -> int: ...

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The rows with these numbers, stacked on axis 0."""
        ...


class MadeRows:
    """Rows that an objective builds from random-access documents.

    `make_example(docs, number, rng)` is called with a number that counts on over epochs (number % len(docs)
    visits every document once per epoch) and with a generator derived from (seed, number) alone.
    """

    def __init__(
        self,
        docs: Documents,
        make_example: MakeExample,
        *,
        seed: int,
        length: int | None = None,
        fill: Mapping[str, int] = ZEROS,
    ):
        self.fill = fill
        self._docs = docs
        self._make_example = make_example
        self._seed = seed
        self._length = len(docs) if length is None else length
        if not self._length:
            raise ValueError("the corpus is empty: there is nothing to make examples from")

    def __len__(self) -> int:
        return self._length

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """One example per number, stacked."""
        examples = []
        for number in map(int, numbers):
            rng = np.random.default_rng([self._seed, number])
            examples.append(self._make_example(self._docs, number, rng))
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


class WithLookups:
    """Rows that also say something of each token: tables over the vocabulary, looked up, each int32 [B, L]."""

    def __init__(self, rows: Rows, tables: Mapping[str, np.ndarray]):
        self._rows = rows
        self._tables = {name: table_V.astype(np.int32) for name, table_V in tables.items()}

    @property
    def fill(self) -> Mapping[str, int]:
        """That of the rows: 0 is what tables say of nothing."""
        return self._rows.fill

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The rows with these numbers, and what the tables say of their tokens."""
        batch = self._rows.take(numbers)
        return {**batch, **{name: table_V[batch["tokens"]] for name, table_V in self._tables.items()}}


class Stream:
    """Endless batches: each epoch visits every row of a source once, in an order of its own.

    Several sources are mixed by weight, or by their number of rows where no weights are given. Batches of a mixture have
    the arrays of all sources, filled (`Rows.fill`) where a row's own source lacks one, and say in `source` int32[B] which
    source each row is from.
    """

    def __init__(
        self,
        rows: Rows | Sequence[Rows],
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        shuffle: bool = True,
    ):
        self._sources: list[Rows] = list(rows) if isinstance(rows, Sequence) else [rows]
        weights = [float(len(s)) for s in self._sources] if weights is None else list(weights)
        _check_sources(self._sources, weights)
        self._layouts = _mixed_layouts(self._sources) if len(self._sources) > 1 else {}
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        # Independent seeds: grain adds the epoch to the seed, so neighbouring seeds would share epochs.
        seeds = np.random.SeedSequence(seed).generate_state(len(self._sources))
        parents = [
            _order(len(source), int(some) if shuffle else None).map(functools.partial(_tagged, number))
            for number, (source, some) in enumerate(zip(self._sources, seeds, strict=True))
        ]
        self._order = parents[0] if len(parents) == 1 else grain.MapDataset.mix(parents, weights)

    @property
    def epoch_steps(self) -> float:
        """Steps in which every row of every source is read once, on average."""
        return sum(len(source) for source in self._sources) / self.batch_size

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """The global batch of a step, or the rows of it that one process needs."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        ids = range(step * self.batch_size, (step + 1) * self.batch_size)[rows or slice(None)]
        picks_B2 = np.array([self._order[i] for i in ids], np.int64).reshape(-1, 2)
        return {**self._take(picks_B2), "example_ids": _example_ids(ids)}

    def _take(self, picks_B2: np.ndarray) -> Batch:
        """The rows of these (source, number)."""
        if len(self._sources) == 1:
            return self._sources[0].take(picks_B2[:, 1])
        batch = {
            name: np.full((len(picks_B2), *layout.shape), layout.fill, layout.dtype)
            for name, layout in self._layouts.items()
        }
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(picks_B2[:, 0] == number)
            if len(mine):
                for name, array in source.take(picks_B2[mine, 1]).items():
                    batch[name][mine] = array
        return {**batch, "source": picks_B2[:, 0].astype(np.int32)}


class EvalBatches(Sequence[Batch]):
    """Every row once, in order; the last batch is filled up with its last row, made to weigh nothing.

    A row weighs nothing if no token of it is in a segment: its `segment_ids`, and whatever ends in `_segment_ids`, are 0.
    With a limit below the number of rows, evenly spaced ones: packing puts rows of one long piece first.
    """

    def __init__(self, rows: Rows, *, batch_size: int, limit: int | None = None):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.rows = rows
        self.batch_size = batch_size
        self.examples = len(rows) if limit is None else min(limit, len(rows))

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Batch `index`."""
        if isinstance(index, slice):
            return [self.batch(i) for i in range(*index.indices(len(self)))]
        return self.batch(range(len(self))[index])

    def batch(self, index: int, rows: slice | None = None) -> Batch:
        """Batch `index`, or the rows of it that one process needs."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        ids = range(index * self.batch_size, (index + 1) * self.batch_size)[rows or slice(None)]
        batch = self.rows.take([min(i, self.examples - 1) * len(self.rows) // self.examples for i in ids])
        if surplus := sum(i >= self.examples for i in ids):
            batch = _without_weight(batch, surplus)
        return {**batch, "example_ids": _example_ids(ids)}


def _without_weight(batch: Batch, count: int) -> Batch:
    """The batch with no token of its last `count` rows in a segment."""
    names = [name for name in batch if name == "segment_ids" or name.endswith("_segment_ids")]
    if not names:
        raise ValueError(
            f"the last batch has {count} rows too few, and rows of {', '.join(batch)} cannot say that they weigh nothing: "
            "give them segment_ids, or take a batch size that divides their number"
        )
    cleared = {name: batch[name].copy() for name in names}
    for array in cleared.values():
        array[len(array) - count :] = 0
    return {**batch, **cleared}


class _Numbers(grain.MapDataset[int]):
    """The identity: grain's own sources forget the epoch, which examples need for their randomness."""

    def __init__(self, length: int, seed: int | None = None):
        super().__init__(())
        self._length = length
        self._permuted = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return self.slice(index)
        if self._permuted is None:
            return index
        epoch, within = divmod(index, self._length)
        return epoch * self._length + int(_permutation(self._length, self._permuted, epoch)[within])


@functools.lru_cache(maxsize=32)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def _order(length: int, seed: int | None) -> grain.MapDataset[int]:
    """Numbers epoch * length + row, endless; each epoch in a new order unless `seed` is None."""
    if seed is None or length < _SMALL:
        return _Numbers(length, seed).repeat(None)
    return _Numbers(length).shuffle(seed).repeat(None)


def _tagged(source: int, number: int) -> tuple[int, int]:
    return source, number


def _example_ids(ids: Sequence[int]) -> np.ndarray:
    # int32 by contract: after 2**31 examples the count starts again, and the step still tells them apart.
    return (np.array(ids, np.int64) % 2**31).astype(np.int32)


def _check_sources(sources: Sequence[Rows], weights: Sequence[float]) -> None:
    if not sources or len(sources) != len(weights):
        raise ValueError(f"{len(sources)} sources of rows with {len(weights)} weights")
    empty = [number for number, source in enumerate(sources) if not len(source)]
    if empty:
        raise ValueError(f"sources {empty} have no rows")
    if min(weights) <= 0 or not np.isfinite(weights).all():
        raise ValueError(f"weights must be positive, got {list(weights)}")


class _Layout(NamedTuple):
    """An array of one row."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fill: int


def _mixed_layouts(sources: Sequence[Rows]) -> dict[str, _Layout]:
    """The arrays of all sources; what two sources have must be alike."""
    layouts: dict[str, _Layout] = {}
    owners: dict[str, int] = {}
    for number, source in enumerate(sources):
        for name, array in source.take([0]).items():
            if name in ("source", "example_ids"):
                raise ValueError(
                    f"source {number} gives an array {name!r}, which the stream itself makes: rename it"
                )
            fill = source.fill[name] if name in source.fill else 0
            own = _Layout(array.shape[1:], array.dtype, fill)
            first = layouts.setdefault(name, own)
            if own != first:
                raise ValueError(
                    f"source {owners[name]} gives {name!r} as {first.dtype}{list(first.shape)} filled with {first.fill}, "
                    f"source {number} as {own.dtype}{list(own.shape)} filled with {own.fill}: they cannot be mixed"
                )
            owners.setdefault(name, number)
    return layouts
