"""Next-token prediction (GPT).

Shape suffixes: B rows, L tokens of a row, D model width, V vocabulary.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, Family, LossOut, Objective, Scored, refuse_bidirectional
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(Objective, Claims):
    r"""Predict each token of a segment from those before it.

    .. math:: \sum_{i} -\log \mathrm{softmax}(E\, h_i)_{x_{i+1}} + z \log^2 Z_i

    over positions i whose successor lies in the same segment; E is the tied token table. The last token of a
    segment predicts nothing, and no segment predicts the next one's first token.

    Terms:
      nll: nats (with the z-loss, if any), weighted by predicted tokens.

    Metrics:
      accuracy: share of tokens whose largest logit is right.
      pure_nll: nats without the z-loss; only if z_loss > 0.

    Example:
      Two segments (7, 7, 7) and (7, 7): 2 + 1 predicted tokens. With all logits equal over a vocabulary of 8
      the loss is 3 ln 8 = 6.2383 over weight 3.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=None, embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 6, 2)))
      >>> batch = {"tokens": jnp.full((1, 6), 7), "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]])}
      >>> loss_sum, weight_sum = CausalLM()(uniform, batch, jax.random.key(0)).terms["nll"]
      >>> round(float(loss_sum), 4), float(weight_sum)
      (6.2383, 3.0)

    Reference:
      Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019, equation 1; z-loss as
      in Chowdhery et al., PaLM, arXiv 2204.02311, section 5.
    """

    z_loss: float = 0.0
    """Factor of the squared log normaliser; PaLM uses 1e-4."""
    chunk: int | None = None
    """Positions per row whose logits exist at once; None chooses (objectives.cross_entropy)."""

    family: ClassVar[Family] = "decoder"

    def __post_init__(self) -> None:
        if self.z_loss < 0 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(f"z_loss {self.z_loss} must not be negative and chunk {self.chunk} not below 1")

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def initial_loss(self, config: Any) -> dict[str, float]:
        uniform = math.log(config.vocab_size)
        return {"nll": uniform + self.z_loss * uniform**2}

    def check(self, config: Any) -> None:
        refuse_bidirectional(self, config)

    def targets(self, batch: Batch, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
        """What each token predicts, int32 [B, L], and whether that is scored, float32 [B, L]."""
        return successors(batch)

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        return Scored(hidden_BLD, network.embedding_VD, None, *self.targets(batch, corrupted))

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        scored = self.scored(network, hidden_BLD, batch, corrupted)
        out = cross_entropy(*scored, z_loss=self.z_loss, chunk=self.chunk)
        weight_sum = jnp.sum(scored.weights_BP)
        metrics = {"accuracy": (out.correct_sum, weight_sum)}
        if self.z_loss > 0:
            metrics["pure_nll"] = (out.nll_sum, weight_sum)
        return LossOut({"nll": (out.loss_sum, weight_sum)}, metrics)


def successors(batch: Batch, distance: int = 1) -> tuple[jax.Array, jax.Array]:
    """Each token's successor at that distance int32 [B, L], and float32 [B, L] whether it has one in its segment."""
    segment_ids_BL = batch["segment_ids"]
    # Length stays L (a power of two, mostly): the last columns have a successor in no segment.
    next_segment_BL, targets_BL = (
        jnp.pad(x_BL[:, distance:], ((0, 0), (0, distance))) for x_BL in (segment_ids_BL, batch["tokens"])
    )
    return targets_BL, ((segment_ids_BL == next_segment_BL) & (segment_ids_BL > 0)).astype(jnp.float32)


def example() -> CausalLM:
    """For the property suite."""
    return CausalLM()
