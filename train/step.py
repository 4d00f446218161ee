"""The one training step, and its counterpart for evaluation. Pure functions of a state, a batch and a key.

Losses are sums with weights. The weights of all microbatches and devices are summed before the first gradient, so the
gradient is that of sum(loss) / sum(weight) over the global batch, however the batch is split. (Averaging the means of
unequal parts, the usual shortcut, changes the gradient by tens of percent under ragged masks.)

Letters: B rows of a batch, M microbatches.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.network import BoundNetwork, Network
from objectives.base import LossOut, Objective
from train.adapter import Adapter, Params
from train.state import TrainState

Batch = Mapping[str, jax.Array]
Scorer = Callable[[BoundNetwork, Batch, jax.Array], LossOut]


def _interleave(batch: Batch, microbatches: int) -> Batch:
    """[B, ...] -> [M, B // M, ...], taking every M-th row: a plain split would move rows between devices."""
    return jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), dict(batch))


def _scan_sum(function: Any, xs: Any) -> Any:
    """Sum of `function(x)` over the leading axis of `xs`, one at a time."""
    first, rest = jax.tree.map(lambda x: x[0], xs), jax.tree.map(lambda x: x[1:], xs)
    total = function(first)
    if jax.tree.leaves(xs)[0].shape[0] == 1:
        return total
    return jax.lax.scan(lambda acc, x: (jax.tree.map(jnp.add, acc, function(x)), None), total, rest)[0]


def _safe_divide(total: jax.Array, weight: jax.Array) -> jax.Array:
    """Total over weight, and 0 where nothing was weighted."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)


def train_step(
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    network: Network,
    objective: Objective,
    tx: optax.GradientTransformation,
    adapter: Adapter,
    microbatches: int = 1,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]:
    """One update.

    Args:
      state: the state before the step; donated by the launchers.
      batch: arrays with leading axis B (this device's rows if `axis` is given, else all rows).
      rng: the run's root key; step, example ids and device are folded in here, never by the caller.
      network: backbone and heads, unbound; its companions' parameters are in the state, and get no gradient.
      objective: the loss, as sums with weights.
      tx: optax transformation over `state.trainable`.
      adapter: what is trained.
      microbatches: M; must divide B.
      axis: the pmap axis over which rows are split, or None if the arrays are global.

    Returns:
      The next state, and sums with weights: every term and metric of the objective, `loss`, `grad_norm`, `tokens`.
    """
    corruption_key, dropout_key = (jax.random.fold_in(k, state.step) for k in jax.random.split(rng))
    if axis is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis))
    micro = (_interleave(batch, microbatches), jnp.arange(microbatches))
    splits = microbatches if axis is None else microbatches * jax.lax.psum(1, axis)

    def forward(trainable: Params, rows: Batch, index: jax.Array) -> LossOut:
        params = adapter.merge(trainable, state.frozen)
        bound = network.bind(params, jax.random.fold_in(dropout_key, index), state.companions)
        return objective(bound, rows, corruption_key)

    def weights(x: Any) -> dict[str, jax.Array]:
        # The loss sums of this call are dropped, so the compiler removes the model from it.
        return {name: weight for name, (_, weight) in forward(state.trainable, *x).terms.items()}

    weight_sums = _scan_sum(weights, micro)
    weight_sums = weight_sums if axis is None else jax.lax.psum(weight_sums, axis)

    def loss(trainable: Params, rows: Batch, index: jax.Array) -> tuple[jax.Array, LossOut]:
        out = forward(trainable, rows, index)
        parts = [
            objective.coefficients()[k] * _safe_divide(s, weight_sums[k]) for k, (s, _) in out.terms.items()
        ]
        # All splits add them up again.
        parts += [penalty / splits for penalty in out.penalties.values()]
        return jnp.sum(jnp.stack(parts)), out

    (_, out), grads = _scan_sum(lambda x: jax.value_and_grad(loss, has_aux=True)(state.trainable, *x), micro)
    if axis is not None:
        out, grads = jax.lax.psum((out, grads), axis)
    out = out._replace(penalties={name: penalty / splits for name, penalty in out.penalties.items()})
    return _update(state, grads, out, objective, tx, _real_tokens(batch, axis))


def _real_tokens(batch: Batch, axis: str | None) -> jax.Array:
    """Tokens that are not padding, over all devices."""
    count = jnp.sum(batch["segment_ids"] > 0).astype(jnp.float32)
    return count if axis is None else jax.lax.psum(count, axis)


def _update(
    state: TrainState,
    grads: Params,
    out: LossOut,
    objective: Objective,
    tx: optax.GradientTransformation,
    tokens: jax.Array,
) -> tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]:
    """Apply `grads` unless something is not finite; after a bad step nothing moves any more."""
    one = jnp.ones((), jnp.float32)
    total = total_loss(objective, out)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    keep = finite & (state.bad_step < 0)
    trainable, opt_state = jax.tree.map(
        lambda new, old: jnp.where(keep, new, old), (trainable, opt_state), (state.trainable, state.opt_state)
    )
    bad_step = jnp.where(finite | (state.bad_step >= 0), state.bad_step, state.step)
    next_state = state._replace(
        step=state.step + keep, trainable=trainable, opt_state=opt_state, bad_step=bad_step
    )
    own = {"loss": (total, one), "grad_norm": (grad_norm, one), "tokens": (tokens, one)}
    return next_state, merge_metric_names(out.terms, out.metrics, _once(out), own)


def total_loss(objective: Objective, out: LossOut) -> jax.Array:
    """Sum over terms of coefficient x loss_sum / weight_sum, and the penalties; `out` must hold global sums."""
    coefficients = objective.coefficients()
    parts = [coefficients[k] * _safe_divide(s, w) for k, (s, w) in out.terms.items()]
    return jnp.sum(jnp.stack([*parts, *out.penalties.values()]))


def _once(out: LossOut) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The penalties as means of one."""
    return {name: (penalty, jnp.ones((), jnp.float32)) for name, penalty in out.penalties.items()}


def eval_step(
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    network: Network,
    objective: Scorer,
    adapter: Adapter,
    axis: str | None = None,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Sums with weights of the same objective, or of a view, without dropout and with one fixed corruption per example."""
    params = adapter.merge(state.trainable, state.frozen)
    bound = network.bind(params, companions=state.companions)
    out = objective(bound, batch, jax.random.fold_in(rng, 0))
    sums = merge_metric_names(out.terms, out.metrics, _once(out))
    return sums if axis is None else jax.lax.psum(sums, axis)


def merge_metric_names(
    *groups: dict[str, tuple[jax.Array, jax.Array]],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """All groups as one; ValueError where a name would stand for two numbers."""
    names = [name for group in groups for name in group]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{twice} name two numbers each: terms, metrics and penalties need different names, and none of loss, "
            "grad_norm, tokens"
        )
    return {name: value for group in groups for name, value in group.items()}
