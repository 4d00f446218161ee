"""Sentence-order prediction (ALBERT), with rows of pairs built from documents."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from objectives.claims import HostCounts
from objectives.next_sentence import NextSentence
from objectives.pairs import check_some_to_cut, draw_document, is_of_a_document, never, pairs_of
from objectives.rows import Documents, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceOrder(NextSentence):
    r"""Say whether two neighbouring texts stand in the order of their document.

    .. math:: \sum_{s} -\log \mathrm{softmax}(W\, \mathrm{pooler}(h_{s,0}) + c)_{y_s}

    over the pairs s of a row, framed as next-sentence prediction frames them; y = 0 if A precedes B, 1 if they were
    swapped. Both texts are always of one document, so their topic tells nothing and only their coherence can. The cut
    between them is drawn evenly around the middle: swapping leaves the lengths' distribution as it is.

    Terms and metrics are those of next-sentence prediction.

    Example:
      The coin says in which order the halves of two neighbouring tokens stand; read in that order they are the text again:

      >>> objective = SentenceOrder(shortest_pair=5, longest_pair=5)
      >>> a, b, label = objective.draw_pair([np.array([7, 8])], 0, 2, np.random.default_rng(0))
      >>> np.concatenate((b, a) if label else (a, b)).tolist()
      [7, 8]

    Reference:
      Lan et al., ALBERT, arXiv 1909.11942, section 3.1.
    """

    head: ClassVar[str] = "sentence_order"

    def check_documents(self, docs: Documents) -> None:
        check_some_to_cut(docs, "sentence-order prediction")

    def draw_pair(
        self, docs: Documents, first: int, tokens: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(A, B, label) of at most so many tokens; the stretch and its cut are fixed before the coin falls."""
        doc = draw_document(docs, first, 2, rng)
        tokens = min(tokens, len(doc))
        least = max(1, tokens // 4)
        cut, start = int(rng.integers(least, tokens - least + 1)), int(rng.integers(len(doc) - tokens + 1))
        halves = doc[start : start + cut], doc[start + cut : start + tokens]
        label = int(rng.integers(2))
        return halves[label], halves[1 - label], label

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """A fair coin; joined in the order that the label tells, A and B stand in a document."""
        pairs = [pair for row in rows for pair in pairs_of(row)]
        swapped = sum(label for _, _, label in pairs)
        joined = [np.concatenate((b, a) if label else (a, b)) for a, b, label in pairs]
        broken = sum(not is_of_a_document(docs, text) for text in joined)
        return {
            "fair coin": (np.array([len(pairs) - swapped, swapped]), np.full(2, len(pairs) / 2)),
            "not of one stretch": never(broken, len(pairs)),
        }


def example() -> SentenceOrder:
    """For the property suite: up to three pairs in a row of 24."""
    return SentenceOrder(shortest_pair=8, longest_pair=16)
