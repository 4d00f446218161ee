"""Small modules that objectives and tasks put on a backbone; their parameters live beside it.

Each works on the last axis of hidden states of any rank. Shape suffixes: D model width, E width of the token table, V
vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.config import ModelConfig, TextConfig, TransformerConfig
from model.layers import Dense, Dropout, Norm, activate, parameter


def _layer(config: TransformerConfig, name: str, reads: int, writes: int) -> Dense:
    return Dense(
        shape=(reads, writes),
        axes=("embed", None),  # one name may appear once: both axes are model width
        bias=config.head_bias,
        dtype=config.compute_dtype,
        kernel_init=config.kernel_init(),
        name=name,
    )


class MaskedLMHead(nn.Module):
    """BERT's transform before the tied unembedding, and the bias after it (google-research/bert)."""

    config: TextConfig
    reads: int | None = None
    """Width of the states it is given; None is the model's."""

    @nn.compact
    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(transformed [..., E], bias [V] in float32); logits are transformed @ table.T + bias."""
        config = self.config
        # The tables' width, which is not everywhere the model's: its output meets the token table.
        dense = _layer(config, "dense", self.reads or config.width, config.embed_width)
        x = activate(config.activation, dense(hidden))
        bias_V = parameter(self, "bias", nn.initializers.zeros, ("vocab",), (config.vocab_size,))
        return Norm(config, name="norm")(x), bias_V


class Pooler(nn.Module):
    """tanh(dense(x)), or what the model has in place of tanh: the summary of a segment, taken from its first token."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Pooled states [..., D]."""
        config = self.config
        x = _layer(config, "dense", config.width, config.width)(hidden)
        if config.pooled == "tanh":
            return jnp.tanh(x)
        if config.pooled == "gelu_norm":
            return Norm(config, name="norm")(activate("gelu", x))
        return activate(config.pooled, x)


class Classifier(nn.Module):
    """Dropout, then a linear map to class logits."""

    config: ModelConfig
    classes: int
    dropout: float = 0.0
    """BERT's next-sentence head has none; fine-tuning uses the model's own rate."""
    bias: bool = True
    """GPT's and Llama's map of a text's last token has none."""

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., classes] in float32."""
        return Dense(
            shape=(self.config.width, self.classes),
            axes=("embed", "classes"),
            bias=self.bias,
            dtype=self.config.compute_dtype,
            kernel_init=self.config.kernel_init(),
            name="dense",
        )(Dropout(self.dropout)(hidden)).astype(jnp.float32)


class Discriminator(nn.Module):
    """One logit per token, after a layer of the model's width (google-research/electra)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Logits [...] in float32."""
        config = self.config
        x = activate(config.activation, _layer(config, "dense", config.width, config.width)(hidden))
        return Classifier(config, classes=1, name="logit")(x)[..., 0]
