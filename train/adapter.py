"""What an adapter is, and the one that trains everything.

An adapter says which numbers are trained: two pure functions over parameter trees {"backbone": ..., "heads": ...}.
Further ones live in `finetune/adapters/`, one file each.
"""

import abc
import dataclasses
from typing import Any

import jax

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter(abc.ABC):
    """Splits parameters into trained and frozen ones, and merges them back for the forward pass."""

    @abc.abstractmethod
    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """`params -> (trainable, frozen)`; `rng` seeds parameters that the adapter adds."""

    @abc.abstractmethod
    def merge(self, trainable: Params, frozen: Params) -> Params:
        """`(trainable, frozen) -> params`, differentiable in `trainable`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full(Adapter):
    """Train every parameter."""

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """Everything is trainable, nothing is frozen."""
        return params, {}

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The trainable parameters are the parameters."""
        return trainable


FULL = Full()
