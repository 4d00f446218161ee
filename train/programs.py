"""Everything that is compiled for a run: once for equal arguments, however many runs a process trains."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from model.network import Network
from objectives.base import Objective
from train.adapter import Adapter, Params
from train.launch import Launcher
from train.optimizer import Optimizer
from train.state import TrainState, create_state
from train.step import eval_step, train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """Everything that is compiled for a run, and the shapes it works on."""

    init: Callable[..., Params]
    create: Callable[..., TrainState]
    train: Callable[..., Any]
    train_on: Callable[[Network], Callable[..., Any]]
    """`train` of another network that takes the same parameters, for counting only."""
    evaluate: Callable[..., Any]
    params_shardings: Any
    state_shapes: Any
    """Shapes with shardings of the canonical state."""


@functools.lru_cache(maxsize=16)
def programs(
    launcher: Launcher,
    network: Network,
    objective: Objective,
    optimizer: Optimizer,
    steps: int,
    adapter: Adapter,
    microbatches: int,
) -> Programs:
    """Compiled once per process for equal arguments: a study repeats the same run with many seeds."""
    tx, axes, key = optimizer.build(steps), network.logical_axes(), jax.eval_shape(lambda: jax.random.key(0))
    create = functools.partial(create_state, tx=tx, adapter=adapter)
    params_shapes = jax.eval_shape(network.init, key)
    params_shardings = launcher.shardings(params_shapes, axes)
    shapes = jax.eval_shape(create, params_shapes, key)
    shardings = launcher.shardings(shapes, axes)
    shared: dict[str, Any] = {"objective": objective, "adapter": adapter}
    train = functools.partial(train_step, **shared, tx=tx, microbatches=microbatches)
    return Programs(
        init=jax.jit(network.init, out_shardings=params_shardings),
        create=jax.jit(create, out_shardings=shardings),
        train=launcher.compile(functools.partial(train, network=network), donate=True),
        train_on=lambda other: launcher.compile(functools.partial(train, network=other), donate=False),
        evaluate=launcher.compile(functools.partial(eval_step, network=network, **shared), donate=False),
        params_shardings=params_shardings,
        state_shapes=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        ),
    )
