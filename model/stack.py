"""Blocks and the scan over them. Knows neither embeddings nor heads.

Shape suffixes: B batch, L length, D model width, N layers.
"""

from typing import Any

import jax
from flax import linen as nn

from model.attention import Attention, Context
from model.config import TransformerConfig
from model.layers import Dropout, Mlp, Norm
from model.product import PRODUCT

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PRODUCT),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class PostNormBlock(nn.Module):
    """x = norm(x + sublayer(x)), twice: BERT's block."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, context: Context) -> tuple[jax.Array, None]:
        """One block, in the (carry, output) form of a scan."""
        config = self.config
        y_BLD = Attention(config, name="attention")(x_BLD, x_BLD, context)
        x_BLD = Norm(config, name="attention_norm")(x_BLD + Dropout(config.dropout)(y_BLD))
        y_BLD = Mlp(config, name="mlp")(x_BLD)
        return Norm(config, name="mlp_norm")(x_BLD + Dropout(config.dropout)(y_BLD)), None


class PreNormBlock(nn.Module):
    """x = x + sublayer(norm(x)), twice: GPT-2's block, and that of most models since."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, context: Context) -> tuple[jax.Array, None]:
        """One block, in the (carry, output) form of a scan."""
        config = self.config
        y_BLD = Norm(config, name="attention_norm")(x_BLD)
        y_BLD = Attention(config, name="attention")(y_BLD, y_BLD, context)
        x_BLD = x_BLD + Dropout(config.dropout)(y_BLD)
        y_BLD = Mlp(config, name="mlp")(Norm(config, name="mlp_norm")(x_BLD))
        return x_BLD + Dropout(config.dropout)(y_BLD), None


def remat(config: TransformerConfig, block: type[nn.Module], in_scan: bool) -> type[nn.Module]:
    """The block, recomputing in the backward pass what the config says."""
    if config.remat == "none":
        return block
    # A scan keeps forward and backward apart by itself, so the guard against CSE only costs time there.
    recomputed: type[nn.Module] = nn.remat(
        block, policy=REMAT_POLICIES[config.remat], prevent_cse=not in_scan
    )
    return recomputed


def stack(
    config: TransformerConfig,
    block: type[nn.Module],
    x_BLD: jax.Array,
    context: Any,
    *per_layer_N: jax.Array,
) -> jax.Array:
    """All like blocks as one scanned module "layers": parameters stacked on axis 0, compiled once.

    To be called inside a compact method: the module becomes a child of the caller.

    Args:
      config: of the backbone.
      block: class of a module that is called with (x, context, *one entry of each of per_layer).
      x_BLD: what the first block reads.
      context: arrays that all blocks share, in any tree.
      per_layer_N: arrays of which each block gets its own entry, along axis 0.
    """
    layers = nn.scan(
        remat(config, block, in_scan=True),
        length=config.scanned_layers,
        in_axes=(nn.broadcast, *(0 for _ in per_layer_N)),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        metadata_params={nn.PARTITION_NAME: "layers"},
        unroll=config.unroll,
    )
    x_BLD, _ = layers(config, name="layers")(x_BLD, context, *per_layer_N)
    return x_BLD
