"""What single tokens cost a model: given those before them, or given all others.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1), D model width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.network import BoundNetwork
from objectives.base import Batch
from objectives.causal_lm import CausalLM
from objectives.cross_entropy import token_nll
from objectives.masked_lm import MaskedLM
from objectives.masking import ordinary_tokens, written
from objectives.segments import membership, nan_if_crowded


class TokenLosses(NamedTuple):
    """What the tokens of a row cost, each in its own column."""

    nll_BL: jax.Array
    """Nats, float32 [B, L]; 0 where the weight is."""
    weights_BL: jax.Array
    """1 where the token is scored, float32 [B, L]."""


def next_token_losses(
    objective: CausalLM, network: BoundNetwork, batch: Batch, rng: jax.Array
) -> TokenLosses:
    """Of each token given those before it in its segment (and a prefix, where the objective shows one)."""
    corrupted = objective.corrupt(network.config, batch, rng)
    hidden_BLD = network.encode(corrupted.batch)
    targets_BL, weights_BL = objective.targets(batch, corrupted)
    nll_BL = token_nll(hidden_BLD, network.embedding_VD, None, targets_BL, chunk=objective.chunk)
    # Column i predicted token i + 1.
    own = ((0, 0), (1, 0))
    weights_BL = jnp.pad(weights_BL[:, :-1], own)
    return TokenLosses(jnp.where(weights_BL > 0, jnp.pad(nll_BL[:, :-1], own), 0.0), weights_BL)


def pseudo_losses(objective: MaskedLM, network: BoundNetwork, batch: Batch) -> TokenLosses:
    """Of each ordinary token given all others of its segment: it alone is masked.

    Segments do not see each other, so one encode masks the p-th token of every segment, for each p in turn: as many encodes
    as the longest segment has tokens, with the memory of one. More packed segments than the run's rows may hold give
    NaN, as in training.
    """
    tokens_BL, positions_BL = batch["tokens"], batch["positions"]
    rows, scored_BL = objective.rows, ordinary_tokens(objective.rows, batch)
    member_BLG = membership(batch["segment_ids"], rows.max_segments)

    def mask_one(position: jax.Array, nll_BL: jax.Array) -> jax.Array:
        masked_BL = scored_BL & (positions_BL == position)
        hidden_BLD = network.encode({**batch, "tokens": jnp.where(masked_BL, rows.mask_id, tokens_BL)})
        masked_BLG = member_BLG & masked_BL[..., None]
        column_BG = jnp.argmax(masked_BLG, axis=1)
        hidden_BGD = jnp.take_along_axis(hidden_BLD, column_BG[..., None], axis=1)
        transformed_BGD, bias_V = network.head("masked_lm", hidden_BGD)
        targets_BG = jnp.take_along_axis(tokens_BL, column_BG, axis=1)
        nll_BG = token_nll(transformed_BGD, network.embedding_VD, bias_V, targets_BG)
        return written(nll_BL, column_BG, jnp.any(masked_BLG, axis=1), nll_BG)

    nll_BL = jax.lax.fori_loop(
        0, jnp.max(positions_BL) + 1, mask_one, jnp.zeros(tokens_BL.shape, jnp.float32)
    )
    nll_BL = nan_if_crowded(nll_BL, batch["segment_ids"], rows.max_segments)
    return TokenLosses(nll_BL, scored_BL.astype(jnp.float32))
