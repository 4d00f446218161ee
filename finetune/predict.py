"""`python -m finetune.predict RUN < texts.txt`: what a fine-tuned run says about texts, one a line.

From Python:

    from finetune.predict import load, predict
    model = load("runs/reviews")
    for prediction in predict(model, ["a fine film", "dull"]):
        print(prediction.label, prediction.probabilities)
"""

import dataclasses
import functools
import itertools
import json
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data.stream import EvalBatches
from data.tokenizer import Tokenizer
from finetune.experiment import FineTune
from finetune.tasks.base import Answer, Computed, Example, Learned, Outputs, Task, TaskRows
from model.network import Network, Params
from objectives.base import Objective, SumAndWeight
from train.build import network_of
from train.cli import run_program
from train.metrics import add, means
from train.restore import Source, open_run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A fine-tuned run, loaded."""

    network: Network
    params: Params
    tokenizer: Tokenizer | None
    experiment: FineTune
    objective: Objective
    learned: Learned


def load(run: str | Path | Source) -> Model:
    """The best checkpoint of a fine-tuned run (the newest where none was kept), or the one named or opened.

    Raises:
      FileNotFoundError, ValueError: there is no such run, it is damaged, or it was not fine-tuned.
    """
    source = run if isinstance(run, Source) else open_run(run)
    experiment = source.stored("experiment")
    if not isinstance(experiment, FineTune):
        raise ValueError(
            f"{source.folder} is a {type(experiment).__name__}, not a fine-tuned run: it has no task"
        )
    return Model(
        network=network_of(source.model, source.objective),
        params=jax.device_put(source.params, jax.local_devices()[0]),
        tokenizer=source.tokenizer if source.has_tokenizer else None,
        experiment=experiment,
        objective=source.objective,
        learned=source.stored("learned"),
    )


def predict(model: Model, given: Iterable[Any], batch_size: int = 32) -> list[Answer]:
    """One answer per text, in order.

    Args:
      model: what `load` returned.
      given: texts; (text, second text) for a run trained on pairs; lists of words for one that labels words; in general
        what the task's `question` takes.
      batch_size: rows computed at once; a row holds as many texts as in training.

    Returns:
      TextPrediction, WordsPrediction, or what else the task answers with.
    """
    examples = [model.experiment.task.question(one) for one in given]
    return answer_examples(model, examples, batch_size)[0] if examples else []


def answer_examples(
    model: Model, examples: Sequence[Example], batch_size: int
) -> tuple[list[Answer], dict[str, float]]:
    """One answer per example, and the means of the objective's terms and metrics over those that have labels."""
    rows = model.experiment.rows(examples, model.learned, model.tokenizer)
    sums: dict[str, tuple[float, float]] = {}
    computed = _compute_rows(model, rows, batch_size, sums)
    answers = model.experiment.task.answers(examples, model.learned, rows, computed)
    return answers, means(sums)


def _compute_rows(
    model: Model, rows: TaskRows, batch_size: int, sums: dict[str, tuple[float, float]]
) -> Iterator[Computed]:
    """Every row once, in order, batch by batch; the objective's sums are added to `sums`."""
    task = model.experiment.task
    for start, batch in zip(itertools.count(0, batch_size), EvalBatches(rows, batch_size=batch_size)):
        out, own = _compute(
            model.network, task, model.objective, model.params, jax.tree.map(jnp.asarray, batch)
        )
        add(sums, own)
        numbers = np.arange(start, min(start + batch_size, len(rows)))
        real = operator.itemgetter(slice(len(numbers)))
        yield Computed(numbers, *jax.tree.map(real, (batch, jax.device_get(out))))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compute(
    network: Network, task: Task, objective: Objective, params: Params, batch: Any
) -> tuple[Outputs, dict[str, SumAndWeight]]:
    """What the task asks for, and the objective's metrics and terms; the compiler encodes once for both."""
    bound = network.bind(params)
    # The key of the evaluations during training.
    outputs = task.outputs(objective, bound, batch)
    if objective.companions:  # only a training run binds them
        return outputs, {}
    out = objective(bound, batch, jax.random.fold_in(jax.random.key(0), 0))
    return outputs, {**out.metrics, **out.terms}


def parse_lines(model: Model, lines: Iterable[str]) -> Iterator[Any]:
    """What `predict` takes, from lines of input."""
    task, columns = model.experiment.task, model.experiment.data.columns
    for number, line in enumerate(lines, 1):
        yield task.parse(line.rstrip("\r\n"), columns, f"line {number}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Answer texts from standard input, one a line."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the fine-tuned run, or one checkpoint of it."""
    format: Literal["text", "jsonl"] = "text"
    """Labels alone, or JSON with probabilities."""
    batch_size: int = 32
    """Rows computed at once."""
    chunk: int = 2048
    """Lines read before they are packed and answered."""
    code: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Your own files whose classes the run names; once for each."""


def answer(arguments: Arguments, lines: Iterable[str], out: TextIO) -> None:
    """Predict chunk by chunk, so that input of any length streams through."""
    model = load(open_run(arguments.run, arguments.code))
    given = parse_lines(model, lines)
    while some := list(itertools.islice(given, arguments.chunk)):
        for one in predict(model, some, arguments.batch_size):
            if arguments.format == "jsonl":
                print(json.dumps(dataclasses.asdict(one), ensure_ascii=False), file=out)
            else:
                print(model.experiment.task.line(one), file=out)
        out.flush()


def main(arguments: Sequence[str]) -> None:
    """Parse, then answer standard input."""
    parsed = tyro.cli(Arguments, prog="python -m finetune.predict", args=list(arguments))
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    answer(parsed, sys.stdin, sys.stdout)


if __name__ == "__main__":
    run_program(main)
