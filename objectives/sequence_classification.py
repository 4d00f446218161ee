"""One class per segment: sentiment, acceptability, entailment of a framed pair.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row, D model width, C classes.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from model.heads import Classifier, Pooler
from model.network import BoundNetwork
from model.ranges import Range
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective, refuse_causal
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy_of_logits
from objectives.segments import Pooling, label_weights, pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassification(Objective, Claims):
    r"""Predict the label of each packed segment from its pooled hidden states.

    .. math:: \sum_{s} -\log \mathrm{softmax}(W u_s + c)_{y_s}

    over segments s with a label; u_s is the first token through BERT's pooler ("cls"), the mean of the segment's tokens
    ("mean"), with the model's dropout before the linear map, or the last token as it is ("last", where c = 0).

    Terms:
      nll: nats, weighted by labelled segments.

    Metrics:
      accuracy: share of segments whose largest logit is right.

    Example:
      Two segments, of which one is labelled (with 0), and logits (ln 3, 0) for each: ln(4/3) = 0.2877 over
      weight 1.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> logits = jnp.log(jnp.array([3.0, 1.0]))
      >>> config = SimpleNamespace(pools_all=False)
      >>> network = SimpleNamespace(config=config, encode=lambda batch: jnp.zeros((1, 3, 2)),
      ...                           head=lambda name, x, batch: jnp.broadcast_to(logits, (1, 2, 2)))
      >>> batch = {"tokens": jnp.full((1, 3), 7), "segment_ids": jnp.array([[1, 1, 2]]),
      ...          "labels": jnp.array([[0, -1]])}
      >>> out = SequenceClassification(classes=2, pooling="mean")(network, batch, jax.random.key(0))
      >>> [round(float(x), 4) for x in out.terms["nll"]]
      [0.2877, 1.0]

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 4.1; Radford et al., Improving Language Understanding by Generative
      Pre-Training (2018), section 3.2, for the last token.
    """

    classes: Annotated[int, Range(least=2)]
    """Number of labels."""
    pooling: Pooling = "cls"
    """What stands for the segment: its first token through the pooler, the mean of its tokens, or its last token."""

    def heads(self, config: Any) -> Heads:
        """The pooler carries the name that next-sentence pretraining gave it, so a hand-off may keep it."""
        if self.pooling == "last":
            return (("score", Classifier(config, self.classes, bias=False)),)
        classifier = ("classifier", Classifier(config, self.classes, config.dropout))
        return (("pooler", Pooler(config)), classifier) if self._has_pooler(config) else (classifier,)

    def _has_pooler(self, config: Any) -> bool:
        return self.pooling == "cls" or config.pools_all

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(self.classes)}

    def check(self, config: Any) -> None:
        if self.pooling == "cls":
            refuse_causal(
                self, config, "reads a segment off its first token (pooling cls; take last or mean)"
            )

    def logits(self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch) -> jax.Array:
        """float32[B, G, classes]; also what predictions are made of."""
        segments = batch["labels"].shape[1]
        pooled_BGD = pool(hidden_BLD, batch["segment_ids"], segments, self.pooling)
        if self.pooling == "last":
            return network.head("score", pooled_BGD)
        if self._has_pooler(network.config):
            pooled_BGD = network.head("pooler", pooled_BGD)
        logits_BGC: jax.Array = network.head("classifier", pooled_BGD, batch=batch)
        return logits_BGC

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        weights_BG = label_weights(batch["labels"], batch["segment_ids"])
        out = cross_entropy_of_logits(self.logits(network, hidden_BLD, batch), batch["labels"], weights_BG)
        weight_sum = jnp.sum(weights_BG)
        return LossOut({"nll": (out.loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})


def example() -> SequenceClassification:
    """For the property suite: two classes."""
    return SequenceClassification(classes=2)
