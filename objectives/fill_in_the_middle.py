"""Causal language modelling on texts whose middle was moved to their end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from objectives.causal_lm import CausalLM
from objectives.claims import HostCounts
from objectives.pairs import RowBuilder, draw_stretch, is_of_a_document, never
from objectives.rows import Documents, Row, RowMaker
from objectives.spans import sentinel_ids

MARKS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(CausalLM, RowMaker):
    r"""Predict each token from those before it, in texts of which a share is reordered: prefix, suffix, middle.

    A stretch of a document is cut at two places drawn uniformly and without order, and written as [PRE] prefix [SUF] suffix
    [MID] middle [EOS]; the rest, a share of 1 - rate, stays as it is before its [EOS]. All tokens are scored. The loss is
    that of causal language modelling; so are terms and metrics. The marks are the last ids of the
    vocabulary, counting down.

    Example:
      The text 7, 8, 9 cut before 8 and before 9, the three marks being 63, 62, 61 and the end 6:

      >>> from objectives.rows import RowShape
      >>> objective = FillInTheMiddle().for_rows(RowShape(length=8, eos_id=6, own_start=61, own_stop=64))
      >>> objective.reorder(np.array([7, 8, 9]), 1, 2).tolist()
      [63, 7, 62, 9, 61, 8, 6]

    Reference:
      Bavarian et al., Efficient Training of Language Models to Fill in the Middle, arXiv 2207.14255, section 3 (PSM).
    """

    rate: float = 0.5
    """Share of the stretches that are reordered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate {self.rate} must lie in (0, 1]; without reordering use CausalLM")

    def own_ids(self) -> int:
        return MARKS

    def check(self, config: Any) -> None:
        super().check(config)
        self.rows.require(self, "eos_id")
        self._marks()
        if self.rows.length < 6:
            raise ValueError(
                f"rows of {self.rows.length} cannot hold two tokens beside three marks and an end"
            )

    def _marks(self) -> range:
        return sentinel_ids(self.rows, MARKS)

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        builder, first = RowBuilder(self.rows.length), index % len(docs)
        while builder.remaining >= 6:
            text = draw_stretch(docs, first, builder.remaining - 4, rng)
            one, other = sorted(int(cut) for cut in rng.integers(0, len(text) + 1, 2))
            moved = rng.random() < self.rate
            builder.add(self.reorder(text, one, other) if moved else np.append(text, self.rows.eos_id))
            first = int(rng.integers(len(docs)))
        return builder.row

    def reorder(self, text: np.ndarray, one: int, other: int) -> np.ndarray:
        """The text with what lies between the two places at its end."""
        before, after, between = self._marks()
        parts = ([before], text[:one], [after], text[other:], [between], text[one:other], [self.rows.eos_id])
        return np.concatenate(parts).astype(np.int32)

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """The claimed share is reordered, and put back in order every stretch is one of a document."""
        stretches, moved, lost = 0, 0, 0
        for row in rows:
            for segment in range(1, int(row["segment_ids"].max()) + 1):
                tokens = row["tokens"][row["segment_ids"] == segment][:-1]
                marks = np.isin(tokens, self._marks())
                stretches += 1
                if marks.any():
                    moved += 1
                    prefix, suffix, middle = np.split(tokens, np.flatnonzero(marks))[1:]
                    tokens = np.concatenate([prefix[1:], middle[1:], suffix[1:]])
                lost += not is_of_a_document(docs, tokens)
        plain = stretches - moved
        return {
            "reordered, plain": (
                np.array([moved, plain]),
                stretches * np.array([self.rate, 1 - self.rate]),
            ),
            "cannot be put back": never(lost, stretches),
        }


def example() -> FillInTheMiddle:
    """For the property suite."""
    return FillInTheMiddle()
