"""Segment-masked attention over packed rows, of a row on itself or on a memory.

A token attends to tokens of its own segment (and, if causal, not to later ones unless they are of the prefix).
Padding, segment 0, attends to padding only, and its output is set to zero: no gradient passes through padding.

Shape suffixes: B batch, L query length, S key length, D model width, H query heads, G key and value heads,
K head size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.config import TransformerConfig
from model.kernels import (
    MASKED,
    allowed,
    library_attention,
    plain_attention,
    splash_attention,
)
from model.layers import Dense, Dropout, Norm
from model.rotary import rotary_tables, rotate


class Context(NamedTuple):
    """What attention needs besides the hidden states; made once per batch, shared by all layers."""

    segment_ids_BL: jax.Array
    """Of the queries; where 0, the output is zero."""
    bias_B1LS: jax.Array | None
    """For the plain kernel: 0 where attention is allowed, MASKED elsewhere."""
    allowed_B1LS: jax.Array | None
    """For the cudnn kernel: the same as a boolean."""
    rotary: tuple[jax.Array, jax.Array] | None
    """Tables of cosines and sines, where positions are rotary."""
    relative_1HLS: jax.Array | None = None
    """Added to the scores, where positions are relative; the plain kernel alone can do it."""


def make_context(
    config: TransformerConfig,
    segment_ids_BL: jax.Array,
    positions_BL: jax.Array,
    prefix_BL: jax.Array | None = None,
) -> Context:
    """Mask and rotary tables of one batch, as the chosen kernel wants them.

    Args:
      config: of the backbone.
      segment_ids_BL: which packed neighbour; 0 is padding.
      positions_BL: places within the segments.
      prefix_BL: bool; what all tokens of a segment may see although attention is causal.
    """
    kernel = config.choose_kernel(segment_ids_BL.shape[1], prefix_BL is not None)
    bias_B1LS, allowed_B1LS, rotary = None, None, None
    if kernel == "plain":
        bias_B1LS = jnp.where(allowed(segment_ids_BL, config.causal, prefix_BL), 0.0, MASKED)
    elif kernel == "cudnn":
        allowed_B1LS = allowed(segment_ids_BL, config.causal, prefix_BL)
    if config.positions == "rotary":
        rotary = rotary_tables(positions_BL, config.rotary_rates())
    return Context(segment_ids_BL, bias_B1LS, allowed_B1LS, rotary)


def plain_context(segment_ids_BL: jax.Array, allowed_B1LS: jax.Array) -> Context:
    """For the plain kernel, whatever the config says: any mask, also on a memory of another length S.

    A query that may see nothing (a target without a source) counts as padding, else it would see everything.
    """
    sees_BL = jnp.any(allowed_B1LS[:, 0], axis=-1)
    return Context(
        jnp.where(sees_BL, segment_ids_BL, 0), jnp.where(allowed_B1LS, 0.0, MASKED), None, rotary=None
    )


def narrowed(context: Context, distance: int, rotary: tuple[jax.Array, jax.Array]) -> Context:
    """The same, seeing no further than so many tokens to either side, with rotary tables of its own."""
    length = context.segment_ids_BL.shape[1]
    index_L = jnp.arange(length)
    near_11LS = (jnp.abs(index_L[:, None] - index_L[None, :]) <= distance)[None, None]
    bias_B1LS, allowed_B1LS = context.bias_B1LS, context.allowed_B1LS
    return context._replace(
        bias_B1LS=None if bias_B1LS is None else jnp.where(near_11LS, bias_B1LS, MASKED),
        allowed_B1LS=None if allowed_B1LS is None else allowed_B1LS & near_11LS,
        rotary=rotary,
    )


class Attention(nn.Module):
    """Multi-head attention with kernels stored as query [D, H, K], key and value [D, G, K] and out [H, K, D]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, memory_BSD: jax.Array, context: Context) -> jax.Array:
        """What each position of x [B, L, D] reads from the memory: x itself, or another row [B, S, D]."""
        config = self.config
        q_BLHK = self._project("query", "heads", config.heads)(x_BLD)
        k_BSGK, v_BSGK = (
            self._project(name, "kv_heads", config.kv_heads)(memory_BSD) for name in ("key", "value")
        )
        if config.query_norm:
            q_BLHK, k_BSGK = Norm(config, name="query_norm")(q_BLHK), Norm(config, name="key_norm")(k_BSGK)
        if context.rotary is not None:
            q_BLHK, k_BSGK = rotate(q_BLHK, *context.rotary), rotate(k_BSGK, *context.rotary)
        out_BLHK = self._attend(q_BLHK, k_BSGK, v_BSGK, context)
        real_BL11 = (context.segment_ids_BL != 0)[:, :, None, None]
        out_BLHK = jnp.where(real_BL11, out_BLHK, jnp.zeros((), out_BLHK.dtype))
        return Dense(
            shape=(config.heads, config.head_dim, config.width),
            axes=("heads", "head_dim", "embed"),
            bias=config.bias,
            dtype=config.compute_dtype,
            kernel_init=config.residual_init(),
            inputs=2,
            name="out",
        )(out_BLHK)

    def _project(self, name: str, axis: str, heads: int) -> Dense:
        config = self.config
        return Dense(
            shape=(config.width, heads, config.head_dim),
            axes=("embed", axis, "head_dim"),
            bias=config.query_bias,
            dtype=config.compute_dtype,
            kernel_init=config.query_init() if name == "query" else config.kernel_init(),
            name=name,
        )

    def _attend(self, q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, context: Context) -> jax.Array:
        config = self.config
        if context.bias_B1LS is not None:
            bias_BHLS = context.bias_B1LS
            if context.relative_1HLS is not None:
                bias_BHLS = bias_BHLS + context.relative_1HLS
            dropout = Dropout(config.attention_dropout)
            return plain_attention(q_BLHK, k_BSGK, v_BSGK, bias_BHLS, dropout, config.scaled_attention)
        if context.allowed_B1LS is not None:
            return library_attention(q_BLHK, k_BSGK, v_BSGK, context.allowed_B1LS)
        return splash_attention(q_BLHK, k_BSGK, v_BSGK, context.segment_ids_BL, config.causal)
