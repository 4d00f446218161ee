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

from data.records import lines
from data.stream import EvalBatches
from data.tokenizer import Tokenizer
from finetune.experiment import FineTune
from finetune.tasks.base import Answer, Computed, Example, Learned, Outputs, Task, TaskRows
from model.network import Network, Params
from model.ranges import COUNT
from objectives.base import Objective, SumAndWeight
from train.build import network_of
from train.cli import command_line, run_program
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
    experiment = source.stored("experiment") if "experiment" in source.description else None
    if not isinstance(experiment, FineTune):
        raise ValueError(
            f"{source.folder} is {_without_task(source)}, not a fine-tuned run: it has no task. Fine-tune it with python "
            f"-m finetune CONFIG --init {source.folder}, or compute with it as it is: finetune.states.load"
        )
    return Model(
        network=network_of(source.model, source.objective),
        params=jax.device_put(source.params, jax.local_devices()[0]),
        tokenizer=source.tokenizer if source.has_tokenizer else None,
        experiment=experiment,
        objective=source.objective,
        learned=source.stored("learned"),
    )


def _without_task(source: Source) -> str:
    """What a run is that was not fine-tuned, in a few words."""
    if "experiment" in source.description:
        return f"a {type(source.stored('experiment')).__name__}"
    if "imported" not in source.description:
        return "a run without an experiment"
    imported = source.description["imported"]
    config, kind = imported["config"], f"an imported {imported['architecture']}"
    classes = len(source.description["learned"]) if "learned" in source.description else 0
    if "problem_type" in config and config["problem_type"] is not None:
        return f"{kind} for {config['problem_type']} of {classes} outputs"
    return f"{kind} for regression" if classes == 1 else kind


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


def parse_lines(model: Model, given: Iterable[str]) -> Iterator[Any]:
    """What `predict` takes, from lines of input."""
    task, columns = model.experiment.task, model.experiment.data.columns
    for number, line in enumerate(given, 1):
        yield task.parse(line.rstrip("\r\n"), columns, f"line {number}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Answer texts from standard input, one a line."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the fine-tuned run, or one checkpoint of it."""
    format: Literal["text", "jsonl"] = "text"
    """Labels alone, or JSON with probabilities."""
    batch_size: Annotated[int, COUNT] = 32
    """Rows computed at once."""
    chunk: Annotated[int, COUNT] = 2048
    """Lines read before they are packed and answered."""
    code: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Your own files whose classes the run names; once for each."""


def answer(arguments: Arguments, given: Iterable[str], out: TextIO) -> None:
    """Predict chunk by chunk, so that input of any length streams through."""
    model = load(open_run(arguments.run, arguments.code))
    parsed = parse_lines(model, given)
    while some := list(itertools.islice(parsed, arguments.chunk)):
        for one in predict(model, some, arguments.batch_size):
            if arguments.format == "jsonl":
                line = json.dumps(dataclasses.asdict(one), ensure_ascii=not _holds_all(out))
            else:
                line = model.experiment.task.line(one)
            try:
                print(line, file=out)
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"the output is written in {out.encoding}, which cannot hold {line!a}: set PYTHONIOENCODING=utf-8, or "
                    "take --format jsonl"
                ) from error
        out.flush()


def _holds_all(out: TextIO) -> bool:
    """Whether every character can be written there as it is."""
    return (out.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def main(arguments: Sequence[str]) -> None:
    """Parse, then answer standard input."""
    parsed: Arguments = command_line(Arguments, "python -m finetune.predict", arguments)
    # Closed, as a service may have them.
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("standard input is closed: give the texts there, one a line (< texts.txt)")
    if sys.stdout is None or sys.stdout.closed:
        raise ValueError("standard output is closed: nobody would read the answers")
    answer(parsed, lines(Path("standard input"), sys.stdin.buffer), sys.stdout)


if __name__ == "__main__":
    run_program(main)
