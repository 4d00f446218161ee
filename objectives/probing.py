"""What an objective reads and what it scores from: networks that keep their states, and networks that repeat them.

A state is what `encode`, `decode` or `embed` gave. Its name is the number of the call and what was called: "0 encode".
Shape suffixes: B rows, L tokens of a row, D model width.
"""

import functools
from typing import NamedTuple

import jax

from model.network import BoundNetwork, Network, Params
from objectives.base import Batch, Objective
from objectives.measuring import QUICK, HostBatch, companions_of, minimised, step_key

States = dict[str, jax.Array]


class Trace(NamedTuple):
    """Of one call of an objective."""

    reads: dict[str, dict[str, jax.Array]]
    """The arrays that each state was made of."""
    states: States
    """[B, L, D] each."""
    companions: dict[str, States]
    """Those of the frozen networks."""


class Recording(BoundNetwork):
    """Keeps what it reads and gives."""

    def __init__(self, bound: BoundNetwork, kept: Trace | None = None):
        companion = {name: Recording(other) for name, other in bound.companion.items()}
        super().__init__(bound.network, bound.params, bound.dropout_rng, companion)
        others: dict[str, States] = {name: other.kept.states for name, other in companion.items()}
        self.kept: Trace = Trace({}, {}, others) if kept is None else kept

    def redrawn(self, index: int) -> "Recording":
        """The same under other dropout; both keep in one place."""
        return Recording(super().redrawn(index), self.kept)

    def embed(self, batch: Batch) -> jax.Array:
        """Kept."""
        return self._keep("embed", batch, super().embed(batch))

    def encode(self, batch: Batch) -> jax.Array:
        """Kept."""
        return self._keep("encode", batch, super().encode(batch))

    def decode(self, tokens_BL: jax.Array, batch: Batch, memory_BSD: jax.Array) -> jax.Array:
        """Kept, with the tokens as "decoder_tokens"."""
        states_BLD = super().decode(tokens_BL, batch, memory_BSD)
        return self._keep("decode", {**batch, "decoder_tokens": tokens_BL}, states_BLD)

    def _keep(self, kind: str, read: Batch, states_BLD: jax.Array) -> jax.Array:
        name = f"{len(self.kept.states)} {kind}"
        self.kept.reads[name], self.kept.states[name] = dict(read), states_BLD
        return states_BLD


class Repeating(BoundNetwork):
    """Gives these states in the order of its calls, whatever it is asked to read."""

    def __init__(self, bound: BoundNetwork, states: States, others: dict[str, States]):
        companion = {name: Repeating(other, others[name], {}) for name, other in bound.companion.items()}
        super().__init__(bound.network, bound.params, bound.dropout_rng, companion)
        self._states, self._calls = states, 0

    def redrawn(self, index: int) -> "Repeating":
        """Itself: whatever dropout there was is in the states."""
        return self

    def embed(self, batch: Batch) -> jax.Array:
        """The next state."""
        return self._next("embed")

    def encode(self, batch: Batch) -> jax.Array:
        """The next state."""
        return self._next("encode")

    def decode(self, tokens_BL: jax.Array, batch: Batch, memory_BSD: jax.Array) -> jax.Array:
        """The next state."""
        return self._next("decode")

    def _next(self, kind: str) -> jax.Array:
        self._calls += 1
        return self._states[f"{self._calls - 1} {kind}"]


def trace(
    objective: Objective,
    network: Network,
    params: Params,
    batch: HostBatch,
    rng: jax.Array | None = None,
    dropout: jax.Array | None = None,
) -> Trace:
    """What the objective reads of this batch and scores it from, under the key of a step; on the host."""
    key = step_key() if rng is None else rng
    found = _trace(objective, network, params, companions_of(network), batch, key, dropout)
    return Trace(*jax.device_get(tuple(found)))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _trace(
    objective: Objective,
    network: Network,
    params: Params,
    companions: dict[str, Params],
    batch: Batch,
    rng: jax.Array,
    dropout: jax.Array | None,
) -> Trace:
    recording = Recording(network.bind(params, dropout, companions))
    objective(recording, batch, rng)
    return recording.kept


def pull(
    objective: Objective,
    network: Network,
    params: Params,
    found: Trace,
    batch: HostBatch,
    rng: jax.Array | None = None,
    only: str | None = None,
) -> States:
    """Gradient [B, L, D] of the minimised sum, or of a term, with respect to each state of the trace; on the host.

    The states stay those of the trace, so that the batch plays no part but as answers.
    """
    factors = {
        k: factor if only is None else float(k == only) for k, factor in objective.coefficients().items()
    }
    key = step_key() if rng is None else rng
    others = (companions_of(network), found.companions)
    gradients: States = jax.device_get(
        _pull(objective, network, factors, params, others, found.states, batch, key)
    )
    return gradients


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _pull(
    objective: Objective,
    network: Network,
    factors: dict[str, float],
    params: Params,
    others: tuple[dict[str, Params], dict[str, States]],
    states: States,
    batch: Batch,
    rng: jax.Array,
) -> States:
    def loss(states: States) -> jax.Array:
        bound = network.bind(params, None, others[0])
        return minimised(objective(Repeating(bound, states, others[1]), batch, rng), factors)

    return jax.grad(loss)(states)
