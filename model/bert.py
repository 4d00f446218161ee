"""BERT (arXiv 1810.04805), RoBERTa (arXiv 1907.11692), DistilBERT (arXiv 1910.01108), exactly as published.

Token, learned position and type embeddings are summed, normalised and dropped out; blocks normalise after
each residual sum; attention probabilities are dropped out too; gelu by erf; weights start truncated normal.
Pooler, masked-LM and next-sentence heads are in heads.py.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.attention import make_context
from model.config import Activation, TextConfig
from model.layers import Dropout, Embed, Norm
from model.stack import PostNormBlock, stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(TextConfig):
    """BERT of any size; the published ones are functions below."""

    vocab_size: int = 30522
    max_positions: int = 512
    types: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_eps: float = 1e-12

    causal: ClassVar[bool] = False
    bias: ClassVar[bool] = True
    norm: ClassVar[Literal["layer", "rms"]] = "layer"
    activation: ClassVar[Activation] = "gelu"

    def kernel_init(self) -> Initializer:
        """Normal, cut at two standard deviations."""
        return nn.initializers.truncated_normal(self.init_std)

    def build(self) -> "Bert":
        """The module."""
        return Bert(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """RoBERTa: byte-level vocabulary, one type, and a position table whose first two rows are never used."""

    vocab_size: int = 50265
    types: int = 1
    norm_eps: float = 1e-5

    position_offset: ClassVar[int] = 2

    def kernel_init(self) -> Initializer:
        """Normal, not cut."""
        return nn.initializers.normal(self.init_std)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBertConfig(BertConfig):
    """DistilBERT (arXiv 1910.01108): BERT without types, and with a relu where BERT's pooler has a tanh."""

    layers: int = 6
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    types: int = 0

    pooled: ClassVar[Literal["tanh", "relu", "gelu", "gelu_norm"]] = "relu"


class Bert(nn.Module):
    """Tokens to hidden states, each seeing its whole segment."""

    config: BertConfig

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
        return stack(config, PostNormBlock, x_BLD, make_context(config, segment_ids_BL, positions_BL))


def bert_tiny() -> BertConfig:
    """4.4M parameters (arXiv 1908.08962)."""
    return BertConfig(layers=2, width=128, heads=2, mlp_width=512)


def bert_mini() -> BertConfig:
    """11.2M parameters (arXiv 1908.08962)."""
    return BertConfig(layers=4, width=256, heads=4, mlp_width=1024)


def bert_small() -> BertConfig:
    """28.8M parameters (arXiv 1908.08962)."""
    return BertConfig(layers=4, width=512, heads=8, mlp_width=2048)


def bert_medium() -> BertConfig:
    """41.4M parameters (arXiv 1908.08962)."""
    return BertConfig(layers=8, width=512, heads=8, mlp_width=2048)


def bert_base() -> BertConfig:
    """109.5M parameters."""
    return BertConfig(layers=12, width=768, heads=12, mlp_width=3072)


def bert_large() -> BertConfig:
    """335.1M parameters."""
    return BertConfig(layers=24, width=1024, heads=16, mlp_width=4096)


def roberta_base() -> RobertaConfig:
    """124.6M parameters."""
    return RobertaConfig(layers=12, width=768, heads=12, mlp_width=3072)


def roberta_large() -> RobertaConfig:
    """355.4M parameters."""
    return RobertaConfig(layers=24, width=1024, heads=16, mlp_width=4096)
