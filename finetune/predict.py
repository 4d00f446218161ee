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
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data.labelled import LabelledRows, SequenceExample, TokenExample
from data.stream import EvalBatches
from data.tokenizer import Tokenizer
from finetune.experiment import FineTune
from finetune.tasks import Examples, TaskObjective, TextClassification
from model.network import Network, Params
from train.cli import one_line_errors
from train.restore import Source, open_run

CUT_OFF = "?"
"""Printed for words that did not fit the row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a fine-tuned run was made for."""

    experiment: FineTune
    objective: TaskObjective
    classes: tuple[str, ...]
    step: int
    """The step of the checkpoint."""


class Model(NamedTuple):
    """A fine-tuned run, loaded."""

    network: Network
    params: Params
    tokenizer: Tokenizer
    description: Description


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPrediction:
    """The class of one text."""

    label: str
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordsPrediction:
    """The class of each word of one text."""

    words: tuple[str, ...]
    labels: tuple[str | None, ...]
    """None for words that did not fit the row."""
    probabilities: tuple[float | None, ...]
    """Of the label that was chosen."""


def load(run: str | Path | Source) -> Model:
    """The best checkpoint of a fine-tuned run (the newest where none was kept), the one named, or an opened one.

    Raises:
      FileNotFoundError, ValueError: there is no such run, it is damaged, or it was not fine-tuned.
    """
    source = run if isinstance(run, Source) else open_run(run)
    experiment, objective = source.stored("experiment"), source.stored("objective")
    if not isinstance(experiment, FineTune):
        raise ValueError(
            f"{source.folder} is a {type(experiment).__name__}, not a fine-tuned run: it has no classes"
        )
    network = Network(source.model.build(), tuple(objective.heads(source.model)))
    description = Description(
        experiment=experiment, objective=objective, classes=source.stored("classes"), step=source.step
    )
    params = jax.device_put(source.params, jax.local_devices()[0])
    return Model(network, params, source.tokenizer, description)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probabilities(network: Network, objective: TaskObjective, params: Params, batch: Any) -> jax.Array:
    bound = network.bind(params)
    return jax.nn.softmax(objective.logits(bound, bound.encode(batch["tokens"], batch), batch))


def rows_of(model: Model, examples: Examples) -> LabelledRows:
    """Examples packed as they were in training."""
    experiment = model.description.experiment
    return experiment.task.rows(
        examples,
        tokenizer=model.tokenizer,
        classes=model.description.classes,
        length=experiment.data.length,
        max_segments=experiment.data.max_segments,
    )


def probabilities(
    model: Model, rows: LabelledRows, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """(probabilities [B, G or L, classes], the batch), the row numbers of the batch under "rows"."""
    network, params, _, description = model
    for number, batch in enumerate(EvalBatches(rows, batch_size=batch_size)):
        real = np.arange(number * batch_size, min((number + 1) * batch_size, len(rows)))
        out = _probabilities(
            network, description.objective, params, {k: jnp.asarray(v) for k, v in batch.items()}
        )
        yield np.asarray(out)[: len(real)], {**{k: v[: len(real)] for k, v in batch.items()}, "rows": real}


def predict(
    model: Model, texts: Iterable[str | tuple[str, str] | Sequence[str]], batch_size: int = 32
) -> list[Any]:
    """One prediction per text, in order.

    Args:
      model: what `load` returned.
      texts: texts; (text, second text) for a run trained on pairs; lists of words for one that labels words.
      batch_size: rows computed at once; a row holds as many texts as in training.

    Returns:
      TextPrediction or WordsPrediction.
    """
    texts = list(texts)
    if not texts:
        return []
    if isinstance(model.description.experiment.task, TextClassification):
        return _predict_texts(model, texts, batch_size)
    return _predict_words(model, [tuple(words) for words in texts], batch_size)


def _predict_texts(model: Model, texts: Sequence[Any], batch_size: int) -> list[TextPrediction]:
    pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
    rows = rows_of(model, [SequenceExample(text=a, text_pair=b) for a, b in pairs])
    found: list[Any] = [None] * len(texts)
    classes = model.description.classes
    for probs_BGC, batch in probabilities(model, rows, batch_size):
        examples_BG = rows.examples(batch["rows"])
        for row, segment in np.argwhere(examples_BG >= 0):
            probs_C = probs_BGC[row, segment]
            found[examples_BG[row, segment]] = TextPrediction(
                label=classes[int(probs_C.argmax())],
                probabilities={name: float(p) for name, p in zip(classes, probs_C, strict=True)},
            )
    return found


def _predict_words(
    model: Model, sentences: Sequence[tuple[str, ...]], batch_size: int
) -> list[WordsPrediction]:
    labels: list[list[str | None]] = [[None] * len(words) for words in sentences]
    chosen: list[list[float | None]] = [[None] * len(words) for words in sentences]
    filled = [i for i, words in enumerate(sentences) if words]
    if filled:
        rows = rows_of(model, [TokenExample(words=sentences[i]) for i in filled])
        for probs_BLC, batch in probabilities(model, rows, batch_size):
            examples_BG, words_BL = rows.examples(batch["rows"]), rows.words(batch["rows"])
            for row, column in np.argwhere(words_BL >= 0):
                example = filled[examples_BG[row, batch["segment_ids"][row, column] - 1]]
                probs_C, word = probs_BLC[row, column], words_BL[row, column]
                labels[example][word] = model.description.classes[int(probs_C.argmax())]
                chosen[example][word] = float(probs_C.max())
    return [
        WordsPrediction(words=words, labels=tuple(names), probabilities=tuple(probs))
        for words, names, probs in zip(sentences, labels, chosen, strict=True)
    ]


def read_lines(model: Model, lines: Iterable[str]) -> Iterator[Any]:
    """What `predict` takes, from lines: a text, two texts split by a tab, or words split by spaces."""
    experiment = model.description.experiment
    fields = 2 if experiment.data.text_pair else 1
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not isinstance(experiment.task, TextClassification):
            yield line.split()
            continue
        parts = line.split("\t")
        if len(parts) != fields:
            raise ValueError(
                f"line {number} has {len(parts)} tab-separated fields, but the run was trained on "
                + ("pairs of texts" if fields == 2 else "single texts")
            )
        yield (parts[0], parts[1]) if fields == 2 else line


def as_line(prediction: Any, form: Literal["text", "jsonl"]) -> str:
    """A prediction as it is printed."""
    if form == "jsonl":
        return json.dumps(dataclasses.asdict(prediction), ensure_ascii=False)
    if isinstance(prediction, TextPrediction):
        return prediction.label
    return " ".join(CUT_OFF if label is None else label for label in prediction.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Classify texts from standard input, one a line."""

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
    inputs = read_lines(model, lines)
    while some := list(itertools.islice(inputs, arguments.chunk)):
        for prediction in predict(model, some, arguments.batch_size):
            print(as_line(prediction, arguments.format), file=out)
        out.flush()


def main(arguments: Sequence[str]) -> None:
    """Parse, then answer standard input."""
    parsed = tyro.cli(Arguments, prog="python -m finetune.predict", args=list(arguments))
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        answer(parsed, sys.stdin, sys.stdout)
    except BrokenPipeError:
        # Whoever read our output (head, say) has had enough; python would complain once more while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(one_line_errors(main, sys.argv[1:]))
