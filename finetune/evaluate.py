"""`python -m finetune.evaluate RUN FILE`: score a fine-tuned run on a labelled file or TFDS split."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from finetune.predict import Model, answer_examples, load
from finetune.tables import columns_of, read_records
from finetune.tasks.base import Columns
from model.ranges import COUNT
from train.cli import command_line, run_program
from train.restore import Source, open_run


def score(
    run: str | Path | Source | Model,
    data: str,
    batch_size: int = 32,
    *,
    text: str = "",
    text_pair: str = "",
    label: str = "",
) -> dict[str, float]:
    """Scores of the run's best checkpoint.

    Args:
      run: a fine-tuned run folder, one checkpoint of it, one that was opened, or what `predict.load` returned.
      data: a glob of labelled files or a TFDS split (a plain TFDS name means its test split).
      batch_size: rows computed at once.
      text: the column of the text (or of the list of words); empty takes the run's.
      text_pair: that of the second text; empty takes the run's.
      label: that of the class (or of the list of classes); empty takes the run's.

    Returns:
      The means of the objective's metrics and terms (accuracy and nll, in nats, per labelled text or word), the count of
      `examples`, and the task's own scores.
    """
    model = run if isinstance(run, Model) else load(run)
    task = model.experiment.task
    found = read_records(data, "test")
    named = Columns(text=text, text_pair=text_pair, label=label)
    examples = task.examples(found, _columns(model, named, columns_of(found), data))
    answers, means = answer_examples(model, examples, batch_size)
    if not means and not model.objective.companions:
        raise ValueError(f"{data} has no labelled examples")
    own = task.scores(examples, answers, model.learned)
    return {**means, "examples": float(len(examples)), **own}


def _columns(model: Model, named: Columns, found: Collection[str], data: str) -> Columns:
    """The columns to read: those named, else those of the run."""
    own = model.experiment.data
    both = {**dataclasses.asdict(own.columns), **{k: v for k, v in dataclasses.asdict(named).items() if v}}
    columns = model.experiment.task.columns(Columns(**both), found)
    # What an imported classifier was trained on, nobody says.
    if own.train and columns.text_pair and not (own.text_pair or named.text_pair):
        raise ValueError(
            f"{data} has a second text in {columns.text_pair!r}, but the run was trained on single texts: leave that "
            f"column out, or name it with --text-pair {columns.text_pair}"
        )
    return columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a fine-tuned run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the fine-tuned run, or one checkpoint of it."""
    data: Annotated[str, tyro.conf.Positional]
    """A glob of labelled files, or a TFDS split."""
    batch_size: Annotated[int, COUNT] = 32
    """Rows computed at once."""
    text: str = ""
    """Column of the text (word labels: of the list of words); empty takes that of the run."""
    text_pair: str = ""
    """Column of the second text; empty takes that of the run."""
    label: str = ""
    """Column of the class (word labels: of the list of classes); empty takes that of the run."""
    code: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Your own files whose classes the run names; once for each."""


def main(arguments: Sequence[str]) -> None:
    """Parse, score, print one line per number."""
    parsed: Arguments = command_line(Arguments, "python -m finetune.evaluate", arguments)
    columns = {"text": parsed.text, "text_pair": parsed.text_pair, "label": parsed.label}
    source = open_run(parsed.run, parsed.code)
    for name, value in score(source, parsed.data, parsed.batch_size, **columns).items():
        print(f"{name}\t{value:.0f}" if name == "examples" else f"{name}\t{value:.4f}")


if __name__ == "__main__":
    run_program(main)
