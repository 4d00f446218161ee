"""A backbone with its heads, and the same with parameters bound: all that an objective sees of a model.

Shape suffixes: B batch, L length, S source length, D model width, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.config import Batch, read_batch
from model.layers import Embed, trailing
from model.row_keys import Generator, apply_by_row

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """The static half of a model: hashable, so that it can be a static argument of jit."""

    backbone: nn.Module
    """Has a `config` (model.config.ModelConfig) and is called with `config.inputs(batch)`; docs/models.md says how one is
    added."""
    heads: tuple[tuple[str, nn.Module], ...] = ()
    companions: tuple[tuple[str, "Network"], ...] = ()
    """Frozen networks that an objective reads beside this one, by name; `init` draws nothing for them."""
    dropout_bits: Generator = "hash"
    """How dropout draws (model/row_keys.py)."""

    def __post_init__(self) -> None:
        """Refuse two heads of one name."""
        names = [name for name, _ in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"head names must differ, got {names}")

    @partial(jax.jit, static_argnums=0)
    def init(self, rng: jax.Array) -> Params:
        """Fresh float32 parameters {"backbone": ..., "heads": {name: ...}} as plain arrays."""
        return cast(Params, nn.unbox(self._boxed(rng)))

    def logical_axes(self) -> Params:
        """For each parameter the tuple of its logical axis names; same structure as the parameters."""
        boxed = jax.eval_shape(self._boxed, jax.ShapeDtypeStruct((), jax.random.key(0).dtype))
        return jax.tree.map(
            lambda box: tuple(box.names), boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
        )

    def bind(
        self,
        params: Params,
        dropout_rng: jax.Array | None = None,
        companions: Mapping[str, Params] = MappingProxyType({}),
    ) -> "BoundNetwork":
        """The network with its parameters and those of its companions; dropout is on iff a key is given, in them never."""
        networks = dict(self.companions)
        companion = {name: networks[name].bind(own) for name, own in companions.items()}
        return BoundNetwork(self, params, dropout_rng, companion)

    def plain(self, length: int) -> "Network":
        """The same mathematics on rows of this length with nothing recomputed and no fused kernel: to count FLOPs of."""
        companions = tuple((name, network.plain(length)) for name, network in self.companions)
        backbone = self.backbone.clone(config=self.backbone.config.plain(length))
        return dataclasses.replace(self, backbone=backbone, companions=companions)

    def _boxed(self, rng: jax.Array) -> Params:
        config = self.backbone.config
        backbone_rng, *head_rngs = jax.random.split(rng, 1 + len(self.heads))
        hidden_BLD = jnp.zeros((1, 1, config.width), config.compute_dtype)
        heads = {
            name: head.init(head_rng, hidden_BLD)["params"]
            for (name, head), head_rng in zip(self.heads, head_rngs, strict=True)
        }
        backbone = self.backbone.init(backbone_rng, *config.inputs(config.example_batch()))["params"]
        return {"backbone": backbone, "heads": heads}


class BoundNetwork:
    """A network with parameters (and perhaps a dropout key): what objectives are given."""

    def __init__(
        self,
        network: Network,
        params: Params,
        dropout_rng: jax.Array | None = None,
        companion: Mapping[str, "BoundNetwork"] = MappingProxyType({}),
    ):
        """Use Network.bind; companions are frozen networks that an objective declared."""
        self.network = network
        self.params = params
        self.dropout_rng = dropout_rng
        self.companion = companion
        self.config: Any = network.backbone.config
        self._dtype = self.config.compute_dtype

    def redrawn(self, index: int) -> "BoundNetwork":
        """The same network under other dropout: two encodes of one bound network drop the same values."""
        if index == 0 or self.dropout_rng is None:
            return self
        return BoundNetwork(
            self.network, self.params, jax.random.fold_in(self.dropout_rng, index), self.companion
        )

    def embed(self, batch: Batch) -> jax.Array:
        """The sums of the token, position and type tables [B, L, D], from which a backbone of text starts."""
        type_ids_BL = batch["type_ids"] if "type_ids" in batch else None
        params = {"params": self.params["backbone"]["embed"]}
        x_BLD = Embed(self.config).apply(params, batch["tokens"], batch["positions"], type_ids_BL)
        return cast(jax.Array, x_BLD)

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, L, D] of the batch, of which the backbone reads what its config's `inputs` names.

        Args:
          batch: example_ids [B], by which dropout draws; for a model of text tokens, segment_ids, positions and, where it
            has them, type_ids and prefix (bool: the tokens that all of their segment may see, so that a causal backbone
            reads them in both directions), all [B, L]; of an encoder-decoder, what its encoder reads. Objectives give what
            `corrupt` made of it.
        """
        hidden_BLD = self._apply(
            0, self.network.backbone, self.params["backbone"], batch, batch, method=read_batch
        )
        return cast(jax.Array, hidden_BLD)

    def decode(self, tokens_BL: jax.Array, batch: Batch, memory_BSD: jax.Array) -> jax.Array:
        """Hidden states [B, L, D] of an encoder-decoder's target tokens: times embedding_VD they are the logits.

        Args:
          tokens_BL: what the decoder reads (targets shifted right), each seeing those before it in its segment.
          batch: target_segment_ids and target_positions [B, L] of these tokens, segment_ids [B, S] of the source; a
            target reads the source of its own segment, and nothing where there is none.
          memory_BSD: what `encode` returned for the source.
        """
        if not self.config.encoder_decoder:
            raise ValueError(
                f"{type(self.config).__name__} has no decoder: use encode, or an encoder-decoder like T5"
            )
        hidden_BLD = self._apply(
            0,
            self.network.backbone,
            self.params["backbone"],
            batch,
            tokens_BL,
            batch["target_segment_ids"],
            batch["target_positions"],
            memory_BSD,
            batch["segment_ids"],
            method="decode",
        )
        return cast(jax.Array, hidden_BLD)

    @property
    def embedding_VD(self) -> jax.Array:
        """The table of the logits in the compute dtype: the token table where tied, else the output table."""
        module = "embed" if self.config.tied else "unembed"
        table_VD: jax.Array = self.params["backbone"][module]["tokens"]
        return table_VD.astype(self._dtype)

    def unembed(self, hidden: jax.Array, bias_V: jax.Array | None = None) -> jax.Array:
        """Full float32 logits [..., V]; for small uses, a loss should chunk them."""
        logits = jnp.einsum("...D,VD->...V", hidden, self.embedding_VD, preferred_element_type=jnp.float32)
        return logits if bias_V is None else logits + trailing(bias_V, logits.ndim)

    def head(self, name: str, *args: jax.Array, batch: Batch | None = None) -> Any:
        """Apply the head of that name.

        Args:
          name: as in the objective's `heads`.
          args: what the head is called with.
          batch: that of which the arguments' rows come; a head with dropout needs its example_ids.
        """
        names = [head_name for head_name, _ in self.network.heads]
        if name not in names:
            raise ValueError(f"no head {name!r} here, only {names}")
        index = names.index(name)
        module = self.network.heads[index][1]
        return self._apply(1 + index, module, self.params["heads"][name], batch, *args)

    def _apply(
        self,
        part: int,
        module: nn.Module,
        params: Params,
        batch: Batch | None,
        *args: Any,
        method: Any = None,
    ) -> Any:
        # Backbone and heads must not share a key: equal shapes would then drop the same values.
        rng = None if self.dropout_rng is None else jax.random.fold_in(self.dropout_rng, part)
        return apply_by_row(
            module,
            {"params": params},
            *args,
            rng=rng,
            example_ids_B=batch["example_ids"] if batch is not None and "example_ids" in batch else None,
            generator=self.network.dropout_bits,
            method=method,
        )
