"""Multi-token prediction: each position predicts several of the tokens that follow it.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from model.network import BoundNetwork
from model.ranges import POSITIVE, Range
from model.tower import Tower
from objectives.base import Batch, Corrupted, Family, Heads, LossOut, Objective, refuse_bidirectional
from objectives.causal_lm import successors
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken(Objective, Claims):
    r"""Predict the next token, and with one more block each the tokens after it.

    .. math:: \sum_{k=1}^{n} c_k \sum_i -\log \mathrm{softmax}(E\, f_k(h)_i)_{x_{i+k}}, \qquad f_1 = \mathrm{id}

    over positions i whose k-th successor lies in the same segment. f_k is one causal block of its own with a last norm,
    E the table of the logits, shared by all. f_1 is the backbone as it is, so that what is handed off is a plain
    language model (the paper gives the first prediction a block too).

    Terms:
      nll, ahead_2, ahead_3, ...: nats, weighted by predicted tokens; the further ones have the factor `ahead_weight`.

    Metrics:
      accuracy: share of next tokens whose largest logit is right.

    Example:
      Segments of three and two tokens, all logits equal over a vocabulary of 8: 3 next tokens, 1 after the next.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=None, embedding_VD=jnp.ones((8, 2)), head=lambda name, x, *_, batch: x,
      ...                           encode=lambda batch: jnp.zeros((1, 6, 2)))
      >>> batch = {"tokens": jnp.full((1, 6), 7), "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]]),
      ...          "positions": jnp.array([[0, 1, 2, 0, 1, 0]])}
      >>> terms = MultiToken(ahead=2)(uniform, batch, jax.random.key(0)).terms
      >>> [(name, round(float(loss), 4), float(weight)) for name, (loss, weight) in terms.items()]
      [('nll', 6.2383, 3.0), ('ahead_2', 2.0794, 1.0)]

    Reference:
      Gloeckle et al., Better & Faster Large Language Models via Multi-token Prediction, arXiv 2404.19737, section 2.
    """

    ahead: Annotated[int, Range(least=2)] = 2
    """How many successors each position predicts (n)."""
    ahead_weight: Annotated[float, POSITIVE] = 1.0
    """Factor of every term but the first; the paper weighs all alike."""

    family: ClassVar[Family] = "decoder"

    def _names(self) -> list[str]:
        return [f"ahead_{k}" for k in range(2, self.ahead + 1)]

    def heads(self, config: Any) -> Heads:
        one_layer = dataclasses.replace(config, layers=1, unroll=1)
        return tuple((name, Tower(one_layer)) for name in self._names())

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0, **{name: self.ahead_weight for name in self._names()}}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {name: math.log(config.vocab_size) for name in self.coefficients()}

    def check(self, config: Any) -> None:
        refuse_bidirectional(self, config)
        if self.rows.length <= self.ahead:
            raise ValueError(f"rows of {self.rows.length} tokens have no token {self.ahead} ahead")

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        table_VD = network.embedding_VD
        terms, metrics = {}, {}
        for distance, name in enumerate(self.coefficients(), start=1):
            states_BLD = hidden_BLD
            if distance > 1:
                layout = (batch["segment_ids"], batch["positions"])
                states_BLD = network.head(name, hidden_BLD, *layout, batch=batch)
            targets_BL, weights_BL = successors(batch, distance)
            out = cross_entropy(states_BLD, table_VD, None, targets_BL, weights_BL)
            terms[name] = (out.loss_sum, jnp.sum(weights_BL))
            if distance == 1:
                metrics["accuracy"] = (out.correct_sum, jnp.sum(weights_BL))
        return LossOut(terms, metrics)


def example() -> MultiToken:
    """For the property suite: two further tokens."""
    return MultiToken(ahead=3)
