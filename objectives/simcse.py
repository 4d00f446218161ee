"""Contrastive sentence embeddings (SimCSE): a text is nearest to itself under other dropout.

Shape suffixes: B rows, L tokens of a row, G segments of a row (index 0 is segment id 1), N = B x G segments of the batch,
D model width.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.heads import Pooler
from model.network import BoundNetwork
from model.ranges import POSITIVE
from objectives.base import Batch, Heads, LossOut, Objective, refuse_causal
from objectives.segments import Pooling, membership, pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCSE(Objective):
    r"""Tell each segment of the batch from all others by two encodes that differ in dropout only.

    .. math:: \sum_n -\log \frac{\exp(\cos(z_n, z'_n) / \tau)}{\sum_{m} \exp(\cos(z_n, z'_m) / \tau)}

    z_n and z'_n are the pooled states of segment n, through BERT's pooler, under two draws of dropout. The sum over m
    runs over the whole batch, so the loss is no sum over rows: what would split the batch refuses it. Without dropout
    both encodes are the same and the positives say nothing. A text that is in the batch more than once is no negative of
    itself; without any other text there is nothing to learn.

    Terms:
      nll: nats, weighted by segments.

    Metrics:
      accuracy: share of segments that are nearest to themselves.

    Example:
      Two segments with orthogonal states and temperature 1: ln(e + 1) - 1 = 0.3133 each, over weight 2.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> view = SimpleNamespace(encode=lambda batch: jnp.eye(2)[None], head=lambda name, x: x)
      >>> network = SimpleNamespace(redrawn=lambda index: view)
      >>> batch = {"tokens": jnp.array([[7, 8]]), "segment_ids": jnp.array([[1, 2]]), "positions": jnp.array([[0, 0]])}
      >>> from objectives.rows import RowShape
      >>> objective = SimCSE(temperature=1.0).for_rows(RowShape(length=2, max_segments=3))
      >>> out = objective(network, batch, jax.random.key(0))
      >>> [round(float(x), 4) for x in out.terms["nll"]]
      [0.6265, 2.0]

    Reference:
      Gao et al., SimCSE, arXiv 2104.08821, section 3 and equation 4.
    """

    additive: ClassVar[bool] = False

    temperature: Annotated[float, POSITIVE] = 0.05
    """What cosines are divided by."""
    pooling: Pooling = "cls"
    """What stands for a segment: its first token or the mean of its tokens."""

    def heads(self, config: Any) -> Heads:
        return (("pooler", Pooler(config)),)

    def coefficients(self) -> dict[str, float]:
        return {"nll": 1.0}

    def check(self, config: Any) -> None:
        if self.pooling == "cls":
            refuse_causal(self, config, "pools the first token")
        if config.dropout == 0 and config.attention_dropout == 0:
            raise ValueError(
                f"SimCSE tells two draws of dropout apart, but {type(config).__name__} has dropout {config.dropout} and "
                f"attention_dropout {config.attention_dropout}: set one above 0"
            )

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        one_ND, other_ND = (self._embedded(network.redrawn(view), batch) for view in (0, 1))
        present_N = jnp.any(membership(batch["segment_ids"], self.rows.max_segments), axis=1).reshape(-1)
        cosine_NM = jnp.einsum("ND,MD->NM", one_ND, other_ND, preferred_element_type=jnp.float32)
        compared_NM = present_N[None, :] & ~self._same_text(batch)
        logits_NM = jnp.where(compared_NM, cosine_NM / self.temperature, -1e9)
        nll_N = -jnp.diagonal(jax.nn.log_softmax(logits_NM, axis=-1))
        right_N = jnp.argmax(logits_NM, axis=-1) == jnp.arange(len(present_N))
        weights_N = present_N.astype(jnp.float32)
        weight_sum = jnp.sum(weights_N)
        return LossOut(
            {"nll": (jnp.sum(nll_N * weights_N), weight_sum)},
            {"accuracy": (jnp.sum(right_N * weights_N), weight_sum)},
        )

    def _same_text(self, batch: Batch) -> jax.Array:
        """Bool [N, N]: whether another segment has the same tokens, by a hash of 32 bits."""
        member_BLG = membership(batch["segment_ids"], self.rows.max_segments)
        tokens_BL, positions_BL = (batch[name].astype(jnp.uint32) for name in ("tokens", "positions"))
        mixed_BL = (tokens_BL + 1) * np.uint32(2654435761) ^ (positions_BL + 1) * np.uint32(2246822519)
        mixed_BL = (mixed_BL ^ (mixed_BL >> 15)) * np.uint32(3266489917)
        hash_N = jnp.sum(jnp.where(member_BLG, mixed_BL[..., None], 0), axis=1, dtype=jnp.uint32).reshape(-1)
        return (hash_N[:, None] == hash_N[None, :]) & ~jnp.eye(len(hash_N), dtype=bool)

    def _embedded(self, view: BoundNetwork, batch: Batch) -> jax.Array:
        """Unit vectors float32 [N, D]."""
        hidden_BLD = view.encode(batch)
        pooled_BGD = pool(hidden_BLD, batch["segment_ids"], self.rows.max_segments, self.pooling)
        x_ND = view.head("pooler", pooled_BGD).reshape(-1, pooled_BGD.shape[-1]).astype(jnp.float32)
        # The small number keeps the gradient of a missing segment's zeros finite.
        return x_ND * jax.lax.rsqrt(jnp.sum(jnp.square(x_ND), axis=-1, keepdims=True) + 1e-12)


def example() -> SimCSE:
    """For the property suite: three packed segments; first tokens, all alike, would leave the nearest one to rounding."""
    return SimCSE(pooling="mean")
