"""Span corruption (T5) for encoder-decoders, with rows of stretches of documents.

Shape suffixes: B rows, S tokens of the inputs' row, L tokens of the targets' row, D model width.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.network import BoundNetwork
from objectives.base import Batch, Family, LossOut, Objective
from objectives.claims import Claims, HostCounts
from objectives.cross_entropy import cross_entropy
from objectives.pairs import RowBuilder, check_some_to_cut, draw_stretch
from objectives.rows import Documents, Row, RowMaker
from objectives.spans import Noise, inputs_and_targets, sentinel_ids, stretch_claims


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(Objective, RowMaker, Claims):
    r"""Write out the spans that were dropped from a text.

    .. math:: \sum_{t} -\log \mathrm{softmax}(E\, h_t)_{y_t}

    over the target tokens y_t, h_t being the decoder's state after the targets before t and the whole input. Spans of a
    stretch are replaced by sentinels in the inputs; the targets are those sentinels, each followed by what it stands for,
    and both end with the end token. Sentinels are the last ids, counting down. How many tokens and spans are dropped
    follows from the length alone: round(density n) and round(that / mean_span) (`objectives.spans`).

    A row holds as many stretches of documents as fit, one document each: 568 tokens of a long one fill 512 inputs and 114
    targets. The decoder starts from the pad token, and a stretch's targets see its own inputs only.

    Terms:
      nll: nats, weighted by target tokens.

    Metrics:
      accuracy: share of target tokens whose largest logit is right.

    Example:
      Two target tokens, all logits equal over a vocabulary of 8: 2 ln 8 = 4.1589 over weight 2.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(embedding_VD=jnp.ones((8, 2)), encode=lambda batch: None,
      ...                           decode=lambda tokens, batch, memory: jnp.zeros((1, 3, 2)))
      >>> batch = {"tokens": None, "target_tokens": jnp.array([[7, 6, 0]]),
      ...          "target_segment_ids": jnp.array([[1, 1, 0]])}
      >>> from objectives.rows import RowShape
      >>> objective = SpanCorruption(sentinels=1).for_rows(RowShape(length=4, own_start=7, own_stop=8))
      >>> loss_sum, weight_sum = objective(uniform, batch, jax.random.key(0)).terms["nll"]
      >>> round(float(loss_sum), 4), float(weight_sum)
      (4.1589, 2.0)

    Reference:
      Raffel et al., T5, arXiv 1910.10683, sections 3.1.4 and 3.3.4.
    """

    family: ClassVar[Family] = "encoder_decoder"

    sentinels: int = 100
    """How many there are; a stretch must not have more spans."""
    noise: Noise = Noise()
    """How much is dropped."""

    @property
    def targets_length(self) -> int:
        """Tokens of the targets' row (L): what one stretch that fills the inputs needs."""
        return self.noise.lengths(self.noise.raw_length(self.rows.length))[1]

    def own_ids(self) -> int:
        return self.sentinels

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(config.vocab_size)}

    def check(self, config: Any) -> None:
        self.rows.require(self, "eos_id")
        sentinel_ids(self.rows, self.own_ids())
        self.check_texts()
        if max(self.targets_length, self.rows.length) > config.max_positions:
            raise ValueError(
                f"inputs of {self.rows.length} and targets of {self.targets_length} tokens exceed max_positions "
                f"{config.max_positions}"
            )

    def check_texts(self) -> None:
        """Raise ValueError if the rows cannot hold what they should."""
        longest = self.noise.raw_length(self.rows.length)
        if longest < 2:
            raise ValueError(f"data.length {self.rows.length} cannot hold two tokens and a sentinel")
        spans = self.noise.counts(longest)[1]
        if spans > self.sentinels:
            raise ValueError(
                f"data.length {self.rows.length} makes up to {spans} spans, but there are {self.sentinels} sentinels: "
                "shorten the rows, lengthen the spans or take more sentinels"
            )

    def check_documents(self, docs: Documents) -> None:
        check_some_to_cut(docs, "span corruption")

    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        inputs, targets = RowBuilder(self.rows.length), RowBuilder(self.targets_length, "target_")
        first_sentinel = sentinel_ids(self.rows, self.sentinels)[0]
        denoisers = self.denoisers()
        head, noise = denoisers[int(rng.integers(len(denoisers)))]
        first = index % len(docs)
        while True:
            room = noise.fit(inputs.remaining - len(head), targets.remaining, self.sentinels)
            if room < 2:
                return {**inputs.row, **targets.row}
            text = draw_stretch(docs, first, room, rng)
            dropped = noise.draw(len(text), rng)
            kept, lost = inputs_and_targets(text, dropped, first_sentinel, self.rows.eos_id)
            inputs.add(np.concatenate([head, kept]))
            targets.add(lost)
            first = int(rng.integers(len(docs)))

    def denoisers(self) -> tuple[tuple[tuple[int, ...], Noise], ...]:
        """(tokens that open the inputs, noise) of each equally likely way to corrupt a row."""
        return (((), self.noise),)

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """Inputs and targets give back a stretch of a document, of which the claimed share was dropped."""
        denoisers, stretches = self.denoisers(), []
        heads = list(dict.fromkeys(head for head, _ in denoisers))
        opened = np.zeros(len(heads))
        for row in rows:
            for number, (inputs, targets) in enumerate(_stretches(row)):
                head = next((h for h in heads if h == tuple(inputs[: len(h)])), None)
                noises = [noise for own, noise in denoisers if own == head]
                stretches.append((inputs[len(head or ()) :], targets, noises))
                if number == 0 and head is not None:
                    opened[heads.index(head)] += 1
        likely = np.array([sum(own == head for own, _ in denoisers) for head in heads]) / len(denoisers)
        claims = stretch_claims(docs, stretches, sentinel_ids(self.rows, self.sentinels))
        return {**claims, "how rows open": (opened, likely * len(rows))}

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Encode the inputs, decode the targets shifted by one."""
        pad_id, memory_BSD = self.rows.pad_id, network.encode(batch)
        targets_BL, segment_ids_BL = batch["target_tokens"], batch["target_segment_ids"]
        shifted_BL = jnp.pad(targets_BL[:, :-1], ((0, 0), (1, 0)), constant_values=pad_id)
        same_BL = segment_ids_BL == jnp.pad(segment_ids_BL[:, :-1], ((0, 0), (1, 0)))
        hidden_BLD = network.decode(jnp.where(same_BL, shifted_BL, pad_id), batch, memory_BSD)
        weights_BL = (segment_ids_BL > 0).astype(jnp.float32)
        out = cross_entropy(hidden_BLD, network.embedding_VD, None, targets_BL, weights_BL)
        weight_sum = jnp.sum(weights_BL)
        return LossOut({"nll": (out.loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})


def _stretches(row: Row) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of every stretch of a row."""
    for segment in range(1, int(row["segment_ids"].max()) + 1):
        yield (
            row["tokens"][row["segment_ids"] == segment],
            row["target_tokens"][row["target_segment_ids"] == segment],
        )


def example() -> SpanCorruption:
    """For the property suite: one or two stretches in a row."""
    return SpanCorruption(sentinels=7)
