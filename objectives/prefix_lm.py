"""Prefix language modelling (T5): read the first part of a text in both directions, write the rest.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives.base import Batch, Corrupted
from objectives.causal_lm import CausalLM, successors
from objectives.claims import DeviceCounts
from objectives.randomness import token_bits
from objectives.segments import over_segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(CausalLM):
    r"""Predict each token after a prefix from all before it, the prefix being read as a whole.

    .. math:: \sum_s \sum_{t \ge k_s} -\log \mathrm{softmax}(E\, h_{t-1})_{x_t}, \qquad k_s \sim U\{1, \dots, n_s - 1\}

    over the packed segments s of n_s tokens. Tokens before k_s see each other; those from there on see the prefix and what
    stands before them. The split is drawn anew in every step, from the identity of the segment's tokens
    (`objectives.randomness`): it stands before the token, other than the first, whose random bits are the smallest.

    Terms and metrics are those of causal language modelling.

    Example:
      One segment of two tokens: its prefix is the first, one token is scored. Equal logits over a vocabulary of 8: ln 8 =
      2.0794 over weight 1.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=None, embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 2, 2)))
      >>> batch = {"tokens": jnp.array([[7, 5]]), "segment_ids": jnp.ones((1, 2), jnp.int32),
      ...          "positions": jnp.arange(2)[None], "example_ids": jnp.array([0])}
      >>> [round(float(x), 4) for x in PrefixLM()(uniform, batch, jax.random.key(0)).terms["nll"]]
      [2.0794, 1.0]

    Reference:
      Raffel et al., T5, arXiv 1910.10683, section 3.2.1 (figure 4, right); Liu et al., arXiv 1801.10198.
    """

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """The batch with its prefix, bool [B, L]; the plan has the split of each token's segment, int32 [B, L]."""
        segment_ids_BL, positions_BL = batch["segment_ids"], batch["positions"]
        bits_BL = token_bits(rng, batch, 1)[..., 0]
        bits_BL = jnp.where(positions_BL == 0, np.uint32(2**32 - 1), bits_BL)
        smallest_BL = bits_BL == over_segments(jax.ops.segment_min, bits_BL, segment_ids_BL)
        split_BL = over_segments(jax.ops.segment_max, smallest_BL * positions_BL, segment_ids_BL)
        prefix_BL = (positions_BL < split_BL) & (segment_ids_BL > 0)
        return Corrupted({**batch, "prefix": prefix_BL}, {"split": split_BL})

    def targets(self, batch: Batch, corrupted: Corrupted) -> tuple[jax.Array, jax.Array]:
        """Of the successors those are scored that are not of the prefix."""
        targets_BL, weights_BL = successors(batch)
        return targets_BL, weights_BL * (batch["positions"] + 1 >= corrupted.plan["split"])

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        """Splits are uniform: as many in each quarter of their segment as there are places for them."""
        segment_ids_BL, positions_BL = batch["segment_ids"], batch["positions"]
        places_BL = over_segments(jax.ops.segment_max, positions_BL, segment_ids_BL)
        is_place_BL = (segment_ids_BL > 0) & (positions_BL > 0)
        quarter_BL = 4 * (positions_BL - 1) // jnp.maximum(places_BL, 1)
        chosen_BL = is_place_BL & (positions_BL == corrupted.plan["split"])
        chance_BL = is_place_BL / jnp.maximum(places_BL, 1)
        in_4BL = quarter_BL[None] == jnp.arange(4)[:, None, None]
        observed_4, expected_4 = (
            jnp.sum(in_4BL * x_BL[None], axis=(1, 2)) for x_BL in (chosen_BL, chance_BL)
        )
        return {"split by quarter": (observed_4, expected_4)}


def example() -> PrefixLM:
    """For the property suite."""
    return PrefixLM()
