"""`python -m finetune.evaluate RUN FILE`: score a fine-tuned run on a labelled file or TFDS split."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from finetune.build import read_records
from finetune.predict import Model, answer_examples, load
from train.cli import run_program
from train.restore import Source, open_run


def score(run: str | Path | Source | Model, data: str, batch_size: int = 32) -> dict[str, float]:
    """Scores of the run's best checkpoint.

    Args:
      run: a fine-tuned run folder, one checkpoint of it, one that was opened, or what `predict.load` returned.
      data: a glob of labelled files or a TFDS split (a plain TFDS name means its test split).
      batch_size: rows computed at once.

    Returns:
      The means of the objective's metrics and terms (accuracy and nll, in nats, per labelled text or word), the count of
      `examples`, and the task's own scores.
    """
    model = run if isinstance(run, Model) else load(run)
    task = model.experiment.task
    examples = task.examples(read_records(data, "test"), model.experiment.data.columns)
    answers, means = answer_examples(model, examples, batch_size)
    if not means and not model.objective.companions:
        raise ValueError(f"{data} has no labelled examples")
    own = task.scores(examples, answers, model.learned)
    return {**means, "examples": float(len(examples)), **own}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a fine-tuned run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the fine-tuned run, or one checkpoint of it."""
    data: Annotated[str, tyro.conf.Positional]
    """A glob of labelled files, or a TFDS split."""
    batch_size: int = 32
    """Rows computed at once."""
    code: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Your own files whose classes the run names; once for each."""


def main(arguments: Sequence[str]) -> None:
    """Parse, score, print one line per number."""
    parsed = tyro.cli(Arguments, prog="python -m finetune.evaluate", args=list(arguments))
    for name, value in score(open_run(parsed.run, parsed.code), parsed.data, parsed.batch_size).items():
        print(f"{name}\t{value:.0f}" if name == "examples" else f"{name}\t{value:.4f}")


if __name__ == "__main__":
    run_program(main)
