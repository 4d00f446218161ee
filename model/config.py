"""The fields and checks that every transformer of this room shares. Knows no module.

What a user may tune is a field; what a paper fixed is a class variable of that paper's config.
"""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.rotary import rotary_rates

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(abc.ABC):
    """Shape and arithmetic of one stack of blocks."""

    vocab_size: int
    """Rows of the token table."""
    layers: int
    """Number of blocks."""
    width: int
    """Width of the residual stream (D)."""
    heads: int
    """Attention heads (H); must divide width, where the head size follows from it."""
    mlp_width: int
    """Hidden width of the MLP (F)."""
    max_positions: int
    """Longest segment that the model can place; also the longest row it accepts."""
    types: int
    """Rows of the type table (BERT's sentence A and B); 0 leaves it out, with 1 every token has type 0."""
    dropout: float
    """Dropout on embeddings and on the output of each sublayer; on only where a dropout key is bound."""
    attention_dropout: float
    """Dropout on attention probabilities; only attention="plain" can do it."""
    norm_eps: float
    """Added to the variance in every norm."""
    init_std: float = 0.02
    """Standard deviation of the initial weight matrices and tables."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. Parameters, norms and softmax are always float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or whole blocks."""
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"
    """Attention kernel; "auto" takes the fastest that can work on this backend."""
    unroll: int = 1
    """Blocks compiled per turn of the layer loop. Parameters are stacked either way."""

    causal: ClassVar[bool]
    bias: ClassVar[bool]
    norm: ClassVar[Literal["layer", "rms"]]
    activation: ClassVar[Activation]
    gated: ClassVar[bool] = False
    tied: ClassVar[bool] = True
    """Whether the token table also makes the logits."""
    positions: ClassVar[Literal["learned", "rotary", "relative"]] = "learned"
    rotary_base: ClassVar[float | None] = None
    position_offset: ClassVar[int] = 0
    scaled_attention: ClassVar[bool] = True
    """Whether scores are divided by the square root of the head size."""
    window: ClassVar[int | None] = None
    """How many tokens a narrow layer sees, half of them to each side; None where all layers see the segment."""
    query_norm: ClassVar[bool] = False
    """Whether queries and keys are normalised, each head by itself, before they are turned."""
    head_bias: ClassVar[bool] = True
    """Whether the heads' layers of the model's width have a bias."""
    pooled: ClassVar[Literal["tanh", "relu", "gelu", "gelu_norm"]] = "tanh"
    """What the pooler does after its layer; the last is a gelu and a norm."""
    pools_all: ClassVar[bool] = False
    """Whether the pooler stands before every classifier: of single tokens, and of means, too."""
    encoder_decoder: ClassVar[bool] = False
    """Whether the backbone also decodes: `causal` then speaks of its encoder."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work together, naming both."""
        for field in ("vocab_size", "layers", "width", "heads", "mlp_width", "max_positions", "unroll"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)} is below 1")
        if self.types < 0:
            raise ValueError(f"types {self.types} is below 0")
        self.check_heads()
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions need an even head size, but width {self.width} / heads {self.heads} "
                f"= {self.head_dim}"
            )
        for field in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(f"{field} {getattr(self, field)} is not in [0, 1)")
        if self.scanned_layers % self.unroll:
            raise ValueError(
                f"layers {self.layers} ({self.scanned_layers} of them scanned) is not divisible by unroll {self.unroll}"
            )
        if self.attention in ("cudnn", "splash") and self.attention_dropout > 0:
            raise ValueError(
                f'attention "{self.attention}" cannot drop probabilities, but attention_dropout is '
                f"{self.attention_dropout}: set it to 0 or use attention plain"
            )
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(f'attention "cudnn" computes in bfloat16 only, but dtype is "{self.dtype}"')

    def check_heads(self) -> None:
        """Refuse heads that do not share the width evenly."""
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head (K)."""
        return self.width // self.heads

    @property
    def embed_width(self) -> int:
        """Width of the token, position and type tables."""
        return self.width

    @property
    def query_bias(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return self.bias

    @property
    def kv_heads(self) -> int:
        """Key and value heads (G), each read by heads / kv_heads query heads."""
        return self.heads

    @property
    def scanned_layers(self) -> int:
        """How many blocks are alike, and so stacked on axis 0 of the parameters below "layers"."""
        return self.layers

    @property
    def hidden_dropout(self) -> float:
        """Dropout inside the MLP, after the activation."""
        return 0.0

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype field as a numpy dtype."""
        return jnp.dtype(self.dtype)

    def kernel_init(self) -> Initializer:
        """Initial values of weight matrices and tables."""
        return nn.initializers.normal(self.init_std)

    def residual_init(self) -> Initializer:
        """Initial values of the matrices whose output is added to the residual stream."""
        return self.kernel_init()

    def position_init(self) -> Initializer:
        """Initial values of the learned position table."""
        return self.kernel_init()

    def query_init(self) -> Initializer:
        """Initial values of the query matrices."""
        return self.kernel_init()

    def table_init(self) -> Initializer:
        """Initial values of the token and type tables."""
        return self.kernel_init()

    def rotary_rates(self) -> jax.Array:
        """Radians per position of each pair of features, [K / 2], where positions are rotary."""
        if self.rotary_base is None:
            raise ValueError(f"{type(self).__name__} has rotary positions but no rotary_base")
        return rotary_rates(self.head_dim, self.rotary_base)

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The backbone that this config describes."""
