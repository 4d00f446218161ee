"""Llama (arXiv 2302.13971, 2307.09288, 2407.21783), as published, and TinyLlama (arXiv 2401.02385).

Rotary positions, norm by root mean square before each sublayer and once more at the end, a gated silu MLP (arXiv
2002.05202), no biases, causal attention in which several query heads share a key and value head (arXiv 2305.13245).
The output table is its own, except in the smallest models. The papers give no initial values: all matrices are normal
with `init_std`, as in the published PyTorch port.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
from flax import linen as nn

from model.attention import make_context, narrowed
from model.config import Activation, TextConfig
from model.layers import Dropout, Embed, Norm, Unembed
from model.rotary import rotary_rates, stretched
from model.stack import PreNormBlock, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(TextConfig):
    """Llama of any size, with the third one's vocabulary and rates; the published ones are functions below."""

    vocab_size: int = 128256
    kv_heads: int = 8
    """Key and value heads (G); must divide heads. As many as heads: no sharing."""
    max_positions: int = 8192
    types: int = 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm_eps: float = 1e-5
    tied: bool = False
    """Whether the token table also makes the logits."""
    rotary_base: float = 500_000.0
    """Of the rates: the last pair of features turns by about one radian in so many positions."""
    stretch: float = 1.0
    """By how much slow rotations are slowed down for rows longer than those of the first training; 1 is not at all."""
    trained_positions: int = 8192
    """Length of rows of the first training; matters where stretch is not 1."""

    causal: ClassVar[bool] = True
    bias: ClassVar[bool] = False
    norm: ClassVar[Literal["layer", "rms"]] = "rms"
    activation: ClassVar[Activation] = "silu"
    gated: ClassVar[bool] = True
    positions: ClassVar[Literal["learned", "rotary", "relative"]] = "rotary"

    def check_heads(self) -> None:
        """Query heads share key heads evenly."""
        super().check_heads()
        self.check_kv_heads()

    def check_kv_heads(self) -> None:
        """Refuse key and value heads that do not share the query heads evenly, and a stretch that shrinks."""
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if self.stretch < 1 or self.trained_positions < 1:
            raise ValueError(
                f"stretch {self.stretch} or trained_positions {self.trained_positions} is below 1"
            )

    def rotary_rates(self) -> jax.Array:
        """As published for Llama 3.1 and 3.2 where stretched."""
        rate_K = rotary_rates(self.head_dim, self.rotary_base)
        return rate_K if self.stretch == 1 else stretched(rate_K, self.stretch, self.trained_positions)

    def build(self) -> "Llama":
        """The module."""
        return Llama(self)


class Llama(nn.Module):
    """Tokens to hidden states, each seeing its segment up to itself, and its segment's prefix."""

    config: LlamaConfig

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
        if not config.tied:
            Unembed(config, name="unembed")()
        x_BLD = Dropout(config.dropout)(Embed(config, name="embed")(tokens_BL, positions_BL, type_ids_BL))
        context = make_context(config, segment_ids_BL, positions_BL, prefix_BL)
        if config.window is not None and context.rotary is not None:
            # A token is the last of its window.
            context = narrowed(context, config.window - 1, context.rotary)
        return Norm(config, name="final_norm")(stack(config, PreNormBlock, x_BLD, context))


def llama_mini(vocab_size: int, max_positions: int = 512) -> LlamaConfig:
    """Four layers of 256, two query heads to a key head: trains in hours on two CPU cores."""
    return LlamaConfig(
        vocab_size=vocab_size,
        layers=4,
        width=256,
        heads=4,
        kv_heads=2,
        mlp_width=704,
        max_positions=max_positions,
        tied=True,
        rotary_base=10_000.0,
    )


def llama2_7b() -> LlamaConfig:
    """6,738.4M parameters."""
    return LlamaConfig(
        vocab_size=32000,
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        mlp_width=11008,
        max_positions=4096,
        rotary_base=10_000.0,
    )


def llama3_8b() -> LlamaConfig:
    """8,030.3M parameters."""
    return LlamaConfig(layers=32, width=4096, heads=32, mlp_width=14336)


def llama3_2_1b() -> LlamaConfig:
    """1,235.8M parameters."""
    return LlamaConfig(
        layers=16, width=2048, heads=32, mlp_width=8192, max_positions=131072, tied=True, stretch=32.0
    )


def tiny_llama_1_1b() -> LlamaConfig:
    """1,100.0M parameters."""
    return LlamaConfig(
        vocab_size=32000,
        layers=22,
        width=2048,
        heads=32,
        kv_heads=4,
        mlp_width=5632,
        max_positions=2048,
        rotary_base=10_000.0,
    )
