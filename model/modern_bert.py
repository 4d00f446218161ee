"""ModernBERT (arXiv 2412.13663), as published.

A bidirectional encoder with rotary positions, norm before each sublayer, a gated gelu MLP and no biases. Every third
block sees its whole segment, the others a window around each token, with a faster rotation of their own. The token
table is normalised at once, so the first block has no norm before its attention. Rows are packed and blocks see their
own segment only, which is what the paper does by unpadding.

Shape suffixes: B batch, L length, D model width, N layers.
"""

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.attention import Attention, Context, make_context, narrowed
from model.config import Activation, TextConfig
from model.layers import Dropout, Embed, Mlp, Norm
from model.rotary import rotary_rates, rotary_tables
from model.stack import remat, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TextConfig):
    """ModernBERT of any size; the published ones are functions below."""

    vocab_size: int = 50368
    max_positions: int = 8192
    types: int = 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm_eps: float = 1e-5
    window: int = 128
    """Width of the window of local blocks: a token sees half of it to each side."""

    causal: ClassVar[bool] = False
    bias: ClassVar[bool] = False
    norm: ClassVar[Literal["layer", "rms"]] = "layer"
    activation: ClassVar[Activation] = "gelu"
    head_bias: ClassVar[bool] = False
    pooled: ClassVar[Literal["tanh", "relu", "gelu", "gelu_norm"]] = "gelu_norm"
    pools_all: ClassVar[bool] = True
    gated: ClassVar[bool] = True
    positions: ClassVar[Literal["learned", "rotary", "relative"]] = "rotary"
    rotary_base: ClassVar[float | None] = 160_000.0
    local_rotary_base: ClassVar[float] = 10_000.0
    global_every: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """The first block is not like the others."""
        super().__post_init__()
        if self.layers < 2:
            raise ValueError(
                f"layers {self.layers} is below 2: the first block is not stacked with the others"
            )
        if self.window < 0 or self.window % 2:
            raise ValueError(f"window {self.window} is not an even number of tokens")

    @property
    def scanned_layers(self) -> int:
        """All blocks but the first."""
        return self.layers - 1

    def kernel_init(self) -> Initializer:
        """Normal, cut at two standard deviations."""
        return nn.initializers.truncated_normal(self.init_std)

    def residual_init(self) -> Initializer:
        """Two sublayers per block write to the stream: keep its variance at the start."""
        return nn.initializers.truncated_normal(self.init_std / math.sqrt(2 * self.layers))

    def build(self) -> "ModernBert":
        """The module."""
        return ModernBert(self)


class ModernBert(nn.Module):
    """Tokens to hidden states, each seeing its whole segment."""

    config: ModernBertConfig

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
        x_BLD = Embed(config, name="embed")(tokens_BL, positions_BL, type_ids_BL)
        x_BLD = Dropout(config.dropout)(Norm(config, name="embed_norm")(x_BLD))
        whole = make_context(config, segment_ids_BL, positions_BL)
        local_rotary = rotary_tables(positions_BL, rotary_rates(config.head_dim, config.local_rotary_base))
        sights = Sights(whole, narrowed(whole, config.window // 2, local_rotary))
        is_global_N = np.arange(config.layers) % config.global_every == 0
        # Named so that freezing and layer-wise rates, which count the stacked layers, take it for an embedding.
        first = remat(config, ModernBertBlock, in_scan=False)(config, first=True, name="embed_block")
        x_BLD, _ = first(x_BLD, sights, jnp.asarray(is_global_N[0]))
        x_BLD = stack(config, ModernBertBlock, x_BLD, sights, jnp.asarray(is_global_N[1:]))
        return Norm(config, name="final_norm")(x_BLD)


class Sights(NamedTuple):
    """Who sees whom in global and in local blocks; both made once per batch."""

    whole: Context
    window: Context


class ModernBertBlock(nn.Module):
    """x = x + sublayer(norm(x)), twice; the first block reads the norm of the embeddings as it is."""

    config: ModernBertConfig
    first: bool = False

    @nn.compact
    def __call__(self, x_BLD: jax.Array, sights: Sights, is_global: jax.Array) -> tuple[jax.Array, None]:
        """One block, in the (carry, output) form of a scan."""
        config = self.config
        context = jax.tree.map(lambda whole, window: jnp.where(is_global, whole, window), *sights)
        y_BLD = x_BLD if self.first else Norm(config, name="attention_norm")(x_BLD)
        y_BLD = Attention(config, name="attention")(y_BLD, y_BLD, context)
        x_BLD = x_BLD + Dropout(config.dropout)(y_BLD)
        y_BLD = Mlp(config, name="mlp")(Norm(config, name="mlp_norm")(x_BLD))
        return x_BLD + Dropout(config.dropout)(y_BLD), None


def modern_bert_base() -> ModernBertConfig:
    """149.0M parameters."""
    return ModernBertConfig(layers=22, width=768, heads=12, mlp_width=1152)


def modern_bert_large() -> ModernBertConfig:
    """394.8M parameters."""
    return ModernBertConfig(layers=28, width=1024, heads=16, mlp_width=2624)
