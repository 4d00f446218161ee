"""GPT-2 (Radford et al. 2019, openai/gpt-2), exactly as published.

Learned positions, norm before each sublayer and once more at the end, gelu by tanh, causal attention,
unembedding tied to the token table. Matrices that write to the residual stream start smaller by
1/sqrt(2 x layers).
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.attention import make_context
from model.config import Activation, TextConfig
from model.layers import Dropout, Embed, Norm
from model.stack import PreNormBlock, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Config(TextConfig):
    """GPT-2 of any size; the published ones are functions below."""

    vocab_size: int = 50257
    max_positions: int = 1024
    types: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_eps: float = 1e-5

    causal: ClassVar[bool] = True
    bias: ClassVar[bool] = True
    norm: ClassVar[Literal["layer", "rms"]] = "layer"
    activation: ClassVar[Activation] = "gelu_tanh"

    def residual_init(self) -> Initializer:
        """Two sublayers per block write to the stream: keep its variance at the start."""
        return nn.initializers.normal(self.init_std / math.sqrt(2 * self.layers))

    def position_init(self) -> Initializer:
        """Half the scale of the token table (openai/gpt-2: src/model.py)."""
        return nn.initializers.normal(self.init_std / 2)

    def build(self) -> "Gpt2":
        """The module."""
        return Gpt2(self)


class Gpt2(nn.Module):
    """Tokens to hidden states, each seeing its segment up to itself, and its segment's prefix."""

    config: Gpt2Config

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        positions_BL: jax.Array,
        type_ids_BL: jax.Array | None = None,
        prefix_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, L, D] in the compute dtype."""
        config = self.config
        x_BLD = Dropout(config.dropout)(Embed(config, name="embed")(tokens_BL, positions_BL, type_ids_BL))
        x_BLD = stack(
            config, PreNormBlock, x_BLD, make_context(config, segment_ids_BL, positions_BL, prefix_BL)
        )
        return Norm(config, name="final_norm")(x_BLD)


def gpt2_small() -> Gpt2Config:
    """124.4M parameters."""
    return Gpt2Config(layers=12, width=768, heads=12, mlp_width=3072)


def gpt2_medium() -> Gpt2Config:
    """354.8M parameters."""
    return Gpt2Config(layers=24, width=1024, heads=16, mlp_width=4096)


def gpt2_large() -> Gpt2Config:
    """774.0M parameters."""
    return Gpt2Config(layers=36, width=1280, heads=20, mlp_width=5120)


def gpt2_xl() -> Gpt2Config:
    """1557.6M parameters."""
    return Gpt2Config(layers=48, width=1600, heads=25, mlp_width=6400)
