"""The small parts every transformer here is made of: tables, norms, projections, the MLP, dropout.

Shape suffixes: B batch, L length, D model width, F MLP width, V vocabulary, H heads, K head size.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.config import TextConfig, TransformerConfig
from model.product import affine


def gelu(x: jax.Array) -> jax.Array:
    """The exact gelu, x * Phi(x): the form BERT was trained with."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of gelu: the form GPT-2 was trained with."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def activate(name: str, x: jax.Array) -> jax.Array:
    """The activation of that name, computed in float32 and handed on in the dtype of x.

    In bfloat16 only x is kept for the backward pass: computing it again costs less than writing and reading what
    autodiff would keep, and less than rounding after each operation (4% of a GPT-mini step on two cores, 2026-11-22).
    """
    if x.dtype == jnp.float32:
        return ACTIVATIONS[name](x)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def inner(x: jax.Array) -> jax.Array:
        return ACTIVATIONS[name](x.astype(jnp.float32)).astype(x.dtype)

    return cast(jax.Array, inner(x))


def trailing(x: jax.Array, ndim: int) -> jax.Array:
    """Add leading axes of size 1 up to ndim, so that broadcasting is asked for by name."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def parameter(
    module: nn.Module, name: str, init: Initializer, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> jax.Array:
    """A float32 parameter of the module, with a logical name for each axis."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def _lots(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform 16-bit numbers, two of each word that is drawn: the generator is what dropout costs."""
    if shape[-1] % 2:
        return jax.random.bits(rng, shape, jnp.uint16)
    words = jax.random.bits(rng, (*shape[:-1], shape[-1] // 2), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(shape)


class Dropout(nn.Module):
    """Drops values iff a "dropout" key was bound; no flag is threaded through the layers."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Zero each value with probability rate (to 1 / 65,536) and scale up the rest."""
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        keep = 1.0 - self.rate
        kept = _lots(self.make_rng("dropout"), x.shape) < round(keep * 2**16)
        return jnp.where(kept, x / keep, jnp.zeros((), x.dtype))


class Norm(nn.Module):
    """LayerNorm, or RMSNorm, computed in float32 and handed on in the compute dtype."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Normalise the last axis."""
        config, width = self.config, x_BLD.shape[-1:]
        scale_D = parameter(self, "scale", nn.initializers.ones, ("embed",), width)
        x = x_BLD.astype(jnp.float32)
        if config.norm == "layer":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        y = x * jax.lax.rsqrt(variance + config.norm_eps) * trailing(scale_D, x.ndim)
        if config.bias:
            y = y + trailing(parameter(self, "bias", nn.initializers.zeros, ("embed",), width), x.ndim)
        return y.astype(config.compute_dtype)


class Dense(nn.Module):
    """A linear map from the last `inputs` axes of x to new axes, with a stored shape like [D, H, K]."""

    shape: tuple[int, ...]
    """Shape of the kernel: input axes, then output axes."""
    axes: tuple[str | None, ...]
    """Logical name of each kernel axis."""
    bias: bool
    dtype: jnp.dtype
    kernel_init: Initializer
    inputs: int = 1
    """How many leading kernel axes are contracted."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Contract the trailing axes of x with the leading axes of the kernel."""
        kernel = parameter(self, "kernel", self.kernel_init, self.axes, self.shape)
        batch, features = x.shape[: x.ndim - self.inputs], self.shape[self.inputs :]
        bias_F = None
        if self.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[self.inputs :], features)
            bias_F = bias.astype(self.dtype).reshape(-1)
        # As a product of two matrices: with [B, L, D] operands XLA on CPU transposes activations for the kernel's
        # gradient, which cost 20% of a training step (measured 2026-11-21, 4 layers of 256, two cores).
        x_RD = x.astype(self.dtype).reshape(-1, math.prod(self.shape[: self.inputs]))
        kernel_DF = kernel.astype(self.dtype).reshape(x_RD.shape[1], -1)
        return affine(x_RD, kernel_DF, bias_F).reshape(batch + features)


class Mlp(nn.Module):
    """Position-wise MLP: down(act(up(x))), or gated, down(act(gate(x)) * up(x)) (arXiv 2002.05202)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Apply to each position."""
        config = self.config
        up_BLF = self._widen("up")(x_BLD)
        hidden_BLF = (
            activate(config.activation, self._widen("gate")(x_BLD)) * up_BLF
            if config.gated
            else activate(config.activation, up_BLF)
        )
        return Dense(
            shape=(config.mlp_width, config.width),
            axes=("mlp", "embed"),
            bias=config.bias,
            dtype=config.compute_dtype,
            kernel_init=config.residual_init(),
            name="down",
        )(Dropout(config.hidden_dropout)(hidden_BLF))

    def _widen(self, name: str) -> Dense:
        config = self.config
        return Dense(
            shape=(config.width, config.mlp_width),
            axes=("embed", "mlp"),
            bias=config.bias,
            dtype=config.compute_dtype,
            kernel_init=config.kernel_init(),
            name=name,
        )


class Embed(nn.Module):
    """Sum of the token table and, where the model has them, learned positions and types."""

    config: TextConfig

    @nn.compact
    def __call__(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, type_ids_BL: jax.Array | None
    ) -> jax.Array:
        """Look up and add, in float32, before casting to the compute dtype."""
        config = self.config
        if tokens_BL.shape[1] > config.max_positions:
            raise ValueError(
                f"rows of {tokens_BL.shape[1]} tokens exceed max_positions {config.max_positions}"
            )
        tokens_VD = self._table("tokens", "vocab", config.vocab_size, config.table_init())
        x_BLD = tokens_VD[tokens_BL]
        if config.positions == "learned":
            rows = config.max_positions + config.position_offset
            table = self._table("positions", "positions", rows, config.position_init())
            x_BLD = x_BLD + table[positions_BL + config.position_offset]
        if config.types > 0:
            table = self._table("types", "types", config.types, config.table_init())
            single = config.types == 1 or type_ids_BL is None
            x_BLD = x_BLD + (table[0][None, None] if single else table[type_ids_BL])
        return x_BLD.astype(config.compute_dtype)

    def _table(self, name: str, axis: str, rows: int, init: Initializer) -> jax.Array:
        return parameter(self, name, init, (axis, "embed"), (rows, self.config.embed_width))


class Unembed(nn.Module):
    """The output table [V, D] of a backbone whose logits are not tied to its token table."""

    config: TextConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """The table; to be called by the backbone so that its parameters hold it, though only losses read it."""
        config = self.config
        shape = (config.vocab_size, config.width)
        return parameter(self, "tokens", config.kernel_init(), ("vocab", "embed"), shape)
