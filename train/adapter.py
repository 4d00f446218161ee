"""What an adapter is, and the one that trains everything.

An adapter says which numbers are trained: two pure functions over parameter trees. It must not know model code, the
optimizer or where parameters come from. Further adapters live in `finetune/adapters.py`.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, Protocol

import jax

Params = Any


class Adapter(Hashable, Protocol):
    """Splits parameters into trained and frozen ones, and merges them back for the forward pass."""

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """`params -> (trainable, frozen)`; `rng` seeds parameters that the adapter adds."""
        ...

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """`(trainable, frozen) -> params`, differentiable in `trainable`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """Train every parameter."""

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """Everything is trainable, nothing is frozen."""
        return params, {}

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The trainable parameters are the parameters."""
        return trainable


FULL = Full()
