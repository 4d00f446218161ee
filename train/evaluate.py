"""`python -m train.evaluate RUN [--views ...] [--data.files ...]`: a pretrained run through views, as one table.

Rows, corruption and checkpoint are those that the run itself would take, so its objective's own numbers are those of its
last evaluation.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data.files import check_writable
from data.prepare import TOKENIZER_FILE
from data.stream import EvalBatches, Rows
from model.network import Network
from model.ranges import COUNT
from objectives.views import Reading, choose
from train.adapter import FULL
from train.build import check_run, network_of
from train.cli import command_line, multi_host, run_program, split_code, take_first
from train.describe import write_json
from train.experiment import Experiment
from train.launch import Launcher, Mesh
from train.passport import whole
from train.restore import Source, open_run
from train.scoring import evaluate
from train.state import TrainState
from train.step import eval_step

Readings = dict[str, dict[str, list[Reading]]]
"""Set of rows -> name of the view -> its numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalData:
    """What is read."""

    files: tuple[str, ...] = ()
    """Globs of .txt or .jsonl files (plain or .gz), or TFDS names, to read whole; empty takes what the run held out."""
    column: str = ""
    """Where the text is in .jsonl files and TFDS data sets; empty takes the run's own column."""
    rows: Annotated[int, COUNT]
    """Rows that are scored at most, spread evenly over all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which views of a run, over what, where."""

    views: tuple[str, ...] = ()
    """objective, bits_per_byte, per_position, pseudo_log_likelihood; empty takes all that apply but the last, which encodes
    each row once for every token of its longest text."""
    data: EvalData
    batch_size: Annotated[int, COUNT]
    """Rows computed at once, over all devices."""
    launcher: Launcher = Mesh()
    """Pmap (replicated) or Mesh (sharded); the run may have had another."""
    out: Path
    """The JSON file that the numbers are written to."""


def experiment_of(source: Source) -> Experiment:
    """The pretraining experiment of an opened run; ValueError if it is something else."""
    experiment = source.stored("experiment")
    if not isinstance(experiment, Experiment):
        raise ValueError(
            f"{source.folder} is a {type(experiment).__name__}, not a pretraining run: use python -m finetune.evaluate"
        )
    return experiment


def defaults(source: Source) -> Evaluation:
    """What the run's own evaluations read, and how many rows at once."""
    experiment = experiment_of(source)
    return Evaluation(
        data=EvalData(rows=experiment.data.eval_rows),
        batch_size=experiment.batch_size,
        out=source.folder / "views.json",
    )


def look(source: Source, evaluation: Evaluation) -> Readings:
    """All numbers that the views give.

    Args:
      source: an opened pretraining run.
      evaluation: what to look at, over what.

    Raises:
      ValueError: a view does not apply, or what the run held out can no longer be read; before anything compiles.
    """
    experiment = experiment_of(source)
    objective, launcher, size = source.objective, evaluation.launcher, evaluation.batch_size
    experiment = dataclasses.replace(experiment, objective=objective)
    run = dataclasses.replace(experiment, batch_size=size, microbatches=1, launcher=launcher)
    check_run(run, objective)
    # What a tokenizer says of its ids nobody says where its file is gone.
    offered = experiment.data.offered if (source.folder / TOKENIZER_FILE).is_file() else ()
    views = choose(evaluation.views, objective, offered)
    reads = tuple(dict.fromkeys([*objective.reads(), *(name for view in views for name in view.reads())]))
    sets = {
        name: EvalBatches(rows, batch_size=size, limit=evaluation.data.rows)
        for name, rows in _rows(source, experiment, evaluation.data, reads).items()
    }
    network = network_of(source.model, objective)
    state = _state(source, network, launcher)
    # The key of the evaluations during training: the same tokens are masked.
    rng = launcher.replicate(jax.random.key(0))
    readings: Readings = {name: {} for name in sets}
    for view in views:
        step = functools.partial(eval_step, network=network, objective=view, adapter=FULL)
        compiled = launcher.compile(step, donate=False)
        for name, batches in sets.items():
            sums = evaluate(compiled, launcher, state, _watched(batches, f"{name}: {view.name}"), rng)
            readings[name][view.name] = view.readings(sums)
    return readings


def _rows(source: Source, experiment: Experiment, data: EvalData, reads: Sequence[str]) -> Mapping[str, Rows]:
    """The rows to score, by the name of their set."""
    if data.files:
        return {"files": experiment.data.read_files(experiment, source, data.files, data.column, reads)}
    return experiment.data.evaluation_rows(experiment, source, reads)


def _state(source: Source, network: Network, launcher: Launcher) -> Any:
    """The launched state with the run's parameters, of which an evaluation reads nothing else."""
    params, _ = whole(source, network)
    zero: Any = np.zeros((), np.int32)
    state = TrainState(step=zero, trainable=params, frozen={}, opt_state=(), bad_step=zero - 1, companions={})
    return launcher.enter(
        jax.tree.map(jax.device_put, state, launcher.shardings(state, network.logical_axes()))
    )


def _watched(batches: EvalBatches, label: str) -> "tqdm[Any]":
    return tqdm(
        batches,
        desc=label,
        unit="batch",
        mininterval=0.5 if sys.stderr.isatty() else 20,
        disable=jax.process_index() > 0,
    )


def table(readings: dict[str, list[Reading]], title: str) -> Table:
    """One line for each number."""
    out = Table(title=title, title_justify="left")
    for column in ("view", "number", "value", "unit", "weight"):
        out.add_column(column, justify="right" if column in ("value", "weight") else "left")
    for view, numbers in readings.items():
        for i, number in enumerate(numbers or [Reading("nothing was scored", float("nan"), "", 0.0, "")]):
            value = f"{number.value:.4f}" if number.weight else ""
            weight = f"{number.weight:,.0f} {number.of}".strip()
            out.add_row("" if i else view, number.name, value, number.unit, weight)
    return out


def _encoded(number: Reading) -> dict[str, Any]:
    # JSON carries finite numbers only.
    return {**number._asdict(), "value": number.value if math.isfinite(number.value) else None}


def main(arguments: Sequence[str]) -> None:
    """Parse with the run's own values as defaults, look, print, write."""
    code, arguments = split_code(arguments)
    usage = "python -m train.evaluate RUN [--code FILE] [--help | options]"
    run, options = take_first(
        arguments, usage, f"{__doc__}\nRUN --help lists the options, with the run's own values."
    )
    multi_host()
    source = open_run(run, code)
    program = f"python -m train.evaluate {run} [--code FILE]"
    evaluation: Evaluation = command_line(Evaluation, program, options, defaults(source))
    check_writable(evaluation.out)
    by_set = look(source, evaluation)
    if jax.process_index() > 0:
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name, readings in by_set.items():
        console.print(table(readings, f"{source.checkpoint}: {name}"))
    write_json(
        evaluation.out,
        {
            "checkpoint": str(source.checkpoint.relative_to(source.folder)),
            "data": dataclasses.asdict(evaluation.data),
            "views": {
                name: {view: [_encoded(number) for number in numbers] for view, numbers in views.items()}
                for name, views in by_set.items()
            },
        },
    )
    print(f"written to {evaluation.out}")


if __name__ == "__main__":
    run_program(main)
