"""What the other rooms may ask of any model, what every transformer shares, and what one of text has besides.

What a user may tune is a field; what a paper fixed is a class variable of that paper's config.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from model.platform import platform
from model.ranges import COUNT, DROPOUT, NOT_NEGATIVE, check_ranges
from model.rotary import rotary_rates

SPLASH_BLOCK = 128  # lanes of a TPU register: splash tiles rows by multiples of it

Kernel = Literal["plain", "cudnn", "splash"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """Shape and arithmetic of a backbone: whatever it reads, its hidden states are [B, L, D]."""

    width: Annotated[int, COUNT]
    """Width of the hidden states (D)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. Parameters, norms and softmax are always float32."""

    causal: ClassVar[bool] = False
    """Whether a position sees only those before it."""
    encoder_decoder: ClassVar[bool] = False
    """Whether the backbone also decodes: `causal` then speaks of its encoder."""

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The backbone that this config describes."""

    @abc.abstractmethod
    def inputs(self, batch: Batch) -> tuple[jax.Array | None, ...]:
        """What the backbone is called with: the arrays of the batch that it reads (docs/rows.md)."""

    @abc.abstractmethod
    def example_batch(self) -> dict[str, jax.Array]:
        """The smallest batch that it can read, from which parameters take their shapes; also what heads are shown."""

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype field as a numpy dtype."""
        return jnp.dtype(self.dtype)

    def kernel_init(self) -> Initializer:
        """Initial values of weight matrices, those of heads too."""
        return nn.initializers.normal(0.02)

    def check_rows(self, length: int) -> None:
        """Raise ValueError if the backbone cannot read rows of this length."""
        return None

    def exact(self) -> Self:
        """In float32, so that launchers can be compared."""
        return dataclasses.replace(self, dtype="float32")

    def plain(self, length: int) -> Self:
        """The same mathematics on such rows with nothing recomputed and no fused kernel: what FLOPs are counted of."""
        return self


def read_batch(backbone: nn.Module, batch: Batch) -> jax.Array:
    """The backbone's hidden states of what its config reads of a batch."""
    hidden_BLD: jax.Array = backbone(*backbone.config.inputs(batch))
    return hidden_BLD


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Shape and arithmetic of one stack of blocks."""

    layers: Annotated[int, COUNT]
    """Number of blocks."""
    heads: Annotated[int, COUNT]
    """Attention heads (H); must divide width, where the head size follows from it."""
    mlp_width: Annotated[int, COUNT]
    """Hidden width of the MLP (F)."""
    max_positions: Annotated[int, COUNT]
    """Longest segment that the model can place; also the longest row it accepts."""
    dropout: Annotated[float, DROPOUT]
    """Dropout on embeddings and on the output of each sublayer; on only where a dropout key is bound."""
    attention_dropout: Annotated[float, DROPOUT]
    """Dropout on attention probabilities; only attention="plain" can do it."""
    norm_eps: Annotated[float, NOT_NEGATIVE]
    """Added to the variance in every norm."""
    init_std: Annotated[float, NOT_NEGATIVE] = 0.02
    """Standard deviation of the initial weight matrices and tables."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or whole blocks."""
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"
    """Attention kernel; "auto" takes the fastest that can work on this backend."""
    unroll: Annotated[int, COUNT] = 1
    """Blocks compiled per turn of the layer loop. Parameters are stacked either way."""

    bias: ClassVar[bool]
    norm: ClassVar[Literal["layer", "rms"]]
    activation: ClassVar[Activation]
    gated: ClassVar[bool] = False
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

    def __post_init__(self) -> None:
        """Refuse values that cannot work together, naming both."""
        check_ranges(self)
        self.check_heads()
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions need an even head size, but width {self.width} / heads {self.heads} "
                f"= {self.head_dim}"
            )
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

    def rotary_rates(self) -> jax.Array:
        """Radians per position of each pair of features, [K / 2], where positions are rotary."""
        if self.rotary_base is None:
            raise ValueError(f"{type(self).__name__} has rotary positions but no rotary_base")
        return rotary_rates(self.head_dim, self.rotary_base)

    def choose_kernel(self, length: int, prefixed: bool = False) -> Kernel:
        """The attention kernel for rows of this length, perhaps with prefixes; ValueError if that asked for cannot work."""
        if length == 1:  # one token sees itself: nothing to accelerate (parameters are initialised this way)
            return "plain"
        target = platform()
        if self.attention == "auto":
            fastest: dict[str, Kernel] = {"gpu": "cudnn", "tpu": "splash"}
            if target not in fastest or self._obstacle(fastest[target], length, target, prefixed):
                return "plain"
            return fastest[target]
        if obstacle := self._obstacle(self.attention, length, target, prefixed):
            raise ValueError(f'attention "{self.attention}" {obstacle}; use attention "auto"')
        return self.attention

    def _obstacle(self, kernel: Kernel, length: int, target: str, prefixed: bool) -> str:
        """Why this kernel cannot do this, or nothing."""
        if kernel == "plain":
            return ""
        home = {"cudnn": "gpu", "splash": "tpu"}[kernel]
        if target != home:
            return f'runs on {home} only, but the backend is "{target}"'
        if self.attention_dropout > 0:
            return f"cannot drop probabilities, but attention_dropout is {self.attention_dropout}"
        if self.positions == "relative":
            return f"cannot add position biases to the scores, as {type(self).__name__} needs"
        if kernel == "splash" and self.window is not None:
            return f"cannot mix narrow and wide layers, but window is {self.window}"
        if kernel == "splash" and prefixed:
            return "cannot look ahead within a prefix, but the batch has one"
        if kernel == "splash" and length % SPLASH_BLOCK:
            return f"tiles rows by {SPLASH_BLOCK}, but they are {length} tokens long"
        if kernel == "cudnn" and self.dtype != "bfloat16":
            return f'computes in bfloat16, but dtype is "{self.dtype}"'
        if kernel == "cudnn" and (self.head_dim % 8 or self.head_dim > 128):
            return (
                f"needs a head size that is a multiple of 8 up to 128, but width / heads is {self.head_dim}"
            )
        if kernel == "cudnn" and length % 2:
            return f"needs an even row length, but rows are {length} tokens long"
        return ""

    def check_rows(self, length: int) -> None:
        """A row must fit the positions, and the kernel that was asked for."""
        if length > self.max_positions:
            raise ValueError(
                f"data.length {length} is longer than model.max_positions {self.max_positions}: shorten the rows or give "
                "the model more positions"
            )
        self.choose_kernel(length)

    def plain(self, length: int) -> Self:
        """Itself where it is so on rows of this length, so that both are one program."""
        if self.remat == "none" and self.choose_kernel(length) == "plain":
            return self
        return dataclasses.replace(self, remat="none", attention="plain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """A transformer that reads tokens."""

    vocab_size: Annotated[int, COUNT]
    """Rows of the token table (V)."""
    types: Annotated[int, NOT_NEGATIVE]
    """Rows of the type table (BERT's sentence A and B); 0 leaves it out, with 1 every token has type 0."""

    tied: ClassVar[bool] = True
    """Whether the token table also makes the logits."""

    def inputs(self, batch: Batch) -> tuple[jax.Array | None, ...]:
        """Tokens and their layout; a causal backbone also takes the prefix that all of a segment see, if there is one."""
        type_ids_BL = batch["type_ids"] if "type_ids" in batch else None
        layout = (batch["tokens"], batch["segment_ids"], batch["positions"], type_ids_BL)
        # Where attention is not causal, everything is seen anyway.
        return (*layout, batch["prefix"]) if self.causal and "prefix" in batch else layout

    def example_batch(self) -> dict[str, jax.Array]:
        """One token."""
        one_BL = jnp.ones((1, 1), jnp.int32)
        return {"tokens": one_BL, "segment_ids": one_BL, "positions": one_BL * 0}

    def table_init(self) -> Initializer:
        """Initial values of the token and type tables."""
        return self.kernel_init()
