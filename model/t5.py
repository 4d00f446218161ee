"""T5 (arXiv 1910.10683) and T5 v1.1 (google-research/text-to-text-transfer-transformer), as published.

An encoder that reads in both directions and a decoder that reads its own past and the encoder's output. Blocks
norm before each sublayer, by root mean square; no matrix has a bias; scores are not divided by the square root of the
head size, which the initial values make up for. Positions are a bias on the scores: one number per head and bucket
of distances, shared by all layers of a stack. v1.0 has a relu MLP and one table for input and output; v1.1 a gated
gelu and a table of its own for the output, and is pretrained without dropout.

Shape suffixes: B batch, L query length, S key length, D model width, H heads, R buckets of distances.
"""

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.attention import Attention, Context, make_context, plain_context
from model.config import Activation, TextConfig
from model.kernels import allowed
from model.layers import Dropout, Embed, Mlp, Norm, Unembed, parameter
from model.stack import PreNormBlock, stack

BUCKETS, MAX_DISTANCE = 32, 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(TextConfig):
    """T5 v1.0 of any size; `layers` counts each stack. The published ones are functions below."""

    vocab_size: int = 32128
    head_dim: int = 64
    """Width of one head (K); heads x head_dim need not be the width."""
    max_positions: int = 512
    """Longest row it accepts (the published length); the model itself knows distances only."""
    types: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_eps: float = 1e-6
    init_std: float = 1.0
    """Factor on the initial scales; 1 is as published."""

    causal: ClassVar[bool] = False
    bias: ClassVar[bool] = False
    norm: ClassVar[Literal["layer", "rms"]] = "rms"
    activation: ClassVar[Activation] = "relu"
    positions: ClassVar[Literal["learned", "rotary", "relative"]] = "relative"
    scaled_attention: ClassVar[bool] = False
    encoder_decoder: ClassVar[bool] = True

    def check_heads(self) -> None:
        """Heads and width are independent here."""
        if self.head_dim < 1:
            raise ValueError(f"head_dim {self.head_dim} is below 1")

    @property
    def hidden_dropout(self) -> float:
        """As everywhere else."""
        return self.dropout

    # Initial scales: mesh_tensorflow/transformer (attention.py, transformer.py) and mtf.layers.dense.

    def kernel_init(self) -> Initializer:
        """Normal, 1 / sqrt(inputs)."""
        return nn.initializers.normal(self.init_std * self.width**-0.5)

    def query_init(self) -> Initializer:
        """Smaller by the square root of the head size, which scores are not divided by."""
        return nn.initializers.normal(self.init_std * (self.width * self.head_dim) ** -0.5)

    def residual_init(self) -> Initializer:
        """Normal, 1 / sqrt(inputs): all axes but the last."""

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return self.init_std * math.prod(shape[:-1]) ** -0.5 * jax.random.normal(key, shape, dtype)

        return init

    def table_init(self) -> Initializer:
        """Standard normal."""
        return nn.initializers.normal(self.init_std)

    def position_init(self) -> Initializer:
        """Glorot's uniform over buckets and heads (TensorFlow's default, which google-research/t5x keeps)."""
        return nn.initializers.variance_scaling(self.init_std**2, "fan_avg", "uniform")

    def build(self) -> "T5":
        """The module."""
        return T5(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5V11Config(T5Config):
    """T5 v1.1 of any size."""

    dropout: float = 0.0
    attention_dropout: float = 0.0

    activation: ClassVar[Activation] = "gelu_tanh"
    gated: ClassVar[bool] = True
    tied: ClassVar[bool] = False


class T5(nn.Module):
    """Tokens to hidden states of the encoder; `decode` takes target tokens and these to those of the decoder."""

    config: T5Config

    def setup(self) -> None:
        """One token table for both stacks."""
        self.embed = Embed(self.config)
        self.encoder = T5Encoder(self.config)
        self.decoder = T5Decoder(self.config)
        if not self.config.tied:
            self.unembed = Unembed(self.config)

    def __call__(
        self,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        positions_BL: jax.Array,
        type_ids_BL: jax.Array | None = None,
    ) -> jax.Array:
        """The encoder's hidden states [B, L, D] in the compute dtype."""
        x_BLD = self.embed(tokens_BL, positions_BL, type_ids_BL)
        hidden_BLD: jax.Array = self.encoder(x_BLD, segment_ids_BL, positions_BL)
        if self.is_initializing():  # parameters of what this method does not run
            self.decode(tokens_BL, segment_ids_BL, positions_BL, hidden_BLD, segment_ids_BL)
            if not self.config.tied:
                self.unembed()
        return hidden_BLD

    def decode(
        self,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        positions_BL: jax.Array,
        memory_BSD: jax.Array,
        memory_segment_ids_BS: jax.Array,
    ) -> jax.Array:
        """The decoder's hidden states [B, L, D], scaled so that times the output table they are the logits."""
        x_BLD = self.embed(tokens_BL, positions_BL, None)
        x_BLD = self.decoder(x_BLD, segment_ids_BL, memory_BSD, memory_segment_ids_BS)
        # The shared table has unit variance, a table of its own 1 / D.
        return x_BLD * self.config.width**-0.5 if self.config.tied else x_BLD


class T5Encoder(nn.Module):
    """Embedded tokens to hidden states, each seeing its whole segment."""

    config: T5Config

    @nn.compact
    def __call__(self, x_BLD: jax.Array, segment_ids_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        """Hidden states [B, L, D]."""
        config = self.config
        relative_1HLS = RelativeBias(config, causal=False, name="relative")(x_BLD.shape[1])
        context = make_context(config, segment_ids_BL, positions_BL)._replace(relative_1HLS=relative_1HLS)
        x_BLD = stack(config, PreNormBlock, Dropout(config.dropout)(x_BLD), context)
        return Dropout(config.dropout)(Norm(config, name="final_norm")(x_BLD))


class T5Decoder(nn.Module):
    """Embedded target tokens to hidden states, each seeing its segment's past and its segment's source."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segment_ids_BL: jax.Array,
        memory_BSD: jax.Array,
        memory_segment_ids_BS: jax.Array,
    ) -> jax.Array:
        """Hidden states [B, L, D]."""
        config = self.config
        relative_1HLS = RelativeBias(config, causal=True, name="relative")(x_BLD.shape[1])
        past = plain_context(segment_ids_BL, allowed(segment_ids_BL, causal=True))
        same_BLS = segment_ids_BL[:, :, None] == memory_segment_ids_BS[:, None, :]
        source = plain_context(segment_ids_BL, same_BLS[:, None])
        sights = Sights(past._replace(relative_1HLS=relative_1HLS), source, memory_BSD)
        x_BLD = stack(config, T5DecoderBlock, Dropout(config.dropout)(x_BLD), sights)
        return Dropout(config.dropout)(Norm(config, name="final_norm")(x_BLD))


class Sights(NamedTuple):
    """What a decoder's blocks look at: the target's own past, and the source."""

    past: Context
    source: Context
    memory_BSD: jax.Array


class T5DecoderBlock(nn.Module):
    """x = x + sublayer(norm(x)), three times: own past, source, MLP."""

    config: T5Config

    @nn.compact
    def __call__(self, x_BLD: jax.Array, sights: Sights) -> tuple[jax.Array, None]:
        """One block, in the (carry, output) form of a scan."""
        config = self.config
        y_BLD = Norm(config, name="attention_norm")(x_BLD)
        y_BLD = Attention(config, name="attention")(y_BLD, y_BLD, sights.past)
        x_BLD = x_BLD + Dropout(config.dropout)(y_BLD)
        y_BLD = Norm(config, name="cross_attention_norm")(x_BLD)
        y_BLD = Attention(config, name="cross_attention")(y_BLD, sights.memory_BSD, sights.source)
        x_BLD = x_BLD + Dropout(config.dropout)(y_BLD)
        y_BLD = Mlp(config, name="mlp")(Norm(config, name="mlp_norm")(x_BLD))
        return x_BLD + Dropout(config.dropout)(y_BLD), None


class RelativeBias(nn.Module):
    """A number per head and bucket of distances (section 2.1), added to the scores of every layer of a stack."""

    config: T5Config
    causal: bool

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """The bias [1, H, L, L] in float32.

        Distances are those of columns, not of positions: within a segment, which lies in one piece, they are the
        same, and so one bias serves all rows (mesh_tensorflow/transformer does likewise).
        """
        table_RH = parameter(
            self, "positions", self.config.position_init(), ("buckets", "heads"), (BUCKETS, self.config.heads)
        )
        distance_L = np.arange(length)
        bucket_LS = buckets(distance_L[None, :] - distance_L[:, None], self.causal)
        return jnp.moveaxis(table_RH[bucket_LS], -1, 0)[None]


def buckets(distance: np.ndarray, causal: bool) -> np.ndarray:
    """The bucket of each distance (key minus query): near ones have their own, far ones share it logarithmically.

    >>> buckets(np.array([-200, -20, -3, 0, 3, 20, 200]), causal=False)
    array([15, 10,  3,  0, 19, 26, 31])
    >>> buckets(np.array([-200, -20, -3, 0, 3]), causal=True)  # the future shares the bucket of the token itself
    array([31, 17,  3,  0,  0])
    """
    per_side = BUCKETS if causal else BUCKETS // 2
    exact = per_side // 2
    far = np.maximum(-distance if causal else np.abs(distance), 0)
    # float32 as in the published code: at the borders of buckets, rounding decides.
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    shared = exact + (ratio / np.float32(math.log(MAX_DISTANCE / exact)) * (per_side - exact)).astype(
        np.int32
    )
    bucket = np.where(far < exact, far, np.minimum(shared, per_side - 1))
    return bucket if causal else bucket + per_side * (distance > 0)


def t5_small() -> T5Config:
    """60.5M parameters."""
    return T5Config(layers=6, width=512, heads=8, mlp_width=2048)


def t5_base() -> T5Config:
    """222.9M parameters."""
    return T5Config(layers=12, width=768, heads=12, mlp_width=3072)


def t5_large() -> T5Config:
    """737.7M parameters."""
    return T5Config(layers=24, width=1024, heads=16, mlp_width=4096)


def t5_3b() -> T5Config:
    """2,851.6M parameters."""
    return T5Config(layers=24, width=1024, heads=32, head_dim=128, mlp_width=16384)


def t5_11b() -> T5Config:
    """11,307.3M parameters."""
    return T5Config(layers=24, width=1024, heads=128, head_dim=128, mlp_width=65536)


def t5_v1_1_small() -> T5V11Config:
    """77.0M parameters."""
    return T5V11Config(layers=8, width=512, heads=6, mlp_width=1024)


def t5_v1_1_base() -> T5V11Config:
    """247.6M parameters."""
    return T5V11Config(layers=12, width=768, heads=12, mlp_width=2048)


def t5_v1_1_large() -> T5V11Config:
    """783.2M parameters."""
    return T5V11Config(layers=24, width=1024, heads=16, mlp_width=2816)


def t5_v1_1_xl() -> T5V11Config:
    """2,849.8M parameters."""
    return T5V11Config(layers=24, width=2048, heads=32, mlp_width=5120)


def t5_v1_1_xxl() -> T5V11Config:
    """11,135.3M parameters."""
    return T5V11Config(layers=24, width=4096, heads=64, mlp_width=10240)
