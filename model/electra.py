"""ELECTRA (arXiv 2003.10555), generator and discriminator alike, as published.

BERT, but for tables that may be narrower than the model: their sum is normalised and then widened. The discriminator's
and the generator's heads are in heads.py.

Shape suffixes: B batch, L length, D model width, E width of the tables.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
from flax import linen as nn

from model.attention import make_context
from model.bert import BertConfig
from model.layers import Dense, Dropout, Embed, Norm
from model.stack import PostNormBlock, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectraConfig(BertConfig):
    """ELECTRA of any size; the published discriminators are functions below."""

    embed_width: int = 128
    """Width of the token, position and type tables (E)."""

    pooled: ClassVar[Literal["tanh", "relu", "gelu", "gelu_norm"]] = "gelu"

    def __post_init__(self) -> None:
        """A table has a width."""
        super().__post_init__()
        if self.embed_width < 1:
            raise ValueError(f"embed_width {self.embed_width} is below 1")

    def build(self) -> "Electra":
        """The module."""
        return Electra(self)


class Electra(nn.Module):
    """Tokens to hidden states, each seeing its whole segment."""

    config: ElectraConfig

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        positions_BL: jax.Array,
        type_ids_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, L, D] in the compute dtype."""
        config = self.config
        x_BLE = Embed(config, name="embed")(tokens_BL, positions_BL, type_ids_BL)
        x_BLD = Dropout(config.dropout)(Norm(config, name="embed_norm")(x_BLE))
        if config.embed_width != config.width:
            x_BLD = Dense(
                shape=(config.embed_width, config.width),
                axes=("embed", None),
                bias=True,
                dtype=config.compute_dtype,
                kernel_init=config.kernel_init(),
                name="embed_widen",
            )(x_BLD)
        return stack(config, PostNormBlock, x_BLD, make_context(config, segment_ids_BL, positions_BL))


def electra_small() -> ElectraConfig:
    """13.5M parameters."""
    return ElectraConfig(layers=12, width=256, heads=4, mlp_width=1024)


def electra_base() -> ElectraConfig:
    """108.9M parameters."""
    return ElectraConfig(layers=12, width=768, heads=12, mlp_width=3072, embed_width=768)


def electra_large() -> ElectraConfig:
    """334.1M parameters."""
    return ElectraConfig(layers=24, width=1024, heads=16, mlp_width=4096, embed_width=1024)
