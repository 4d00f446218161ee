"""What a hand-off gains: one pretraining run, several tasks, from the checkpoint and from scratch, by number of labels.

`python -m benchmarks.label_efficiency configs/demo.py --workdir runs/demo`. Both arms get the same architecture, tokenizer,
labels, steps and evaluations, and the same care: each arm's optimizer is chosen on the eval split, with the first seed,
from the same few. The test split is scored once per run, with the checkpoint that was best on the eval split.
Resumable: finished runs are read, not repeated. Models and objectives are those of the study's configs.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from tqdm import tqdm

from benchmarks.baseline import linear_baseline
from benchmarks.report import results_table, write_report
from benchmarks.study import Study, Task
from finetune.build import fine_tune
from finetune.evaluate import score
from finetune.experiment import FineTune
from train.__main__ import pretrain
from train.cli import Preempted, load_config, parse, run_program, take_first
from train.describe import differences, encode, read_json, write_json
from train.metrics import read_rows
from train.optimizer import Optimizer
from train.restore import Source, open_run
from train.workdir import alone, check_place

EVALUATIONS = 15
"""Evaluations in each fine-tuning run: the resolution of "steps to scratch's best"."""
STOPPED = "{} stopped by {} at step {}; the same command goes on from there"
ARMS = {"pretrained": "restored", "scratch": "fresh"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One fine-tuning run of the grid."""

    task: Task
    arm: str
    labels: int
    steps: int
    optimizer: Optimizer
    seed: int

    @property
    def folder(self) -> Path:
        """Where it lies below the study's folder."""
        labels = str(self.labels) if self.labels else "all"
        rates = f"lr{self.optimizer.learning_rate:g}-decay{self.optimizer.layer_decay:g}"
        return Path("runs", self.task.name, f"{self.arm}-{labels}", f"{rates}-seed{self.seed}")

    def experiment(self, init: Path) -> FineTune:
        """The task's fine-tuning with this cell's values."""
        base = self.task.finetune
        # On little data more evaluations than these would cost more than training.
        every = max(1, self.steps // EVALUATIONS)
        return dataclasses.replace(
            base,
            init=str(init),
            init_parameters=ARMS[self.arm],
            seed=self.seed,
            steps=self.steps,
            eval_every=every,
            save_every=self.steps,
            log_every=every,
            keep=1,
            best=f"eval/{self.task.metric}",
            data=dataclasses.replace(base.data, labels=self.labels, test=""),
            optimizer=self.optimizer,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one cell came to."""

    eval_score: float
    train_score: float
    curve: tuple[tuple[int, float, float], ...]
    """(step, seconds of training, eval score) of every evaluation."""


def run_cell(cell: Cell, workdir: Path, source: Source) -> Outcome:
    """Fine-tune one cell, or read what it came to."""
    folder = workdir / cell.folder
    result = fine_tune(
        cell.experiment(workdir / "pretrain"), folder, source=source, label=str(cell.folder), quiet=True
    )
    if result.preempted:
        raise Preempted(STOPPED.format(folder, result.stopped_by, result.step))
    name = f"eval/{cell.task.metric}"
    rows = [row for row in read_rows(folder / "metrics.jsonl") if name in row]
    best = next(row for row in rows if row["step"] == result.best_step)
    return Outcome(
        eval_score=best[name],
        train_score=best[f"train_sample/{cell.task.metric}"],
        curve=tuple((row["step"], row["train/seconds"], row[name]) for row in rows),
    )


def test_score(cell: Cell, workdir: Path) -> float:
    """Score on the test split, once; kept in the run's folder."""
    file = workdir / cell.folder / "test.json"
    if not file.exists():
        scores = score(workdir / cell.folder, cell.task.finetune.data.test)
        write_json(file, scores)
    return float(read_json(file)[cell.task.metric])


def first_reaching(
    curve: Sequence[tuple[int, float, float]], target: float
) -> tuple[int | None, float | None]:
    """Step and seconds at the first evaluation that reaches `target`, or (None, None).

    >>> first_reaching([(10, 1.0, 0.5), (20, 2.0, 0.7)], 0.6)
    (20, 2.0)
    >>> first_reaching([(10, 1.0, 0.5)], 0.6)
    (None, None)
    """
    return next(((step, seconds) for step, seconds, value in curve if value >= target), (None, None))


class Counter:
    """One bar over all runs of the study, with the time that is left."""

    def __init__(self, total: int):
        self.bar = tqdm(total=total, desc="study", unit="run", mininterval=5, position=1, dynamic_ncols=True)

    def done(self) -> None:
        """One run more."""
        self.bar.update(1)
        self.bar.refresh()


def run_study(study: Study, workdir: Path) -> list[dict[str, Any]]:
    """Everything; returns the rows of results.json."""
    claim(study, workdir)
    result = pretrain(study.pretrain, workdir / "pretrain")
    if result.preempted:
        raise Preempted(STOPPED.format(workdir / "pretrain", result.stopped_by, result.step))
    source = open_run(str(workdir / "pretrain"))
    cells = sum(len(t.optimizers) + len(study.seeds) - 1 for t in study.tasks) * len(study.labels) * len(ARMS)
    counter = Counter(cells)
    rows: list[dict[str, Any]] = []
    for task in study.tasks:
        for labels, steps in zip(study.labels, study.steps, strict=True):
            rows += list(_compare(study, task, labels, steps, workdir, source, counter))
            write_json(workdir / "results.json", rows)
    counter.bar.close()
    return rows


def claim(study: Any, workdir: Path) -> None:
    """A study's folder belongs to one study, and keeps its compiled programs."""
    workdir.mkdir(parents=True, exist_ok=True)
    # Equal programs of different runs are compiled once; also across a restart.
    jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    file, encoded = workdir / "study.json", encode(study)
    if file.exists():
        lines = differences(read_json(file), encoded)
        if lines:
            raise ValueError(
                f"{workdir} holds another study; choose another --workdir, or undo:\n  " + "\n  ".join(lines)
            )
    else:
        write_json(file, encoded)


def tuned_runs(
    task: Task,
    arm: str,
    labels: int,
    steps: int,
    seeds: Sequence[int],
    workdir: Path,
    source: Source,
    counter: Counter,
) -> list[tuple[Cell, Outcome]]:
    """One arm: every optimizer on the first seed, and the one with the best eval score on the others."""
    tried = []
    for optimizer in task.optimizers:
        cell = Cell(task=task, arm=arm, labels=labels, steps=steps, optimizer=optimizer, seed=seeds[0])
        tried.append((cell, run_cell(cell, workdir, source)))
        counter.done()
    best, outcome = max(tried, key=lambda pair: pair[1].eval_score)
    runs = [(best, outcome)]
    for seed in seeds[1:]:
        cell = dataclasses.replace(best, seed=seed)
        runs.append((cell, run_cell(cell, workdir, source)))
        counter.done()
    return runs


def _compare(
    study: Study, task: Task, labels: int, steps: int, workdir: Path, source: Source, counter: Counter
) -> Iterator[dict[str, Any]]:
    """Both arms at one number of labels: tune on the first seed, then run the others."""
    chosen = {
        arm: tuned_runs(task, arm, labels, steps, study.seeds, workdir, source, counter)
        for arm in ("scratch", "pretrained")
    }
    for arm, runs in chosen.items():
        for (cell, outcome), (_, scratch) in zip(runs, chosen["scratch"], strict=True):
            step, seconds = first_reaching(outcome.curve, scratch.eval_score)
            yield {
                "task": task.name,
                "init": arm,
                "labels": labels,
                "seed": cell.seed,
                "metric": task.metric,
                "score": test_score(cell, workdir),
                "steps": step,
                "seconds": seconds,
                "eval_score": outcome.eval_score,
                "train_score": outcome.train_score,
                "learning_rate": cell.optimizer.learning_rate,
                "layer_decay": cell.optimizer.layer_decay,
                "curve": [list(point) for point in outcome.curve],
            }
    if task.linear:
        for seed in study.seeds:
            started = time.perf_counter()
            value = linear_baseline(task.finetune, labels, seed)
            yield {
                "task": task.name,
                "init": "linear",
                "labels": labels,
                "seed": seed,
                "metric": task.metric,
                "score": value,
                "steps": None,
                "seconds": time.perf_counter() - started,
            }


def main(arguments: Sequence[str]) -> None:
    """`CONFIG --workdir W [overrides]`."""
    program = "python -m benchmarks.label_efficiency"
    file, overrides = take_first(arguments, f"{program} CONFIG.py --workdir W [--help | overrides]", __doc__)
    study, workdir = parse(load_config(file, Study), overrides, f"{program} {file}")
    started = time.perf_counter()
    check_place(workdir)
    with alone(workdir):
        rows = run_study(study, workdir)
        write_report(rows, workdir)
    console = Console()
    console.print(results_table(rows))
    console.print(
        f"{(time.perf_counter() - started) / 60:.1f} minutes; rows in {workdir / 'results.json'}, "
        f"plots in {workdir / 'report.html'}, checkpoint in {workdir / 'pretrain'}"
    )


if __name__ == "__main__":
    run_program(main)
