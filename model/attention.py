"""Segment-masked self-attention over packed rows. Knows no loss, no mesh.

A token attends to tokens of its own segment (and, if causal, not to later ones). Padding, segment 0, attends
to padding only, and its output is set to zero: no gradient passes through padding.

Shape suffixes: B batch, L query length, S key length, D model width, H heads, K head size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.config import TransformerConfig
from model.kernels import (
    MASKED,
    allowed,
    choose_kernel,
    library_attention,
    plain_attention,
    splash_attention,
)
from model.layers import Dense, Dropout


class Context(NamedTuple):
    """What attention needs besides the hidden states; made once per batch, shared by all layers."""

    segment_ids_BL: jax.Array
    bias_B1LS: jax.Array | None
    """For the plain kernel: 0 where attention is allowed, MASKED elsewhere."""
    allowed_B1LS: jax.Array | None
    """For the cudnn kernel: the same as a boolean."""
    rotary: tuple[jax.Array, jax.Array] | None
    """Tables of cosines and sines, where positions are rotary."""


def make_context(config: TransformerConfig, segment_ids_BL: jax.Array, positions_BL: jax.Array) -> Context:
    """Mask and rotary tables of one batch, as the chosen kernel wants them."""
    kernel = choose_kernel(config, segment_ids_BL.shape[1])
    bias_B1LS, allowed_B1LS, rotary = None, None, None
    if kernel == "plain":
        bias_B1LS = jnp.where(allowed(segment_ids_BL, config.causal), 0.0, MASKED)
    elif kernel == "cudnn":
        allowed_B1LS = allowed(segment_ids_BL, config.causal)
    if config.rotary_base is not None:
        rotary = rotary_tables(positions_BL, config.head_dim, config.rotary_base)
    return Context(segment_ids_BL, bias_B1LS, allowed_B1LS, rotary)


def rotary_tables(positions_BL: jax.Array, head_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and signed sines of rotary positions (arXiv 2104.09864, eq. 34), halves not interleaved."""
    rate_K = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle_BLK = positions_BL[:, :, None].astype(jnp.float32) * rate_K[None, None]
    cos, sin = jnp.cos(angle_BLK), jnp.sin(angle_BLK)
    return jnp.concatenate([cos, cos], -1)[:, :, None], jnp.concatenate([-sin, sin], -1)[:, :, None]


def rotate(x_BLHK: jax.Array, cos_BL1K: jax.Array, sin_BL1K: jax.Array) -> jax.Array:
    """Turn each pair (k, k + K/2) by its angle, so that products depend on position differences only."""
    first, second = jnp.split(x_BLHK, 2, axis=-1)
    swapped = jnp.concatenate([second, first], -1)
    return (x_BLHK * cos_BL1K + swapped * sin_BL1K).astype(x_BLHK.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention with kernels stored as q, k, v [D, H, K] and out [H, K, D]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, context: Context) -> jax.Array:
        """Mix positions within their segments."""
        config = self.config
        q_BLHK, k_BSHK, v_BSHK = (self._project(name)(x_BLD) for name in ("query", "key", "value"))
        if context.rotary is not None:
            q_BLHK, k_BSHK = rotate(q_BLHK, *context.rotary), rotate(k_BSHK, *context.rotary)
        out_BLHK = self._attend(q_BLHK, k_BSHK, v_BSHK, context)
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

    def _project(self, name: str) -> Dense:
        config = self.config
        return Dense(
            shape=(config.width, config.heads, config.head_dim),
            axes=("embed", "heads", "head_dim"),
            bias=config.bias,
            dtype=config.compute_dtype,
            kernel_init=config.kernel_init(),
            name=name,
        )

    def _attend(self, q_BLHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, context: Context) -> jax.Array:
        if context.bias_B1LS is not None:
            dropout = Dropout(self.config.attention_dropout)
            return plain_attention(q_BLHK, k_BSHK, v_BSHK, context.bias_B1LS, dropout)
        if context.allowed_B1LS is not None:
            return library_attention(q_BLHK, k_BSHK, v_BSHK, context.allowed_B1LS)
        return splash_attention(q_BLHK, k_BSHK, v_BSHK, context.segment_ids_BL, self.config.causal)
