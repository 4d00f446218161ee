"""Causal language modelling on texts whose middle was moved to their end. Knows no tokenizer, loop or mesh."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from model.config import TransformerConfig
from objectives.base import Documents, Row
from objectives.causal_lm import CausalLM
from objectives.pairs import RowBuilder, draw_stretch, is_of_a_document, never


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(CausalLM):
    r"""Predict each token from those before it, in texts of which a share is reordered: prefix, suffix, middle.

    A stretch of a document is cut at two places drawn uniformly and without order, and written as [PRE] prefix [SUF] suffix
    [MID] middle [EOS]; the rest, a share of 1 - rate, stays as it is before its [EOS]. All tokens are scored. The loss is
    that of causal language modelling; so are terms and metrics.

    Example:
      The text 7, 8, 9 cut before 8 and before 9, the three marks being 61, 62, 63 and the end 6:

      >>> objective = FillInTheMiddle(mark_ids=(61, 62, 63), eos_id=6, length=8)
      >>> objective.reorder(np.array([7, 8, 9]), 1, 2).tolist()
      [61, 7, 62, 9, 63, 8, 6]

    Reference:
      Bavarian et al., Efficient Training of Language Models to Fill in the Middle, arXiv 2207.14255, section 3 (PSM).
    """

    mark_ids: tuple[int, int, int]
    """Ids that open prefix, suffix and middle; in no text."""
    eos_id: int
    """Id of the token that ends a stretch."""
    length: int
    """Tokens of a row (L)."""
    rate: float = 0.5
    """Share of the stretches that are reordered."""

    def __post_init__(self) -> None:
        """Refuse a rate that is none, and marks that mean two things."""
        super().__post_init__()
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate {self.rate} must lie in (0, 1]; without reordering use CausalLM")
        if len({*self.mark_ids, self.eos_id}) < 4:
            raise ValueError(f"mark_ids {self.mark_ids} and eos_id {self.eos_id} must differ")
        if self.length < 6:
            raise ValueError(f"length {self.length} cannot hold two tokens beside three marks and an end")

    def reserved_ids(self) -> range:
        """The marks."""
        return range(min(self.mark_ids), max(self.mark_ids) + 1)

    def check(self, config: TransformerConfig, length: int) -> None:
        """Rows are made here, so the lengths must agree; marks must be in the vocabulary."""
        super().check(config, length)
        self.refuse_other_length(length, self.length)
        if max(self.mark_ids) >= config.vocab_size:
            raise ValueError(f"mark_ids {self.mark_ids} are outside the vocabulary of {config.vocab_size}")

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        """One row of stretches; document index % len(docs) opens it, so that each is visited once per epoch."""
        builder, first = RowBuilder(self.length), index % len(docs)
        while builder.remaining >= 6:
            text = draw_stretch(docs, first, builder.remaining - 4, rng)
            one, other = sorted(int(cut) for cut in rng.integers(0, len(text) + 1, 2))
            moved = rng.random() < self.rate
            builder.add(self.reorder(text, one, other) if moved else np.append(text, self.eos_id))
            first = int(rng.integers(len(docs)))
        return builder.row

    def reorder(self, text: np.ndarray, one: int, other: int) -> np.ndarray:
        """The text with what lies between the two places at its end."""
        before, after, between = self.mark_ids
        parts = ([before], text[:one], [after], text[other:], [between], text[one:other], [self.eos_id])
        return np.concatenate(parts).astype(np.int32)

    def example_claims(
        self, docs: Documents, rows: Sequence[Row]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The claimed share is reordered, and put back in order every stretch is one of a document."""
        stretches, moved, lost = 0, 0, 0
        for row in rows:
            for segment in range(1, int(row["segment_ids"].max()) + 1):
                tokens = row["tokens"][row["segment_ids"] == segment][:-1]
                marks = np.isin(tokens, self.mark_ids)
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
    """For the property suite: the last three ids of 64 are marks."""
    return FillInTheMiddle(mark_ids=(61, 62, 63), eos_id=6, length=40)
