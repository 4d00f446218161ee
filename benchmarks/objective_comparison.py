"""Which objective pretrains best: encoders of one size and budget, each handed off to the same tasks.

`python -m benchmarks.objective_comparison configs/objective_comparison.py --workdir runs/objectives`. Every arm chooses its
optimizer on the eval split with the first seed; the test split is scored once per run. Resumable: finished runs are read,
not repeated. Models and objectives are those of the config's arms.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.label_efficiency import STOPPED, Counter, claim, test_score, tuned_runs
from benchmarks.report import spread
from benchmarks.study import Comparison
from train.__main__ import pretrain
from train.build import check_model
from train.cli import Preempted, load_config, parse, run_program, take_first
from train.describe import write_json
from train.metrics import read_rows
from train.restore import Source, open_run
from train.workdir import alone, check_place

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

Row = dict[str, Any]
SCRATCH = "from scratch"


def run_comparison(comparison: Comparison, workdir: Path) -> list[Row]:
    """Everything; returns the rows of results.json."""
    check(comparison)
    claim(comparison, workdir)
    runs = sum(len(task.optimizers) + len(comparison.seeds) - 1 for task in comparison.tasks)
    scratch = scratch_arms(comparison)
    counter = Counter(runs * (len(scratch) + len(comparison.pretraining)))
    rows: list[Row] = []
    for name, experiment in comparison.pretraining:
        folder = workdir / name
        result = pretrain(experiment, folder / "pretrain")
        if result.preempted:
            raise Preempted(STOPPED.format(folder / "pretrain", result.stopped_by, result.step))
        source = open_run(str(folder / "pretrain"))
        if name in scratch:
            rows += _arm(comparison, scratch[name], "scratch", folder, source, counter)
        rows += _arm(comparison, name, "pretrained", folder, source, counter)
        write_json(workdir / "results.json", rows)
    counter.bar.close()
    return rows


def scratch_arms(comparison: Comparison) -> dict[str, str]:
    """What is also run from scratch, by the pretraining whose architecture it has: the first of each."""
    first: dict[Any, str] = {}
    for name, experiment in comparison.pretraining:
        first.setdefault(experiment.model, name)
    own, *others = first.values()
    return {own: SCRATCH, **{name: f"{SCRATCH}, as {name}" for name in others}}


def check(comparison: Comparison) -> None:
    """Raise ValueError where a task could not be learned on a pretrained backbone: before hours, not after."""
    for _, experiment in comparison.pretraining:
        for task in comparison.tasks:
            tuned = task.finetune
            model = tuned.model.apply(experiment.model)
            objective = tuned.task.objective(("a", "b"))  # The shape is the same for any two classes.
            rows = tuned.data.row_shape(model, None)
            check_model(model, objective.for_rows(rows), encoder_alone=True)


def _arm(
    comparison: Comparison, name: str, arm: str, folder: Path, source: Source, counter: Counter
) -> Iterator[Row]:
    last = read_rows(folder / "pretrain" / "metrics.jsonl")[-1]
    for task in comparison.tasks:
        runs = tuned_runs(
            task, arm, comparison.labels, comparison.steps, comparison.seeds, folder, source, counter
        )
        for cell, outcome in runs:
            yield {
                "objective": name,
                "task": task.name,
                "labels": comparison.labels,
                "seed": cell.seed,
                "metric": task.metric,
                "score": test_score(cell, folder),
                "eval_score": outcome.eval_score,
                "learning_rate": cell.optimizer.learning_rate,
                "pretraining_seconds": 0.0 if arm == "scratch" else last["train/seconds"],
            }


def by_objective(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows by objective and task, in the order they stand."""
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        grouped.setdefault(row["objective"], {}).setdefault(row["task"], []).append(row)
    return grouped


def results_table(rows: Sequence[Row]) -> Table:
    """One line per objective, one column per task."""
    table = Table(
        title="Test score, mean ± deviation over seeds", title_justify="left", title_style="", box=SIMPLE_HEAD
    )
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table.add_column("objective", no_wrap=True)
    for name in (*tasks, "pretraining, s"):
        table.add_column(name, justify="right", no_wrap=True)
    for objective, by_task in by_objective(rows).items():
        scores = [spread([row["score"] for row in by_task[task]]) for task in tasks]
        seconds = by_task[tasks[0]][0]["pretraining_seconds"]
        table.add_row(objective, *scores, f"{seconds:,.0f}" if seconds else "")
    return table


def write_plot(rows: Sequence[Row], file: Path) -> None:
    """One panel per task: mean and deviation over seeds, a line where training from scratch ends up."""
    grouped = by_objective(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = [name for name in grouped if name != SCRATCH][::-1]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4.5 * len(tasks), 0.5 * len(names) + 1.2), sharey=True, squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        scores = [[row["score"] for row in grouped[name][task]] for name in names]
        spreads = [stdev(some) if len(some) > 1 else 0.0 for some in scores]
        axis.errorbar([mean(s) for s in scores], range(len(names)), xerr=spreads, fmt="o", color="#1b6ca8")
        scratch = mean(row["score"] for row in grouped[SCRATCH][task])
        axis.axvline(scratch, color="#c8553d", linestyle="--", label=SCRATCH)
        axis.set(title=task, xlabel=f"test {rows[0]['metric']}", yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(file, bbox_inches="tight")
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """`CONFIG --workdir W [overrides]`."""
    program = "python -m benchmarks.objective_comparison"
    file, overrides = take_first(arguments, f"{program} CONFIG.py --workdir W [--help | overrides]", __doc__)
    comparison, workdir = parse(load_config(file, Comparison), overrides, f"{program} {file}")
    started = time.perf_counter()
    check_place(workdir)
    with alone(workdir):
        rows = run_comparison(comparison, workdir)
        write_plot(rows, workdir / "objectives.svg")
    console = Console()
    console.print(results_table(rows))
    minutes = (time.perf_counter() - started) / 60
    console.print(
        f"{minutes:.1f} minutes; rows in {workdir / 'results.json'}, plot in {workdir / 'objectives.svg'}"
    )


if __name__ == "__main__":
    run_program(main)
