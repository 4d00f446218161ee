"""Span corruption for decoders: inputs and targets in one row, loss on the targets.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives.base import Batch, Corrupted
from objectives.causal_lm import CausalLM, successors
from objectives.claims import HostCounts
from objectives.pairs import RowBuilder, check_some_to_cut, draw_stretch
from objectives.rows import Documents, Row, RowMaker
from objectives.spans import Noise, inputs_and_targets, sentinel_ids, stretch_claims


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderSpanCorruption(CausalLM, RowMaker):
    r"""Read a text in which spans are replaced by sentinels, then write out the spans, in one causal row.

    .. math:: \sum_{t} -\log \mathrm{softmax}(E\, h_{t-1})_{y_t}

    over the target tokens y_t; each segment is inputs, end, targets, end. Counts, spans and sentinels are those of
    `SpanCorruption`. Inputs are seen by their whole segment (the batch's `prefix`), unless `causal_inputs`.

    Terms and metrics are those of causal language modelling.

    Example:
      The text 7, 8, 9 whose last two tokens are dropped, sentinels from 63 down, the end being 6:

      >>> from objectives.rows import RowShape
      >>> rows = RowShape(length=9, eos_id=6, own_start=62, own_stop=64)
      >>> objective = DecoderSpanCorruption(sentinels=2).for_rows(rows)
      >>> tokens, inputs = objective.laid_out(np.array([7, 8, 9]), np.array([False, True, True]))
      >>> tokens.tolist(), inputs
      ([7, 63, 6, 63, 8, 9, 6], 3)

    Reference:
      Raffel et al., T5, arXiv 1910.10683, sections 3.2.1 (language model and prefix LM shapes) and 3.3.4.
    """

    sentinels: int = 100
    """How many there are; a stretch must not have more spans."""
    noise: Noise = Noise()
    """How much is dropped."""
    causal_inputs: bool = False
    """Whether inputs too see only what stands before them."""

    def own_ids(self) -> int:
        return self.sentinels

    def check(self, config: Any) -> None:
        super().check(config)
        self.rows.require(self, "eos_id")
        sentinel_ids(self.rows, self.sentinels)
        if self.noise.fit_together(self.rows.length, self.sentinels) < 2:
            raise ValueError(f"rows of {self.rows.length} cannot hold two tokens, two sentinels and two ends")

    def check_documents(self, docs: Documents) -> None:
        check_some_to_cut(docs, "span corruption")

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        builder, prefix_L = RowBuilder(self.rows.length), np.zeros(self.rows.length, bool)
        first = index % len(docs)
        while (room := self.noise.fit_together(builder.remaining, self.sentinels)) >= 2:
            text = draw_stretch(docs, first, room, rng)
            tokens, inputs = self.laid_out(text, self.noise.draw(len(text), rng))
            start = builder.add(tokens).start
            prefix_L[start : start + inputs] = True
            first = int(rng.integers(len(docs)))
        return {**builder.row, "prefix": prefix_L}

    def laid_out(self, text: np.ndarray, dropped: np.ndarray) -> tuple[np.ndarray, int]:
        """(tokens of a segment, how many of them are inputs with their end)."""
        first = sentinel_ids(self.rows, self.sentinels)[0]
        inputs, targets = inputs_and_targets(text, dropped, first, self.rows.eos_id)
        return np.concatenate([inputs, targets]).astype(np.int32), len(inputs)

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        stretches = ((*pair, (self.noise,)) for row in rows for pair in _stretches(row))
        return stretch_claims(docs, stretches, sentinel_ids(self.rows, self.sentinels))

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """The batch as it is, or without its prefix, so that inputs too are read from left to right."""
        hidden = ("prefix",) if self.causal_inputs else ()
        return Corrupted({k: v for k, v in batch.items() if k not in hidden}, {})

    def targets(self, batch: Batch, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
        """Of the successors those are scored that are targets."""
        targets_BL, weights_BL = successors(batch)
        is_input_BL = jnp.pad(batch["prefix"][:, 1:], ((0, 0), (0, 1)))
        return targets_BL, weights_BL * ~is_input_BL


def _stretches(row: Row) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of every stretch of a row."""
    for segment in range(1, int(row["segment_ids"].max()) + 1):
        here = row["segment_ids"] == segment
        tokens, is_input = row["tokens"][here], row["prefix"][here]
        yield tokens[is_input], tokens[~is_input]


def example() -> DecoderSpanCorruption:
    """For the property suite."""
    return DecoderSpanCorruption(sentinels=7)
