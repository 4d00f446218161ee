"""What `best` watches: that evaluations give it, that something is scored for it, and which of two values is the better."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from model.network import Network
from objectives.base import Mode, Objective
from train.adapter import Adapter
from train.experiment import Run
from train.launch import HostBatch

R = TypeVar("R", bound=Run)
SCORED = ("terms", "metrics")
"""Parts of a LossOut that are means over what was scored."""


def check_evaluations(
    run: R,
    network: Network,
    objective: Objective,
    adapter: Adapter,
    eval_sets: Mapping[str, Sequence[HostBatch]],
) -> R:
    """Trace, without compiling the model, what would else fail at the first evaluation.

    Returns:
      The run, its best_mode that of the metric.

    Raises:
      ValueError: evaluations do not give `best`, nothing is scored for it, or best_mode contradicts it.
    """
    sets, weights = dict(eval_sets), _weights(network, objective, adapter)
    # One trace names what every set gives: the objective is the same.
    given = jax.eval_shape(weights, dict(next(iter(sets.values()))[0]))
    known = sorted(f"{name}/{k}" for name in sets for group in given.values() for k in group)
    if not run.best:
        # What older versions stored where nothing is watched.
        return dataclasses.replace(run, best_mode="max" if run.best_mode == "own" else run.best_mode)
    if run.best not in known:
        raise ValueError(f"best is {run.best!r}, but evaluations give {', '.join(known)}")
    name, _, metric = run.best.partition("/")
    (group,) = (group for group in given if metric in given[group])
    if not any(float(weights(dict(batch))[group][metric]) > 0 for batch in sets[name]):
        raise ValueError(
            f"best is {run.best!r}, but in the rows of {name} nothing is scored for it: evaluate more of them, or watch "
            f"another of {', '.join(known)}"
        )
    return dataclasses.replace(run, best_mode=_mode(run, objective, metric, group))


@functools.lru_cache(maxsize=16)
def _weights(network: Network, objective: Objective, adapter: Adapter) -> Callable[[Any], dict[str, Any]]:
    """What was scored of a batch, by part of the LossOut and name; compiled once per process, as runs are (programs.py)."""
    key = jax.random.fold_in(jax.random.key(0), 0)
    shapes = jax.eval_shape(network.init, key)
    trainable_shapes, frozen_shapes = jax.eval_shape(adapter.split, shapes, key)
    companion_shapes = {name: jax.eval_shape(other.init, key) for name, other in network.companions}

    @jax.jit
    def weights(batch: Any) -> dict[str, dict[str, Any]]:
        # They do not depend on parameters, so any will do, and the compiler removes the model.
        trainable, frozen, companions = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            (trainable_shapes, frozen_shapes, companion_shapes),
        )
        out = objective(network.bind(adapter.merge(trainable, frozen), companions=companions), batch, key)
        scored = {k: {name: weight for name, (_, weight) in getattr(out, k).items()} for k in SCORED}
        return {**scored, "penalties": dict.fromkeys(out.penalties, 1.0)}

    return weights


def _mode(run: Run, objective: Objective, metric: str, group: str) -> Mode:
    """The direction of what is watched, of which the run may have said the same."""
    mode: Mode | None = None
    if group == "terms":
        mode = "min" if objective.coefficients()[metric] >= 0 else "max"
    elif group == "penalties":
        mode = "min"
    elif metric in objective.metric_modes:
        mode = objective.metric_modes[metric]
    stated: Mode | None = None if run.best_mode == "own" else run.best_mode
    if mode is not None and stated not in (None, mode):
        raise ValueError(
            f"best_mode is {stated}, but of {run.best} {'more' if mode == 'max' else 'less'} is better: leave best_mode out"
        )
    if (found := mode or stated) is None:
        raise ValueError(
            f"best is {run.best!r}, but {type(objective).__name__} does not say whether more of it is better: set "
            "--best-mode max or min, or name it in the objective's metric_modes"
        )
    return found
