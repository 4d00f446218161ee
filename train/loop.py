"""The only training loop in the tree: pretraining and fine-tuning alike pass through `run`.

The order of operations is the point of this file. Step n is dispatched before the metrics of step n-1 are fetched, so the
host never stalls the devices, and the batches after it are read meanwhile; a non-finite step is never kept; an evaluation
comes before the checkpoint of its step, so a resumed run never repeats one. SIGTERM and SIGINT save and stop (stopping.py).

Besides the objective's numbers, train/ in metrics.jsonl holds learning_rate, seconds, tokens_per_second,
model_flops_per_second, mfu, and input_wait: the share (0 to 1) of the time since the last line that was spent waiting for
batches to be read.
"""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data.files import bytes_below
from model.network import Network
from objectives.base import Objective
from train import metrics
from train.adapter import FULL, Adapter, Params
from train.bar import progress_bar, say_compiling, start_clock
from train.checkpoint import Checkpoints, SaveFailed
from train.companions import place_companions
from train.experiment import Run
from train.flops import count_flops, peak_flops
from train.launch import HostBatch
from train.programs import programs
from train.read_ahead import ReadAhead
from train.scoring import evaluate
from train.state import TrainState, run_keys
from train.stopping import Stopping


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
    stopped_by: str
    """SIGTERM or SIGINT if it came, perhaps in the very last step, else empty."""
    seconds: float
    """Training time: without compilation, evaluation and saving."""

    @property
    def preempted(self) -> bool:
        """A signal came: whoever has more runs to do should stop, too."""
        return bool(self.stopped_by)


@dataclasses.dataclass
class _Progress:
    """The loop's own numbers, saved with every checkpoint."""

    best_value: float | None = None
    best_step: int | None = None
    since_best: int = 0
    seconds: float = 0.0
    owed: bool = False
    """Whether the evaluation of this step is still to come: a signal ended it."""


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
        self.programs = programs(
            settings.launcher,
            parts.network,
            parts.objective,
            settings.optimizer,
            settings.steps,
            parts.adapter,
            settings.microbatches,
        )
        self.stopping = Stopping(functools.partial(bytes_below, workdir))
        self.checkpoints = Checkpoints(workdir / "checkpoints", settings.keep, self.stopping.progress)
        self.best = Checkpoints(workdir / "best", 1, self.stopping.progress) if settings.best else None
        self.writer: metrics.Writer | None = None
        self.open = contextlib.ExitStack()
        self.progress = _Progress()
        self.stop_requested, self.flops = False, 0

    def run(self) -> Result:
        with self.stopping:
            self.open.callback(self.checkpoints.close)
            if self.best is not None:
                self.open.callback(self.best.close)
            try:
                state, start = self._begin()
                if jax.process_index() == 0:
                    self.writer = metrics.Writer(self.workdir, start, evaluates_again=self.progress.owed)
                    self.open.callback(self.writer.close)
                result = self._steps(state, start)
                self.open.close()
            except OSError as error:
                self._close_after(error)
                raise
            finally:
                # What ended the run is to be heard, not what ended with it.
                with contextlib.suppress(OSError):
                    self.open.close()
        return result

    def _close_after(self, error: OSError) -> None:
        """Of a full disk a save that failed says most, and it may have failed in its own thread."""
        try:
            self.open.close()
        except SaveFailed as failed:
            raise failed from error
        except OSError:
            return

    def _begin(self) -> tuple[Any, int]:
        """The launched state to go on from, and its step."""
        programs = self.programs
        keys = run_keys(self.settings.seed)
        self.rng = self.launcher.replicate(keys.steps)
        # The same corruption in every run, whatever its seed: held-out losses are there to be compared.
        self.eval_rng = self.launcher.replicate(jax.random.key(0))
        step = self.checkpoints.newest()
        self._tell(self.checkpoints.notices)
        if step is not None:
            state, host = self.checkpoints.restore(step, programs.state_shapes)
            self.progress = _Progress(**host)
            self._tell([f"{self.label}: resuming from step {step}"])
        else:
            given = self.parts.initial
            if given is None:
                params = programs.init(keys.params)
            else:
                params = jax.tree.map(jax.device_put, given, programs.params_shardings)
            state = programs.create(params, keys.adapter)
        if self.best is not None:
            self._settle_best(self.best, step or 0)
        companions = place_companions(self.parts.companions, self.parts.network, self.launcher)
        return self.launcher.enter(state._replace(companions=companions)), step or 0

    def _tell(self, lines: Sequence[str]) -> None:
        for line in lines:
            tqdm.write(line, file=sys.stderr)

    def _settle_best(self, best: Checkpoints, step: int) -> None:
        """The best step that the checkpoint of this step names is kept, and must be whole."""
        best.discard_after(step)
        named = self.progress.best_step
        if named is not None and not best.has_named(named):
            self.progress = dataclasses.replace(self.progress, best_step=None, best_value=None)
        self._tell(best.notices)

    def _steps(self, state: Any, start: int) -> Result:
        settings, launcher = self.settings, self.launcher
        pending: tuple[int, Any] | None = None
        if self.progress.owed:
            self._evaluate(state, start)
        # A run that ended early is as finished as one that took every step: starting it again must not move its best.
        finished = start >= settings.steps or self._out_of_patience() or self.progress.owed
        step, batches = start, () if finished else self._batches(start)
        with progress_bar(self.label, settings.steps, start) as bar, ReadAhead(batches) as ahead:
            window = _Window({}, 0, time.perf_counter(), 0.0)
            while not finished:
                batch = launcher.put(next(ahead))
                if step == start:
                    say_compiling(bar)
                    self._count_flops(state, batch)
                    with jax.transfer_guard("allow"):
                        state, sums = self.programs.train(state, batch, self.rng)
                    jax.block_until_ready(sums)
                    self.stopping.progress()
                    # Compilation is not training time.
                    start_clock(bar)
                    window = _Window({}, 0, time.perf_counter(), ahead.waited)
                else:
                    with jax.transfer_guard("disallow"):
                        state, sums = self.programs.train(state, batch, self.rng)
                    window.steps += 1
                    self.stopping.step()
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
                        ends = ends or self._stops(step)
                    if saves or ends or finished:
                        self._save(self.checkpoints, state, step)
                    window = _Window({}, 0, time.perf_counter(), ahead.waited)
                    self.stopping.progress()
                finished = finished or ends
        return Result(
            step=step,
            best_step=self.progress.best_step,
            best_value=self.progress.best_value,
            # Where only another host was asked: that is how machines are taken back.
            stopped_by=self.stopping.name or ("SIGTERM" if self.stop_requested else ""),
            seconds=self.progress.seconds,
        )

    def _batches(self, start: int) -> Iterator[HostBatch]:
        """This process's rows of every batch that is left."""
        rows = self.launcher.local_rows(self.settings.batch_size)
        return (self.parts.stream.batch(step, rows) for step in range(start, self.settings.steps))

    def _stops(self, step: int) -> bool:
        """Whether to stop after this step; hosts get SIGTERM at different steps, so they agree on one when they log."""
        asked = self.stopping.requested is not None
        if jax.process_count() == 1:
            self.stop_requested = asked
            return asked
        if step % self.settings.log_every:
            return False
        self.stop_requested = bool(np.any(multihost_utils.process_allgather(np.array(asked))))
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
        """Score every evaluation set; True if the run should end early. A signal puts it off to when the run goes on."""
        values: dict[str, float] = {}
        for name, batches in self.parts.eval_sets.items():
            asked = self._until_asked(batches)
            sums = evaluate(self.programs.evaluate, self.launcher, state, asked, self.eval_rng)
            self.progress.owed = self._gives_up()
            if self.progress.owed:
                return False
            values |= {f"{name}/{k}": v for k, v in metrics.means(sums).items()}
        values["train/seconds"] = self.progress.seconds
        if self.writer is not None:
            self.writer.write(step, values)
        watched, progress = self.settings.best, self.progress
        if not watched:
            return False
        if watched not in values:
            raise ValueError(f"best={watched!r} is not among the evaluated metrics {sorted(values)}")
        sign = self.settings.sign
        # A value that is not a number is never better.
        best = -np.inf if progress.best_value is None else sign * progress.best_value
        if sign * values[watched] > best:
            progress.best_value, progress.best_step, progress.since_best = values[watched], step, 0
            assert self.best is not None
            self._save(self.best, state, step)
        else:
            progress.since_best += 1
        return self._out_of_patience()

    def _until_asked(self, batches: Iterable[HostBatch]) -> Iterator[HostBatch]:
        for batch in batches:
            if self._gives_up():
                return
            yield batch
            self.stopping.progress()

    def _gives_up(self) -> bool:
        """Whether to leave an evaluation; several hosts could not do so at one and the same batch."""
        return jax.process_count() == 1 and self.stopping.requested is not None

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.since_best

    def _save(self, checkpoints: Checkpoints, state: Any, step: int) -> None:
        committed: Callable[[], None] | None = None
        if checkpoints is self.checkpoints and self.best is not None:
            # This one will name the best step: that step must be whole on disk first, or a kill could leave a name only.
            self.best.wait()
            if self.progress.best_step is not None:
                committed = self.best.keep_named(self.progress.best_step)
        # Companions never change, and the runs that trained them have them.
        clean: TrainState = self.launcher.leave(state._replace(companions={}))
        # A run that ended on a bad step can be resumed once its cause is gone.
        clean = clean._replace(bad_step=jax.numpy.full_like(clean.bad_step, -1))
        checkpoints.save(step, clean, dataclasses.asdict(self.progress), committed)

    def _count_flops(self, state: Any, batch: Any) -> None:
        network = self.parts.network
        plain = network.plain(batch["segment_ids"].shape[-1])
        # Where both are one program, its trace is needed anyway.
        step = self.programs.train if plain == network else self.programs.train_on(plain)
        self.flops = count_flops(step, *jax.eval_shape(lambda *x: x, state, batch, self.rng))
        self.flops *= self.launcher.copies
