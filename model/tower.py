"""A few blocks of their own beside or on top of a backbone, for heads that must mix positions.

Shape suffixes: B rows, L tokens of a row, P positions of a row, D model width, E the tower's own width, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.attention import make_context
from model.config import TextConfig, TransformerConfig
from model.heads import MaskedLMHead
from model.layers import Dense, Dropout, Norm
from model.stack import PreNormBlock, stack


def narrowed_config(config: TextConfig, heads: int) -> TextConfig:
    """The same with fewer heads of the same size, and widths in proportion: ELECTRA's generator."""
    if not 0 < heads <= config.heads:
        raise ValueError(f"a generator of {heads} heads is not narrower than a backbone of {config.heads}")
    return dataclasses.replace(
        config,
        heads=heads,
        width=heads * config.head_dim,
        mlp_width=max(1, config.mlp_width * heads // config.heads),
    )


class Tower(nn.Module):
    """Pre-norm blocks and a last norm over states of any width."""

    config: TransformerConfig
    """Of the tower itself: its layers, width E and heads; attention sees what its `causal` says."""

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> jax.Array:
        """States [B, L, E]; without a layout each row is one segment (parameters are initialised so)."""
        config = self.config
        if segment_ids_BL is None or positions_BL is None:
            segment_ids_BL = jnp.ones(x_BLD.shape[:2], jnp.int32)
            positions_BL = jnp.broadcast_to(jnp.arange(x_BLD.shape[1])[None], x_BLD.shape[:2])
        if x_BLD.shape[-1] != config.width:
            x_BLD = Dense(
                shape=(x_BLD.shape[-1], config.width),
                axes=("embed", None),
                bias=config.bias,
                dtype=config.compute_dtype,
                kernel_init=config.kernel_init(),
                name="narrow",
            )(x_BLD)
        x_BLE = Dropout(config.dropout)(Norm(config, name="first_norm")(x_BLD))
        x_BLE = stack(config, PreNormBlock, x_BLE, make_context(config, segment_ids_BL, positions_BL))
        return Norm(config, name="final_norm")(x_BLE)


class Generator(nn.Module):
    """A narrow encoder on the backbone's embeddings that predicts masked tokens (ELECTRA, arXiv 2003.10555, 3.2)."""

    config: TextConfig
    """Of the backbone."""
    heads: int
    """Attention heads of the generator; its widths follow."""

    @nn.compact
    def __call__(
        self,
        embedded_BLD: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
        scored_BP: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """(transformed [B, P, D], bias [V]) at the scored positions; logits are transformed @ table.T + bias."""
        narrow = narrowed_config(self.config, self.heads)
        x_BLE = Tower(narrow, name="tower")(embedded_BLD, segment_ids_BL, positions_BL)
        if scored_BP is not None:
            x_BLE = jnp.take_along_axis(x_BLE, scored_BP[..., None], axis=1)
        out: tuple[jax.Array, jax.Array] = MaskedLMHead(self.config, reads=narrow.width, name="masked_lm")(
            x_BLE
        )
        return out
