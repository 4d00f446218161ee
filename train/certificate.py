"""The certificate: one experiment under every launcher and split, and by how much the numbers differ.

`python -m train.certificate CONFIG [--compared.steps 20] [overrides]` runs the experiment's own step on one device,
`Pmap()` over all, and three meshes, with 1, 2 and 4 microbatches, in float32 without dropout, and prints a table. Losses
are compared over a run of steps; gradients at equal parameters, since Adam turns rounding noise into full-size updates
wherever the true gradient is zero. Any objective can be certified.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from model.network import Network
from objectives.base import Objective
from train.adapter import FULL
from train.build import build, check_run
from train.cli import load_config, one_line_errors, parse_with
from train.companions import place_companions
from train.experiment import Experiment
from train.launch import HostBatch, Launcher, Mesh, Pmap
from train.optimizer import Optimizer
from train.state import TrainState, create_state
from train.step import train_step

TOLERANCE = 1e-5
"""Largest accepted difference: of losses in nats, of gradients relative to the largest entry of their leaf's tree."""


Kind = Literal["pmap", "data", "fsdp", "tensor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared with one device and one microbatch."""

    steps: int = 20
    """Steps whose losses are compared."""
    launchers: tuple[Kind, ...] = ("pmap", "data", "fsdp", "tensor")
    """Pmap, and meshes that split the rows, the parameters too, or those over two axes; as far as the devices allow."""
    microbatches: tuple[int, ...] = (1, 2, 4)
    """Parts of a batch; those into which it cannot be divided are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One launcher and split against the reference."""

    launcher: str
    microbatches: int
    first_loss: float
    """Of the first step, nats."""
    last_loss: float
    """Of the last step, nats."""
    loss_gap: float
    """Largest |loss - reference| over the steps, nats."""
    gradient_gap: float
    """Largest |gradient - reference| at the reference's first and last parameters, over the largest |reference|."""

    @property
    def agrees(self) -> bool:
        """Whether both differences are within `TOLERANCE`."""
        return self.loss_gap <= TOLERANCE and self.gradient_gap <= TOLERANCE


def launchers(devices: int, kinds: Sequence[Kind] = Compared().launchers) -> dict[str, Launcher]:
    """Every way of these kinds to lay a step out on this many devices."""
    ways: dict[Kind, tuple[str, Launcher]] = {
        "pmap": (f"Pmap() x {devices}", Pmap()),
        "data": (f"Mesh(data={devices})", Mesh(data=devices)),
    }
    if devices > 1:
        ways["fsdp"] = (f"Mesh(fsdp={devices})", Mesh(fsdp=devices, data=1))
    if devices % 2 == 0 and devices > 2:
        half = devices // 2
        ways["tensor"] = (f"Mesh(fsdp={half}, tensor=2)", Mesh(fsdp=half, tensor=2, data=1))
    return dict(way for kind, way in ways.items() if kind in kinds)


def _keep_gradient() -> optax.GradientTransformation:
    """Changes nothing; its state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, params=None: (grads, grads)
    )


def certify(
    network: Network,
    objective: Objective,
    batches: Sequence[HostBatch],
    optimizer: Optimizer,
    *,
    ways: dict[str, Launcher],
    splits: Sequence[int],
    seed: int = 0,
    companions: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Row]:
    """Run all `batches` on one device and every way, in each number of parts; compare with one device and one part."""
    rng = jax.random.key(seed)
    params = network.init(rng)
    tx = optax.chain(_keep_gradient(), optimizer.build(len(batches)))
    step = functools.partial(train_step, network=network, objective=objective, adapter=FULL, tx=tx)

    def alone(microbatches: int) -> Run:
        return _on_one_device(functools.partial(step, microbatches=microbatches), tx, rng, dict(companions))

    run_alone = alone(1)
    reference_losses, end = run_alone(params, batches)
    points = [(params, batches[0]), (end.trainable, batches[-1])]
    reference = [_gradient(run_alone, point) for point in points]

    def row(name: str, microbatches: int, run: Run) -> Row:
        losses, _ = run(params, batches)
        gaps = [
            _gap(_gradient(run, point), expected) for point, expected in zip(points, reference, strict=True)
        ]
        first, last = float(losses[0]), float(losses[-1])
        return Row(
            launcher=name,
            microbatches=microbatches,
            first_loss=first,
            last_loss=last,
            loss_gap=float(np.max(np.abs(losses - reference_losses))),
            gradient_gap=max(gaps),
        )

    for microbatches in splits:
        if microbatches > 1:
            yield row("one device", microbatches, alone(microbatches))
    for name, launcher in ways.items():
        for microbatches in splits:
            split = functools.partial(step, microbatches=microbatches)
            yield row(name, microbatches, _launched(launcher, network, split, tx, rng, companions))


Run = Callable[[Any, Sequence[HostBatch]], tuple[np.ndarray, TrainState]]
"""(parameters, batches) -> (loss of every step, last state); compiled once, called for several points."""


def _gradient(run: Run, point: tuple[Any, HostBatch]) -> Any:
    """The gradient at these parameters."""
    params, batch = point
    return run(params, [batch])[1].opt_state[0]


def _on_one_device(
    step: Any, tx: optax.GradientTransformation, rng: jax.Array, companions: dict[str, Any]
) -> Run:
    compiled = jax.jit(step)

    def run(params: Any, batches: Sequence[HostBatch]) -> tuple[np.ndarray, TrainState]:
        state, losses = create_state(params, rng, tx=tx, adapter=FULL), []
        state = state._replace(companions=companions)
        for batch in batches:
            state, sums = compiled(state, dict(batch), rng)
            losses.append(float(sums["loss"][0]))
        return np.array(losses), jax.device_get(state)

    return run


def _launched(
    launcher: Launcher,
    network: Network,
    step: Any,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    companions: Mapping[str, Any],
) -> Run:
    create = functools.partial(create_state, tx=tx, adapter=FULL)
    compiled = launcher.compile(step, donate=False)
    key = launcher.replicate(rng)

    def run(params: Any, batches: Sequence[HostBatch]) -> tuple[np.ndarray, TrainState]:
        shardings = launcher.shardings(jax.eval_shape(create, params, rng), network.logical_axes())
        state, losses = jax.jit(create, out_shardings=shardings)(params, rng), []
        state = launcher.enter(state._replace(companions=place_companions(companions, network, launcher)))
        for batch in batches:
            rows = launcher.local_rows(len(batch["example_ids"]))
            state, sums = compiled(state, launcher.put({k: v[rows] for k, v in batch.items()}), key)
            losses.append(float(launcher.fetch(sums)["loss"][0]))
        return np.array(losses), jax.device_get(launcher.leave(state))

    return run


def _gap(got: Any, expected: Any) -> float:
    scale = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(expected))
    return (
        max(float(np.max(np.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True))
        / scale
    )


def table(rows: Sequence[Row], title: str) -> Table:
    """The certificate as a table."""
    out = Table(title=title)
    for column in ("launcher", "microbatches", "loss", "loss difference", "gradient difference", "agrees"):
        out.add_column(column, justify="left" if column in ("launcher", "agrees") else "right")
    for row in rows:
        course = f"{row.first_loss:.4f} -> {row.last_loss:.4f}"
        differences = (f"{row.loss_gap:.1e}", f"{row.gradient_gap:.1e}")
        out.add_row(row.launcher, str(row.microbatches), course, *differences, "yes" if row.agrees else "NO")
    return out


def main(arguments: Sequence[str]) -> None:
    """`CONFIG [--compared.steps N] [--compared.launchers ...] [--compared.microbatches ...] [overrides]`."""
    if not arguments or arguments[0].startswith("-"):
        raise ValueError("usage: python -m train.certificate CONFIG.py [--help | overrides]")
    if jax.default_backend() == "cpu" and jax.device_count() < 8:
        raise ValueError(
            "on a CPU set XLA_FLAGS=--xla_force_host_platform_device_count=8 and NPROC=32 to simulate 8 devices"
        )
    own = ("compared", Compared, Compared(), "What is compared.")
    program = f"python -m train.certificate {arguments[0]}"
    experiment, compared = parse_with(load_config(arguments[0], Experiment), arguments[1:], program, own)
    splits = [m for m in compared.microbatches if experiment.batch_size % (m * jax.device_count()) == 0]
    if not splits:
        raise ValueError(
            f"batch_size {experiment.batch_size} is not divisible by {jax.device_count()} devices in any of "
            f"{compared.microbatches} microbatches: choose a multiple"
        )
    check_run(dataclasses.replace(experiment, launcher=Pmap(), microbatches=splits[0]), experiment.objective)
    exact = experiment.model.exact()
    parts = build(dataclasses.replace(experiment, model=exact, launcher=Mesh(), microbatches=1)).parts
    ways = launchers(jax.device_count(), compared.launchers)
    batches = [parts.stream.batch(i) for i in range(compared.steps)]
    found = certify(
        parts.network,
        parts.objective,
        batches,
        experiment.optimizer,
        ways=ways,
        splits=splits,
        companions=parts.companions,
    )
    total = (1 + len(ways)) * len(splits) - (1 in splits)
    rows = list(tqdm(found, total=total, desc="certificate", unit="row", dynamic_ncols=True))
    Console().print(table(rows, f"{arguments[0]}: {compared.steps} steps against one device"))
    if not all(row.agrees for row in rows):
        raise ValueError(f"differences above {TOLERANCE}: the launchers do not give the same numbers")


if __name__ == "__main__":
    sys.exit(one_line_errors(main, sys.argv[1:]))
