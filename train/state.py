"""The state that one step turns into the next, and how it begins.

Launchers place it on devices, `checkpoint` stores it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.adapter import Adapter, Params


class TrainState(NamedTuple):
    """All that a step reads and writes; the data position is `step`, since batch(step) is a pure function."""

    step: jax.Array
    """int32 scalar: updates applied so far."""
    trainable: Params
    """fp32 parameters that receive gradients."""
    frozen: Params
    """fp32 parameters that do not; no gradient and no optimizer state exists for them."""
    opt_state: Any
    bad_step: jax.Array
    """int32 scalar: the first step whose loss or gradient was not finite, or -1. Nothing is updated after it."""
    companions: dict[str, Params]
    """Parameters of the frozen networks that the objective reads, by name. They are never saved."""


class RunKeys(NamedTuple):
    """The keys of a run; that of its evaluations is none of them."""

    params: jax.Array
    """Draws the initial parameters; whoever draws some of them before the loop does so with it."""
    adapter: jax.Array
    steps: jax.Array


def run_keys(seed: int) -> RunKeys:
    """The keys that a run of this seed draws with."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


def create_state(
    params: Params, rng: jax.Array, *, tx: optax.GradientTransformation, adapter: Adapter
) -> TrainState:
    """The state before the first step, from initial parameters; companions are added by whoever has them."""
    trainable, frozen = adapter.split(params, rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=tx.init(trainable),
        bad_step=jnp.full((), -1, jnp.int32),
        companions={},
    )
