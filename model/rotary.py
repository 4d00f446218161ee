"""Rotary positions (arXiv 2104.09864): rates, tables and the turn itself.

Shape suffixes: B batch, L length, H heads, K head size (where rates are meant, half of it).
"""

import math

import jax
import jax.numpy as jnp


def rotary_rates(head_dim: int, base: float) -> jax.Array:
    """Radians per position of each pair of features, [K / 2] (section 3.2.2)."""
    return base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def stretched(rate_K: jax.Array, factor: float, positions: int) -> jax.Array:
    """Rates for rows longer than the `positions` of the first training (Llama 3.1, meta-llama/llama-models).

    Pairs that turned less than once over those positions are slowed down by the factor, those that turned more
    than four times keep their rate, and between the two the share of each is linear in the number of turns.
    """
    turns_K = rate_K * (positions / (2 * math.pi))
    kept_K = jnp.clip((turns_K - 1) / (4 - 1), 0.0, 1.0)
    return rate_K * (kept_K + (1 - kept_K) / factor)


def rotary_tables(positions_BL: jax.Array, rate_K: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and signed sines of rotary positions (eq. 34), halves not interleaved: twice [B, L, 1, K]."""
    angle_BLK = positions_BL[:, :, None].astype(jnp.float32) * rate_K[None, None]
    cos, sin = jnp.cos(angle_BLK), jnp.sin(angle_BLK)
    return jnp.concatenate([cos, cos], -1)[:, :, None], jnp.concatenate([-sin, sin], -1)[:, :, None]


def rotate(x_BLHK: jax.Array, cos_BL1K: jax.Array, sin_BL1K: jax.Array) -> jax.Array:
    """Turn each pair (k, k + K/2) by its angle, so that products depend on position differences only."""
    first, second = jnp.split(x_BLHK, 2, axis=-1)
    swapped = jnp.concatenate([second, first], -1)
    return (x_BLHK * cos_BL1K + swapped * sin_BL1K).astype(x_BLHK.dtype)
