"""Next-sentence prediction (BERT), with rows of pairs built from documents.

Shape suffixes: B rows, L tokens of a row, G pairs of a row (index 0 is segment id 1), D model width.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.heads import Classifier, Pooler
from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective, refuse_causal
from objectives.claims import Claims, HostCounts
from objectives.cross_entropy import cross_entropy_of_logits
from objectives.pairs import (
    PairLengths,
    RowBuilder,
    are_of_one_document,
    check_two_distinct,
    draw_two,
    is_of_a_document,
    never,
    pairs_of,
)
from objectives.rows import Documents, Row, RowMaker
from objectives.segments import label_weights, pool

SPECIALS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSentence(Objective, RowMaker, Claims):
    r"""Say whether text B follows text A in its document.

    .. math:: \sum_{s} -\log \mathrm{softmax}(W\, \mathrm{pooler}(h_{s,0}) + c)_{y_s}

    over the pairs s of a row, each framed [CLS] A [SEP] B [SEP] with type 0 up to the first [SEP] and 1 after
    it; y = 0 if B is the continuation of A, 1 if it comes from another document (labels as in
    google-research/bert).

    The coin is fair and nothing but the content can tell its sides apart: two documents of different text are
    drawn for every pair, lengths and places are fixed, and only then the coin decides from which of them B is
    taken. A and B are spans of tokens, not sentences. (BERT's own rule, whose true rate of random pairs
    exceeds 0.5, is not this one.)

    Terms:
      nll: nats, weighted by pairs.

    Metrics:
      accuracy: share of pairs judged rightly.

    Example:
      One pair, logits (0, 0): ln 2 = 0.6931 over weight 1.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> network = SimpleNamespace(config=None, encode=lambda batch: jnp.zeros((1, 5, 2)),
      ...                           head=lambda name, x: jnp.zeros((1, 1, 2)))
      >>> batch = {"tokens": jnp.array([[2, 7, 3, 8, 3]]), "segment_ids": jnp.ones((1, 5), jnp.int32),
      ...          "labels": jnp.array([[1]])}
      >>> objective = NextSentence(shortest_pair=5, longest_pair=5)
      >>> [round(float(x), 4) for x in objective(network, batch, jax.random.key(0)).terms["nll"]]
      [0.6931, 1.0]

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 3.1, task 2.
    """

    head: ClassVar[str] = "next_sentence"
    """Name of the two-class head."""

    shortest_pair: int = 32
    """Least length of a pair, its three special tokens included; times data.max_segments it must reach data.length."""
    longest_pair: int = 128
    """Greatest length of a pair; pairs are shorter where documents are."""

    def __post_init__(self) -> None:
        if self.shortest_pair < SPECIALS + 2:
            raise ValueError(
                f"shortest_pair {self.shortest_pair} leaves no room beside {SPECIALS} special tokens"
            )

    def _lengths(self) -> PairLengths:
        rows = self.rows
        return PairLengths(
            length=rows.length, shortest=self.shortest_pair, longest=self.longest_pair, most=rows.max_segments
        )

    def heads(self, config: Any) -> Heads:
        return (("pooler", Pooler(config)), (self.head, Classifier(config, 2)))

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(2)}

    def check(self, config: Any) -> None:
        refuse_causal(self, config, "reads a pair off its first token")
        self.rows.require(self, "cls_id", "sep_id")
        self._lengths()
        if config.types == 1:
            raise ValueError(
                f"pairs have types 0 and 1, but {type(config).__name__} has types {config.types}"
            )

    def check_documents(self, docs: Documents) -> None:
        check_two_distinct(docs, "next-sentence prediction")

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        rows, lengths, builder = self.rows, self._lengths(), RowBuilder(self.rows.length)
        labels, type_ids = np.full(rows.max_segments, -1, np.int32), np.zeros(rows.length, np.int32)
        first = index % len(docs)
        while builder.segments < rows.max_segments and (size := lengths.draw(builder.remaining, rng)):
            a, b, label = self.draw_pair(docs, first, size - SPECIALS, rng)
            labels[builder.segments] = label
            tokens = np.concatenate([[rows.cls_id], a, [rows.sep_id], b, [rows.sep_id]])
            type_ids[builder.add(tokens)] = np.arange(len(tokens)) >= len(a) + 2
            first = int(rng.integers(len(docs)))
        return {**builder.row, "type_ids": type_ids, "labels": labels}

    def draw_pair(
        self, docs: Documents, first: int, tokens: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(A, B, label) of at most so many tokens; both spans are fixed in both documents before the coin falls."""
        one, other = draw_two(docs, first, rng)
        tokens = min(tokens, len(one), len(other))
        # The middle half, so that neither text is a mere stub (guess).
        cut = int(rng.integers(max(1, tokens // 4), max(1, tokens - tokens // 4 - 1) + 1))
        start_one, start_other = (int(rng.integers(0, len(doc) - tokens + 1)) for doc in (one, other))
        label = int(rng.integers(2))
        source, start = ((one, start_one), (other, start_other))[label]
        return one[start_one : start_one + cut], source[start + cut : start + tokens], label

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """A fair coin; B follows A on one side of it, and comes from no document of A's on the other."""
        pairs = [pair for row in rows for pair in pairs_of(row)]
        labels = np.array([label for _, _, label in pairs])
        broken = sum(not is_of_a_document(docs, np.append(a, b)) for a, b, y in pairs if y == 0)
        own = sum(are_of_one_document(docs, a, b) for a, b, y in pairs if y == 1)
        followed, random = int(np.sum(labels == 0)), int(np.sum(labels == 1))
        return {
            "fair coin": (np.array([followed, random]), np.full(2, len(pairs) / 2)),
            "B does not follow A": never(broken, followed),
            "random B from A's document": never(own, random),
        }

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        labels_BG, segment_ids_BL = batch["labels"], batch["segment_ids"]
        pooled_BGD = pool(hidden_BLD, segment_ids_BL, labels_BG.shape[1], "cls")
        logits_BG2 = network.head(self.head, network.head("pooler", pooled_BGD))
        weights_BG = label_weights(labels_BG, segment_ids_BL)
        out = cross_entropy_of_logits(logits_BG2, labels_BG, weights_BG)
        weight_sum = jnp.sum(weights_BG)
        return LossOut({"nll": (out.loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})


def example() -> NextSentence:
    """For the property suite: up to three pairs in a row of 24."""
    return NextSentence(shortest_pair=8, longest_pair=16)
