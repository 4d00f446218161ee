"""Train the last layers, or the heads alone.

Layers are stacked on axis 0 of every leaf below "layers", so freezing some of them cuts the leaf along that axis.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from model.ranges import Range, check_ranges
from train.adapter import Adapter, Params
from train.checkpoint import flat
from train.tree import is_embedding, nest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen(Adapter):
    """Train the heads, and perhaps the last layers."""

    layers: Annotated[int, Range(least=0, also=-1)] = -1
    """Freeze embeddings and this many of the first layers; -1 freezes the whole backbone."""

    def __post_init__(self) -> None:
        check_ranges(self, "adapter.")

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """A stacked leaf of which only the first layers are frozen is cut in two, under the same path."""
        trainable: dict[tuple[str, ...], Any] = {}
        frozen: dict[tuple[str, ...], Any] = {}
        for path, leaf in flat(params).items():
            if path[0] == "heads":
                trainable[path] = leaf
            elif self.layers == -1 or is_embedding(path):
                frozen[path] = leaf
            elif "layers" not in path:
                trainable[path] = leaf
            elif self.layers > leaf.shape[0]:
                raise ValueError(f"adapter.layers {self.layers} exceeds the model's {leaf.shape[0]} layers")
            else:
                parts = ((frozen, leaf[: self.layers]), (trainable, leaf[self.layers :]))
                for side, part in parts:
                    if part.shape[0]:
                        side[path] = part
        return nest(trainable), nest(frozen)

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """Leaves of both sides; those that were cut are joined again along the layers."""
        ours, theirs = flat(trainable), flat(frozen)
        merged = {**theirs, **ours}
        for path in ours.keys() & theirs.keys():
            merged[path] = jnp.concatenate([theirs[path], ours[path]])
        return nest(merged)
