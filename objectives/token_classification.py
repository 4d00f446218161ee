"""One class per token: named entities, parts of speech.

Shape suffixes: B rows, L tokens of a row, D model width, C classes.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from model.heads import Classifier, Pooler
from model.network import BoundNetwork
from model.ranges import Range
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy_of_logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Objective, Claims):
    r"""Predict the label of each labelled token from its hidden state.

    .. math:: \sum_{i:\, y_i \ge 0} -\log \mathrm{softmax}(W h_i + c)_{y_i}

    with the model's dropout before the linear map. The first piece of a word carries the word's label, all
    others have none (-1).

    Terms:
      nll: nats, weighted by labelled tokens.

    Metrics:
      accuracy: share of labelled tokens whose largest logit is right.

    Example:
      Labels (0, 1, none) and logits (ln 3, 0) everywhere: ln(4/3) + ln 4 = 1.674 over weight 2.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> logits = jnp.log(jnp.array([3.0, 1.0]))
      >>> config = SimpleNamespace(pools_all=False)
      >>> network = SimpleNamespace(config=config, encode=lambda batch: jnp.zeros((1, 3, 2)),
      ...                           head=lambda name, x, batch: jnp.broadcast_to(logits, (1, 3, 2)))
      >>> batch = {"tokens": jnp.full((1, 3), 7), "segment_ids": jnp.ones((1, 3), jnp.int32),
      ...          "token_labels": jnp.array([[0, 1, -1]])}
      >>> out = TokenClassification(classes=2)(network, batch, jax.random.key(0))
      >>> [round(float(x), 4) for x in out.terms["nll"]]
      [1.674, 2.0]

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 5.3 (first sub-token of each word).
    """

    classes: Annotated[int, Range(least=2)]
    """Number of labels."""

    def heads(self, config: Any) -> Heads:
        """A linear map from each hidden state; ModernBERT's go through its pooler before."""
        classifier = ("token_classifier", Classifier(config, self.classes, config.dropout))
        return (("pooler", Pooler(config)), classifier) if config.pools_all else (classifier,)

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(self.classes)}

    def logits(self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch) -> jax.Array:
        """float32[B, L, classes]; also what predictions are made of."""
        if network.config.pools_all:
            hidden_BLD = network.head("pooler", hidden_BLD)
        logits_BLC: jax.Array = network.head("token_classifier", hidden_BLD, batch=batch)
        return logits_BLC

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        labels_BL = batch["token_labels"]
        weights_BL = ((labels_BL >= 0) & (batch["segment_ids"] > 0)).astype(jnp.float32)
        out = cross_entropy_of_logits(self.logits(network, hidden_BLD, batch), labels_BL, weights_BL)
        weight_sum = jnp.sum(weights_BL)
        return LossOut({"nll": (out.loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})


def example() -> TokenClassification:
    """For the property suite: two classes."""
    return TokenClassification(classes=2)
