"""The only training loop in the tree: pretraining and fine-tuning alike pass through `run`.

The order of operations is the point of this file. Step n is dispatched before the metrics of step n-1 are fetched, so the
host never stalls the devices, and the batches after it are read meanwhile; a non-finite step is never kept; an evaluation
comes before the checkpoint of its step, so a resumed run never repeats one.

Besides the objective's numbers, train/ in metrics.jsonl holds learning_rate, seconds, tokens_per_second,
model_flops_per_second, mfu, and input_wait: the share (0 to 1) of the time since the last line that was spent waiting for
batches to be read.
"""

import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from model.network import Network
from objectives.base import Objective
from train import metrics
from train.adapter import FULL, Adapter, Params
from train.checkpoint import Checkpoints
from train.companions import place_companions
from train.experiment import Run
from train.flops import count_flops, peak_flops
from train.launch import HostBatch, Launcher
from train.optimizer import Optimizer
from train.read_ahead import ReadAhead
from train.state import TrainState, create_state
from train.step import eval_step, train_step


class Stream(Protocol):
    """Training data as a function of the step."""

    def batch(self, step: int, rows: slice | None = None) -> HostBatch:
        """The rows (of this process) of batch `step`; a pure function, called in another thread."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of; `train.build` and `finetune.build` put it together."""

    network: Network
    objective: Objective
    stream: Stream
    eval_sets: Mapping[str, Sequence[HostBatch]]
    """Evaluation batches (all rows of the global batch) by name."""
    adapter: Adapter = FULL
    initial: Params | None = None
    """Initial parameters as numpy arrays, from a hand-off; None draws fresh ones."""
    companions: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    """Parameters of the network's companions by name, as numpy arrays."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    step: int
    best_step: int | None
    best_value: float | None
    preempted: bool
    """SIGTERM came, perhaps in the very last step: whoever has more runs to do should stop, too."""
    seconds: float
    """Training time: without compilation, evaluation and saving."""


@dataclasses.dataclass
class _Progress:
    """The loop's own numbers, saved with every checkpoint."""

    best_value: float | None = None
    best_step: int | None = None
    since_best: int = 0
    seconds: float = 0.0


@dataclasses.dataclass
class _Window:
    """What has been measured since the last log."""

    sums: dict[str, tuple[float, float]]
    steps: int
    """Those that were timed: the first one of a run compiles."""
    begun: float
    """Time at which they began."""
    waited: float
    """Seconds that the run had waited for batches until then."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Programs:
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
def _programs(
    launcher: Launcher,
    network: Network,
    objective: Objective,
    optimizer: Optimizer,
    steps: int,
    adapter: Adapter,
    microbatches: int,
) -> _Programs:
    """Compiled once per process for equal arguments: a study repeats the same run with many seeds."""
    tx, axes, key = optimizer.build(steps), network.logical_axes(), jax.eval_shape(lambda: jax.random.key(0))
    create = functools.partial(create_state, tx=tx, adapter=adapter)
    params_shapes = jax.eval_shape(network.init, key)
    params_shardings = launcher.shardings(params_shapes, axes)
    shapes = jax.eval_shape(create, params_shapes, key)
    shardings = launcher.shardings(shapes, axes)
    shared: dict[str, Any] = {"objective": objective, "adapter": adapter}
    train = functools.partial(train_step, **shared, tx=tx, microbatches=microbatches)
    return _Programs(
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


def run(settings: Run, parts: Parts, workdir: Path, *, label: str = "train") -> Result:
    """Train from the newest whole checkpoint in `workdir`, or from the start, to `settings.steps`.

    Args:
      settings: how long, how often, on what.
      parts: the model, the loss and the data.
      workdir: the run folder; checkpoints, metrics and TensorBoard files go there.
      label: what the progress bar says.

    Raises:
      FloatingPointError: a loss or gradient was not finite; the last good state has been saved.
      ValueError: the loss of the first step has no gradient.
    """
    return _Loop(settings, parts, workdir, label).run()


class _Loop:
    """One call of `run`."""

    def __init__(self, settings: Run, parts: Parts, workdir: Path, label: str):
        self.settings, self.parts, self.workdir, self.label = settings, parts, workdir, label
        self.launcher = settings.launcher
        self.programs = _programs(
            settings.launcher,
            parts.network,
            parts.objective,
            settings.optimizer,
            settings.steps,
            parts.adapter,
            settings.microbatches,
        )
        self.checkpoints = Checkpoints(workdir / "checkpoints", settings.keep)
        self.best = Checkpoints(workdir / "best", 1) if settings.best else None
        self.progress = _Progress()
        self.stop_requested, self.flops = False, 0

    def run(self) -> Result:
        state, start = self._begin()
        self.writer = metrics.Writer(self.workdir, start) if jax.process_index() == 0 else None
        previous = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._request_stop)
        try:
            return self._steps(state, start)
        finally:
            signal.signal(signal.SIGTERM, previous)
            if self.writer is not None:
                self.writer.close()
            self.checkpoints.close()
            if self.best is not None:
                self.best.close()

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.stop_requested = True

    def _begin(self) -> tuple[Any, int]:
        """The launched state to go on from, and its step."""
        programs = self.programs
        params_key, adapter_key, run_key = jax.random.split(jax.random.key(self.settings.seed), 3)
        self.rng = self.launcher.replicate(run_key)
        # The same corruption in every run, whatever its seed: held-out losses are there to be compared.
        self.eval_rng = self.launcher.replicate(jax.random.key(0))
        step = self.checkpoints.newest()
        for notice in self.checkpoints.notices:
            tqdm.write(notice, file=sys.stderr)
        if step is not None:
            state, host = self.checkpoints.restore(step, programs.state_shapes)
            self.progress = _Progress(**host)
            tqdm.write(f"{self.label}: resuming from step {step}", file=sys.stderr)
        else:
            given = self.parts.initial
            if given is None:
                params = programs.init(params_key)
            else:
                params = jax.tree.map(jax.device_put, given, programs.params_shardings)
            state = programs.create(params, adapter_key)
        if self.best is not None:
            self.best.discard_after(step or 0)
        companions = place_companions(self.parts.companions, self.parts.network, self.launcher)
        return self.launcher.enter(state._replace(companions=companions)), step or 0

    def _steps(self, state: Any, start: int) -> Result:
        settings, launcher = self.settings, self.launcher
        pending: tuple[int, Any] | None = None
        # A run that ended early is as finished as one that took every step: starting it again must not move its best.
        finished = start >= settings.steps or self._out_of_patience()
        step, batches = start, () if finished else self._batches(start)
        with self._bar(start) as bar, ReadAhead(batches) as ahead:
            window = _Window({}, 0, time.perf_counter(), 0.0)
            while not finished:
                batch = launcher.put(next(ahead))
                if step == start:
                    self._count_flops(state, batch)
                    with jax.transfer_guard("allow"):
                        state, sums = self.programs.train(state, batch, self.rng)
                    jax.block_until_ready(sums)
                    # Compilation is not training time.
                    window = _Window({}, 0, time.perf_counter(), ahead.waited)
                else:
                    with jax.transfer_guard("disallow"):
                        state, sums = self.programs.train(state, batch, self.rng)
                    window.steps += 1
                if pending is not None:
                    self._absorb(window, *pending, state)
                pending, step = (step, sums), step + 1
                bar.update(1)
                ends = step == settings.steps or self._stops(step)
                evaluates = step % settings.eval_every == 0 or step == settings.steps
                saves = step % settings.save_every == 0 or ends
                if ends or evaluates or saves or step % settings.log_every == 0:
                    self._absorb(window, *pending, state)
                    pending = None
                    self._log(step, window, ahead.waited, bar)
                    if evaluates:
                        finished = self._evaluate(state, step)
                    if saves or finished:
                        self._save(self.checkpoints, state, step)
                    window = _Window({}, 0, time.perf_counter(), ahead.waited)
                finished = finished or ends
        return Result(
            step=step,
            best_step=self.progress.best_step,
            best_value=self.progress.best_value,
            preempted=self.stop_requested,
            seconds=self.progress.seconds,
        )

    def _batches(self, start: int) -> Iterator[HostBatch]:
        """This process's rows of every batch that is left."""
        rows = self.launcher.local_rows(self.settings.batch_size)
        return (self.parts.stream.batch(step, rows) for step in range(start, self.settings.steps))

    def _bar(self, start: int) -> "tqdm[Any]":
        return tqdm(
            total=self.settings.steps,
            initial=start,
            desc=self.label,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 20,
            disable=jax.process_index() > 0,
        )

    def _stops(self, step: int) -> bool:
        """Whether to stop after this step; hosts get SIGTERM at different steps, so they agree on one when they log."""
        if jax.process_count() == 1:
            return self.stop_requested
        if step % self.settings.log_every:
            return False
        self.stop_requested = bool(np.any(multihost_utils.process_allgather(np.array(self.stop_requested))))
        return self.stop_requested

    def _absorb(self, window: _Window, step: int, sums: Any, state: Any) -> None:
        """Fetch one step's sums; stop if they are not finite, keeping the state from before that step."""
        fetched = self.launcher.fetch(sums)
        loss, norm = float(fetched["loss"][0]), float(fetched["grad_norm"][0])
        if not (np.isfinite(loss) and np.isfinite(norm)):
            self._save(self.checkpoints, state, step)
            self.checkpoints.wait()
            raise FloatingPointError(
                f"step {step}: loss {loss}, gradient norm {norm}. The state before this step is saved in "
                f"{self.checkpoints.folder / str(step)}. Look at batch {step} of the data and run again to go on from "
                "there, or start in another workdir with a lower optimizer.learning_rate (now "
                f"{self.settings.optimizer.learning_rate})"
            )
        metrics.refuse_no_gradient(step, fetched, self.parts.objective.coefficients())
        metrics.add(window.sums, fetched)

    def _log(self, step: int, window: _Window, waited: float, bar: "tqdm[Any]") -> None:
        seconds = time.perf_counter() - window.begun
        self.progress.seconds += seconds
        values = {f"train/{k}": v for k, v in metrics.means(window.sums).items()}
        values["train/learning_rate"] = float(self.settings.optimizer.rate(self.settings.steps)(step - 1))
        values["train/seconds"] = self.progress.seconds
        tokens, rate = values.pop("train/tokens"), float("nan")
        if window.steps > 0 and seconds > 0:
            rate = tokens * window.steps / seconds
            values["train/tokens_per_second"] = rate
            values["train/input_wait"] = (waited - window.waited) / seconds
            values["train/model_flops_per_second"] = self.flops * window.steps / seconds
            peak = peak_flops()
            if peak is not None:
                values["train/mfu"] = self.flops * window.steps / seconds / peak
        if self.writer is not None:
            self.writer.write(step, values)
        bar.set_postfix_str(f"loss {values['train/loss']:.3f}, {rate / 1e3:.1f}k tokens/s", refresh=False)

    def _evaluate(self, state: Any, step: int) -> bool:
        """Score every evaluation set; True if the run should end early."""
        values: dict[str, float] = {}
        for name, batches in self.parts.eval_sets.items():
            sums = evaluate(self.programs.evaluate, self.launcher, state, batches, self.eval_rng)
            values |= {f"{name}/{k}": v for k, v in metrics.means(sums).items()}
        values["train/seconds"] = self.progress.seconds
        if self.writer is not None:
            self.writer.write(step, values)
        watched, progress = self.settings.best, self.progress
        if not watched:
            return False
        if watched not in values:
            raise ValueError(f"best={watched!r} is not among the evaluated metrics {sorted(values)}")
        sign = 1 if self.settings.best_mode == "max" else -1
        # A value that is not a number is never better.
        best = -np.inf if progress.best_value is None else sign * progress.best_value
        if sign * values[watched] > best:
            progress.best_value, progress.best_step, progress.since_best = values[watched], step, 0
            assert self.best is not None
            self._save(self.best, state, step)
        else:
            progress.since_best += 1
        return self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.since_best

    def _save(self, checkpoints: Checkpoints, state: Any, step: int) -> None:
        if checkpoints is self.checkpoints and self.best is not None:
            # This one will name the best step: that step must be whole on disk first, or a kill could leave a name only.
            self.best.wait()
        # Companions never change, and the runs that trained them have them.
        clean: TrainState = self.launcher.leave(state._replace(companions={}))
        # A run that ended on a bad step can be resumed once its cause is gone.
        clean = clean._replace(bad_step=jax.numpy.full_like(clean.bad_step, -1))
        checkpoints.save(step, clean, dataclasses.asdict(self.progress))

    def _count_flops(self, state: Any, batch: Any) -> None:
        network = self.parts.network
        plain = network.plain(batch["segment_ids"].shape[-1])
        # Where both are one program, its trace is needed anyway.
        step = self.programs.train if plain == network else self.programs.train_on(plain)
        self.flops = count_flops(step, *jax.eval_shape(lambda *x: x, state, batch, self.rng))
        self.flops *= self.launcher.copies


def evaluate(
    step: Callable[..., Any], launcher: Launcher, state: Any, batches: Iterable[HostBatch], rng: Any
) -> dict[str, tuple[float, float]]:
    """Sums with weights over all batches, added in float64 on the host.

    As in training, a batch is dispatched before the sums of the one before it are fetched, and the next ones are read
    meanwhile.
    """
    total: dict[str, tuple[float, float]] = {}
    pending: Any = None
    with ReadAhead(batches) as ahead:
        for batch in ahead:
            rows = launcher.local_rows(len(batch["example_ids"]))
            sums = step(state, launcher.put({k: v[rows] for k, v in batch.items()}), rng)
            if pending is not None:
                metrics.add(total, launcher.fetch(pending))
            pending = sums
    if pending is not None:
        metrics.add(total, launcher.fetch(pending))
    return total
