"""A segment predicts the words of the rest of its document.

Shape suffixes: B rows, L tokens of a row, G segments of a row (index 0 is segment id 1), D model width, V
vocabulary.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from model.heads import MaskedLMHead
from model.network import BoundNetwork
from model.ranges import COUNT, POSITIVE, Range
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective
from objectives.claims import Claims, HostCounts
from objectives.pairs import PairLengths, RowBuilder, draw_document, is_of_a_document, never
from objectives.rows import Documents, Row, RowMaker
from objectives.segments import Pooling, membership, nan_if_crowded, pool

SPECIALS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeighbourWords(Objective, RowMaker, Claims):
    r"""The pooled vector of a segment predicts, as a bag, the words of the other segments of its document.

    .. math:: \sum_s \sum_{j \in N(s)} -w_{x_j} \log \mathrm{softmax}(E\, u_s + c)_{x_j}, \qquad
              w_v = \min\left(1, \sqrt{t / f_v}\right), \quad f_v = \frac{1}{r_v (\ln V + \gamma)}

    u_s is the pooled segment s through the head's transform, E the tied token table, N(s) the ordinary tokens
    of the other segments of the same document in the row. Frequent words say little about a document, so they
    weigh less (t is `subsample`). Their frequency f follows from their rank r (id - first_ordinary_id + 1) by
    Zipf's law, gamma being Euler's constant: SentencePiece numbers its unigram pieces by falling frequency.
    (On 24 MB of film reviews and 8,192 pieces the weights so found correlate 0.97 to 0.99 with those from
    counts, 2026-11-21.)

    Which words share a document is what a window of a masked language model sees least of; on film reviews it
    carries most of the sentiment.

    The sum over words of the logits is taken as u_s . sum(E), so no word's logit is gathered and the only
    large array is that of the logits [B, G, V], smaller than a masked LM's wherever segments are longer than
    7 tokens.

    Terms:
      nll: nats, weighted by w.

    Example:
      Two segments of a document, (7, 8) and (9): the first predicts one word, the second two. With rare words
      only (weights 1) and equal logits over a vocabulary of 10: 3 ln 10 = 6.9078 over weight 3.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(
      ...     config=SimpleNamespace(vocab_size=10), embedding_VD=jnp.ones((10, 2)),
      ...     encode=lambda batch: jnp.zeros((1, 3, 2)), head=lambda name, x: (x, jnp.zeros(10)),
      ...     unembed=lambda x, bias: jnp.zeros((1, 2, 10)))
      >>> batch = {"tokens": jnp.array([[7, 8, 9]]), "segment_ids": jnp.array([[1, 1, 2]])}
      >>> from objectives.rows import RowShape
      >>> objective = NeighbourWords(shortest_document=8, longest_document=8, subsample=1.0)
      >>> objective = objective.for_rows(RowShape(length=8, max_segments=2, first_ordinary_id=7))
      >>> [round(float(x), 4) for x in objective(uniform, batch, jax.random.key(0)).terms["nll"]]
      [6.9078, 3.0]

    Reference:
      Hill et al., FastSent, arXiv 1602.03483, section 3.2; Le and Mikolov, PV-DBOW, arXiv 1405.4053, section
      2.3; down-weighting: Mikolov et al., arXiv 1310.4546, equation 5.
    """

    segments_per_document: Annotated[int, Range(least=2)] = 2
    """Segments cut from one document for one row; each predicts the words of all others."""
    shortest_document: Annotated[int, COUNT] = 64
    """Least tokens taken from one document, special tokens included."""
    longest_document: Annotated[int, COUNT] = 128
    """Most tokens taken from one document, special tokens included."""
    pooling: Pooling = "mean"
    """What stands for a segment: the mean of its tokens or its first token."""
    subsample: Annotated[float, POSITIVE] = 1e-4
    """t above: words more frequent than this weigh less (1e-4 and 1e-5 were equal within noise)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = (SPECIALS + 1) * self.segments_per_document
        if self.shortest_document < least:
            raise ValueError(
                f"shortest_document {self.shortest_document} is below {least}, one token per segment"
            )

    def _lengths(self) -> PairLengths:
        return PairLengths(
            length=self.rows.length,
            shortest=self.shortest_document,
            longest=self.longest_document,
            most=self.rows.max_segments // self.segments_per_document,
        )

    def segments_per_unit(self) -> int:
        return self.segments_per_document

    def heads(self, config: Any) -> Heads:
        return (("neighbour_words", MaskedLMHead(config)),)

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(config.vocab_size)}

    def check(self, config: Any) -> None:
        self.rows.require(self, "cls_id", "sep_id")
        if self.rows.max_segments % self.segments_per_document:
            raise ValueError(
                f"data.max_segments {self.rows.max_segments} is not divisible by segments_per_document "
                f"{self.segments_per_document}"
            )
        self._lengths()

    def check_documents(self, docs: Documents) -> None:
        if not any(len(docs[i]) >= self.segments_per_document for i in range(len(docs))):
            raise ValueError(
                f"no document has {self.segments_per_document} tokens, one for each segment of a row"
            )

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        """One row of documents cut into segments; index % len(docs) opens it unless it is below shortest_document."""
        lengths, builder = self._lengths(), RowBuilder(self.rows.length)
        pieces = self.segments_per_document
        first = index % len(docs)
        while builder.segments < self.rows.max_segments and (size := lengths.draw(builder.remaining, rng)):
            wanted = size - SPECIALS * pieces
            document = draw_document(docs, first, self.shortest_document - SPECIALS * pieces, rng)
            first = int(rng.integers(len(docs)))
            wanted = min(wanted, len(document))
            if wanted < pieces:
                continue
            start = int(rng.integers(0, len(document) - wanted + 1))
            for piece in _cut(document[start : start + wanted], pieces, rng):
                tokens = np.concatenate([[self.rows.cls_id], piece, [self.rows.sep_id]])
                builder.add(tokens)
        return builder.row

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """The parts of a document, put together again, are a stretch of one."""
        broken, documents = 0, 0
        for row in rows:
            parts = [
                row["tokens"][row["segment_ids"] == g + 1][1:-1] for g in range(row["segment_ids"].max())
            ]
            for first in range(0, len(parts), self.segments_per_document):
                whole = np.concatenate(parts[first : first + self.segments_per_document])
                documents += 1
                broken += not is_of_a_document(docs, whole)
        return {"no stretch of a document": never(broken, documents)}

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """Log normalisers of all segments, less the logits of their neighbours' words."""
        tokens_BL, segment_ids_BL = batch["tokens"], batch["segment_ids"]
        weights_BL = self._word_weights(tokens_BL, segment_ids_BL, network.config.vocab_size)
        to_neighbours_BGL = self._neighbours(segment_ids_BL) * weights_BL[:, None, :]
        weights_BG = jnp.sum(to_neighbours_BGL, axis=-1)

        pooled_BGD = pool(hidden_BLD, segment_ids_BL, self.rows.max_segments, self.pooling)
        transformed_BGD, bias_V = network.head("neighbour_words", pooled_BGD)
        log_z_BG = jax.nn.logsumexp(network.unembed(transformed_BGD, bias_V), axis=-1)
        words_BLD = jnp.take(network.embedding_VD, tokens_BL, axis=0)
        bags_BGD = jnp.einsum(
            "BGL,BLD->BGD", to_neighbours_BGL, words_BLD, preferred_element_type=jnp.float32
        )
        logits_BG = jnp.einsum("BGD,BGD->BG", transformed_BGD, bags_BGD, preferred_element_type=jnp.float32)
        logits_BG += jnp.einsum("BGL,BL->BG", to_neighbours_BGL, jnp.take(bias_V, tokens_BL, axis=0))
        loss_sum = jnp.sum(weights_BG * log_z_BG - logits_BG)
        loss_sum = nan_if_crowded(loss_sum, segment_ids_BL, self.rows.max_segments)
        return LossOut({"nll": (loss_sum, jnp.sum(weights_BG))}, {})

    def _word_weights(self, tokens_BL: jax.Array, segment_ids_BL: jax.Array, vocab_size: int) -> jax.Array:
        """Weight of each token as a target; 0 for special tokens and padding."""
        rank_BL = jnp.maximum(tokens_BL - self.rows.first_ordinary_id + 1, 1).astype(jnp.float32)
        zipf = self.subsample * (math.log(vocab_size) + float(np.euler_gamma))
        ordinary_BL = (tokens_BL >= self.rows.first_ordinary_id) & (segment_ids_BL > 0)
        return jnp.where(ordinary_BL, jnp.minimum(1.0, jnp.sqrt(zipf * rank_BL)), 0.0)

    def _neighbours(self, segment_ids_BL: jax.Array) -> jax.Array:
        """float32[B, G, L]: 1 where a token lies in another segment of the same document."""
        own_BGL = membership(segment_ids_BL, self.rows.max_segments).swapaxes(1, 2)
        document_G = jnp.arange(self.rows.max_segments) // self.segments_per_document
        document_BL = (segment_ids_BL - 1) // self.segments_per_document
        same_BGL = document_BL[:, None, :] == document_G[None, :, None]
        present_BG = jnp.any(own_BGL, axis=-1)
        return (same_BGL & ~own_BGL & present_BG[..., None]).astype(jnp.float32)


def _cut(tokens: np.ndarray, pieces: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Consecutive pieces, none empty, whose lengths vary by up to half around the mean."""
    even = np.arange(1, pieces) * len(tokens) / pieces
    shift = rng.uniform(-0.25, 0.25, pieces - 1) * len(tokens) / pieces
    cuts = np.round(even + shift).astype(int)
    # With few tokens rounding could make a piece empty.
    for i in range(pieces - 1):
        cuts[i] = max(cuts[i], i + 1, cuts[i - 1] + 1 if i else 1)
        cuts[i] = min(cuts[i], len(tokens) - (pieces - 1 - i))
    return np.split(tokens, cuts)


def example() -> NeighbourWords:
    """For the property suite: up to three documents of two segments each in a row of 24."""
    return NeighbourWords(shortest_document=8, longest_document=16, subsample=0.05)
