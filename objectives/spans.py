"""Which spans of a text T5 drops, and the two texts that come of it. Host side, numpy.

All counts are functions of the length alone: only where the spans lie is random.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from objectives.claims import HostCounts
from objectives.pairs import is_of_a_document, never
from objectives.rows import Documents, RowShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """How much of a text is dropped, and in how many spans."""

    density: float = 0.15
    """Share of the tokens that is dropped."""
    mean_span: float = 3.0
    """Mean length of a dropped span."""

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or self.mean_span < 1:
            raise ValueError(
                f"density {self.density} must lie in (0, 1) and mean_span {self.mean_span} not be below 1"
            )

    def counts(self, length: int) -> tuple[int, int]:
        """(dropped tokens, spans) of a text of at least two tokens.

        >>> Noise().counts(568)
        (85, 28)
        """
        dropped = min(max(round(length * self.density), 1), length - 1)
        return dropped, min(max(round(dropped / self.mean_span), 1), dropped, length - dropped)

    def lengths(self, length: int) -> tuple[int, int]:
        """Tokens of (inputs, targets), sentinels and one end token each included.

        >>> Noise().lengths(568)  # the numbers of the paper's code: 568 raw tokens for 512 inputs
        (512, 114)
        """
        dropped, spans = self.counts(length)
        return length - dropped + spans + 1, dropped + spans + 1

    def raw_length(self, inputs: int) -> int:
        """The longest text whose inputs are at most so long.

        >>> [Noise().raw_length(n) for n in (128, 256, 512, 1024)]
        [141, 284, 568, 1137]
        """
        return self.fit(inputs, targets=2**30, spans=2**30)

    def fit(self, inputs: int, targets: int, spans: int) -> int:
        """The longest text that fits into so many input and target tokens and spans; below 2 where none does."""
        # No text is longer than what is kept of it and what is dropped of it. A power of two: few tables for all rooms.
        longest = inputs + min(targets, int(inputs / (1 - self.density)) + 2)
        table = _lengths(self, 1 << max(longest, 4).bit_length())
        return int(np.flatnonzero(np.all(table <= (inputs, targets, spans), axis=1))[-1:].sum())

    def fit_together(self, room: int, spans: int) -> int:
        """As `fit`, but inputs and targets share so many tokens.

        >>> Noise().fit_together(626, spans=28)
        568
        """
        table = _lengths(self, 1 << max(room, 4).bit_length())
        fits = (table[:, 0] + table[:, 1] <= room) & (table[:, 2] <= spans)
        return int(np.flatnonzero(fits)[-1:].sum())

    def draw(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Which tokens are dropped, bool [length]; the first is kept, the last is dropped.

        Kept and dropped runs alternate; each way to cut the kept tokens into so many runs, and the dropped ones, is
        equally likely.
        """
        dropped, spans = self.counts(length)
        runs = np.stack([_cut(length - dropped, spans, rng), _cut(dropped, spans, rng)], axis=1)
        return np.repeat(np.tile([False, True], spans), runs.reshape(-1))


@functools.lru_cache(maxsize=32)
def _lengths(noise: Noise, longest: int) -> np.ndarray:
    """[longest + 1, 3]: input tokens, target tokens and spans of a text of each length; below two, too many to fit."""
    whole = range(2, longest + 1)
    return np.array([(2**31,) * 3] * 2 + [(*noise.lengths(n), noise.counts(n)[1]) for n in whole])


def _cut(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of `parts` runs, each at least 1, that make up `total`."""
    edges = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], edges, [total]]))


def replace_spans(tokens: np.ndarray, dropped: np.ndarray, first_sentinel: int) -> np.ndarray:
    """The tokens with each dropped run replaced by one sentinel: first_sentinel, then one less each time.

    >>> replace_spans(np.array([7, 8, 9, 10]), np.array([False, True, True, False]), 99)
    array([ 7, 99, 10])
    """
    opens = dropped & ~np.concatenate([[False], dropped[:-1]])
    sentinels = first_sentinel + 1 - np.cumsum(opens)
    return np.where(opens, sentinels, tokens)[~dropped | opens]


def inputs_and_targets(
    text: np.ndarray, dropped: np.ndarray, first_sentinel: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of a text, and what was dropped of it, each with sentinels for the rest and an end token.

    >>> inputs_and_targets(np.array([7, 8, 9]), np.array([False, True, True]), 99, 6)
    (array([ 7, 99,  6]), array([99,  8,  9,  6]))
    """
    kept, lost = (replace_spans(text, gone, first_sentinel) for gone in (dropped, ~dropped))
    return np.append(kept, end), np.append(lost, end)


def restore(inputs: np.ndarray, targets: np.ndarray, sentinels: range) -> np.ndarray:
    """The text of which these inputs and targets were made (both without end tokens).

    Raises:
      ValueError: they do not belong together, or their sentinels do not descend from the first.

    >>> restore(np.array([7, 99, 10]), np.array([99, 8, 9]), range(99, 89, -1)).tolist()
    [7, 8, 9, 10]
    """
    spans: list[list[int]] = []
    for token in targets:
        if int(token) in sentinels:
            spans.append([])
            if int(token) != sentinels[len(spans) - 1]:
                raise ValueError(f"target sentinel {len(spans)} is {token}, not {sentinels[len(spans) - 1]}")
        elif not spans:
            raise ValueError(f"targets begin with {token}, which is no sentinel")
        else:
            spans[-1].append(int(token))
    text: list[int] = []
    used = 0
    for token in inputs:
        if int(token) not in sentinels:
            text.append(int(token))
            continue
        if used >= len(spans) or int(token) != sentinels[used]:
            raise ValueError(f"input sentinel {used + 1} is {token}; the targets have {len(spans)} spans")
        text += spans[used]
        used += 1
    if used != len(spans):
        raise ValueError(f"inputs have {used} sentinels, targets {len(spans)}")
    return np.array(text, dtype=np.int32)


def stretch_claims(
    docs: Documents,
    stretches: Iterable[tuple[np.ndarray, np.ndarray, Sequence[Noise]]],
    sentinels: range,
) -> HostCounts:
    """For `example_claims`: the text of each (inputs, targets, noises that may have been at work) is one of a document."""
    total, lost, miscounted = 0, 0, 0
    for inputs, targets, noises in stretches:
        total += 1
        try:
            text = restore(inputs[:-1], targets[:-1], sentinels)
        except ValueError:
            lost += 1
            continue
        lost += not noises or not is_of_a_document(docs, text)
        miscounted += (len(inputs), len(targets)) not in [noise.lengths(len(text)) for noise in noises]
    return {"cannot be restored": never(lost, total), "other counts": never(miscounted, total)}


def sentinel_ids(rows: RowShape, sentinels: int) -> range:
    """So many ids that are in no text, from the last one down.

    Raises:
      ValueError: fewer are free.

    >>> sentinel_ids(RowShape(length=8, own_start=90, own_stop=100), 3)
    range(99, 96, -1)
    """
    free = rows.own_stop - rows.own_start
    if sentinels > free:
        raise ValueError(f"{sentinels} sentinels are asked for, but only {free} ids are in no text")
    return range(rows.own_stop - 1, rows.own_stop - 1 - sentinels, -1)
