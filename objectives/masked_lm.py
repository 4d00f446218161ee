"""Masked language modelling with dynamic masking (BERT, RoBERTa).

Shape suffixes: B rows, L tokens of a row, P scored positions of a row, D model width.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from model.heads import MaskedLMHead
from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, Heads, LossOut, Objective, Scored, refuse_causal
from objectives.claims import Claims, DeviceCounts, Premises
from objectives.cross_entropy import cross_entropy
from objectives.masking import Masking


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Objective, Claims):
    r"""Predict a random 15% of the tokens from the rest.

    .. math:: \sum_{i \in M} -\log \mathrm{softmax}(E\, h_i + c)_{x_i}, \qquad
              |M_s| = \min(\lceil \text{cap\_rate} \cdot \mathrm{len}_s \rceil,
                           \max(1, \mathrm{round}(\text{rate} \cdot n_s)))

    per segment s with n_s ordinary tokens (ids from first_ordinary_id up), M_s drawn uniformly without
    replacement; a segment with no ordinary token has none. With unit "word" whole words are drawn, with "span"
    runs of words, and M_s is filled as far as whole words fit (`objectives.masking`). The rate may go from `rate`
    to `final_rate` in equal steps over the first `rate_examples` examples. Of the scored tokens 80%
    are replaced by the mask, 10% by a uniform ordinary token, 10% are kept. h is the head's transform of the
    hidden state, E the tied token table. Masking is drawn from the step and the identity of each token
    (`objectives.randomness`), or from the latter alone (`fixed_masks`).

    Only the scored positions pass the head and the vocabulary projection: they are gathered into P columns, P
    being the largest number that any packing of a row can need, so none is ever dropped. A batch with more
    packed segments than the run's rows may hold would break that promise: its loss is NaN, which stops the
    run before the update.

    Terms:
      nll: nats, weighted by scored tokens.

    Metrics:
      accuracy: share of scored tokens whose largest logit is right.

    Example:
      One row of 4 ordinary tokens (7, 7, 7, 7), rate 0.5: 2 are scored. With a network whose logits are all
      equal over a vocabulary of 8 the loss is 2 ln 8 = 4.1589 over weight 2.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=SimpleNamespace(vocab_size=8), embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 4, 2)),
      ...                           head=lambda name, hidden: (hidden, jnp.zeros(8)))
      >>> batch = {"tokens": jnp.full((1, 4), 7), "segment_ids": jnp.ones((1, 4), jnp.int32),
      ...          "positions": jnp.arange(4)[None], "example_ids": jnp.array([0])}
      >>> from objectives.rows import RowShape
      >>> objective = MaskedLM(masking=Masking(rate=0.5, cap_rate=1.0))
      >>> objective = objective.for_rows(RowShape(length=4, mask_id=4, first_ordinary_id=7))
      >>> loss_sum, weight_sum = objective(uniform, batch, jax.random.key(0)).terms["nll"]
      >>> round(float(loss_sum), 4), float(weight_sum)
      (4.1589, 2.0)

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 3.1 and appendix A.1; Liu et al., RoBERTa, arXiv
      1907.11692, section 4.1 (dynamic masking); whole words: google-research/bert, 2019;
      spans: Joshi et al., SpanBERT, arXiv 1907.10529, section 3.1 (without its boundary objective);
      schedule: Ankner et al., arXiv 2305.15096.
    """

    masking: Masking = Masking()
    """What is scored, and what stands in its place."""

    def reads(self) -> tuple[str, ...]:
        return self.masking.reads()

    def heads(self, config: Any) -> Heads:
        return (("masked_lm", MaskedLMHead(config)),)

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def check(self, config: Any) -> None:
        refuse_causal(self, config, "predicts a masked token from both sides")
        self.masking.check(self.rows, config, self)

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        return self.masking.mask(self.rows, config.vocab_size, batch, rng)

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        positions_BP, targets_BP, weights_BP = (
            corrupted.plan[name] for name in ("positions", "targets", "weights")
        )
        hidden_BPD = jnp.take_along_axis(hidden_BLD, positions_BP[..., None], axis=1)
        transformed_BPD, bias_V = network.head("masked_lm", hidden_BPD)
        return Scored(transformed_BPD, network.embedding_VD, bias_V, targets_BP, weights_BP)

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        out = cross_entropy(*self.scored(network, hidden_BLD, batch, corrupted))
        weight_sum = jnp.sum(corrupted.plan["weights"])
        loss_sum = jnp.where(corrupted.plan["crowded"], jnp.nan, out.loss_sum)
        return LossOut({"nll": (loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})

    def initial_loss(self, config: Any) -> dict[str, float]:
        return {"nll": math.log(config.vocab_size)}

    def premises(self) -> Premises:
        """BERT keeps some of what it scores; masks may be fixed."""
        return self.masking.premises()

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        return self.masking.claims(self.rows, config.vocab_size, batch, corrupted)


def example() -> MaskedLM:
    """For the property suite: single tokens, 15% of them."""
    return MaskedLM()
