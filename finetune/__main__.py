"""`python -m finetune CONFIG --init RUN --workdir W [--code FILE] [overrides]`: fine-tune one run."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from finetune.build import fine_tune
from finetune.evaluate import score
from finetune.experiment import FineTune
from train.cli import console, load_config, multi_host, parse, run_program, split_code, take_first
from train.loop import Result
from train.metrics import read_rows
from train.restore import open_run


def summary(
    experiment: FineTune, workdir: Path, result: Result, code: Sequence[Path] = ()
) -> dict[str, float]:
    """Scores of the best checkpoint (the last where none is kept) on a training sample, eval and test."""
    step = result.step if result.best_step is None else result.best_step
    scores: dict[str, float] = {}
    for row in read_rows(workdir / "metrics.jsonl"):
        if row["step"] == step:
            scores |= {k: v for k, v in row.items() if k.startswith(("train_sample/", "eval/"))}
    if experiment.data.test:
        scores |= {f"test/{k}": v for k, v in score(open_run(workdir, code), experiment.data.test).items()}
    return scores


def main(arguments: Sequence[str]) -> None:
    """Parse, fine-tune, print how it ended."""
    code, arguments = split_code(arguments)
    usage = "python -m finetune CONFIG.py --init RUN --workdir W [--code FILE] [--help | overrides]"
    file, overrides = take_first(arguments, usage, __doc__)
    config = load_config(file, FineTune)
    experiment, workdir = parse(config, overrides, f"python -m finetune {file} [--code FILE]")
    multi_host()
    source = open_run(experiment.init, code) if experiment.init else None
    result = fine_tune(experiment, workdir, source=source, code=code)
    if result.preempted:
        print(f"stopped by {result.stopped_by} at step {result.step}; the same command goes on from there")
        return
    best = result.best_step
    print(f"{workdir}, {'last step' if best is None else f'best checkpoint (step {best})'}:")
    table = Table()
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, value in summary(experiment, workdir, result, code).items():
        table.add_row(name, f"{value:.0f}" if name.endswith("/examples") else f"{value:.4f}")
    table.add_row("steps", str(result.step))
    table.add_row("seconds of training", f"{result.seconds:.1f}")
    console(stderr=False).print(table)


if __name__ == "__main__":
    run_program(main)
