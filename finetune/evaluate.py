"""`python -m finetune.evaluate RUN FILE`: score a fine-tuned run on a labelled file or TFDS split.

Besides the objective's own sums it counts what is no sum over examples: entity F1 for word labels. Must not
know training.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from finetune.build import read_examples
from finetune.predict import Model, load, probabilities, rows_of
from finetune.tasks import TextClassification
from train.cli import one_line_errors
from train.restore import Source, open_run

Span = tuple[str, int, int]


def score(run: str | Path | Source | Model, data: str, batch_size: int = 32) -> dict[str, float]:
    """Scores of the run's best checkpoint.

    Args:
      run: a fine-tuned run folder, one checkpoint of it, one that was opened, or what `predict.load` returned.
      data: a glob of labelled files or a TFDS split (a plain TFDS name means its test split).
      batch_size: rows computed at once.

    Returns:
      accuracy and nll (nats) per labelled text or word, `examples`, and for word labels in IOB form `f1`,
      `precision` and `recall` of whole entities. Words cut off count in f1 as outside any entity, and nowhere
      else.
    """
    model = run if isinstance(run, Model) else load(run)
    experiment = model.description.experiment
    examples = read_examples(experiment.task, data, "test", experiment.data.columns)
    rows = rows_of(model, examples)
    of_texts = isinstance(experiment.task, TextClassification)
    nll_sum, right, weight = 0.0, 0, 0
    predicted = [["O"] * (0 if of_texts else len(example.words)) for example in examples]
    for probs, batch in probabilities(model, rows, batch_size):
        labels = batch["labels"] if of_texts else batch["token_labels"]
        where = labels >= 0
        chosen = probs.argmax(-1)
        right += int((chosen == labels)[where].sum())
        picked = np.take_along_axis(probs, np.maximum(labels, 0)[..., None], -1)[..., 0]
        nll_sum -= float(np.log(np.maximum(picked[where], np.finfo(np.float32).tiny)).sum(dtype=np.float64))
        weight += int(where.sum())
        if not of_texts:
            examples_BG, words_BL = rows.examples(batch["rows"]), rows.words(batch["rows"])
            for row, column in np.argwhere(words_BL >= 0):
                example = examples_BG[row, batch["segment_ids"][row, column] - 1]
                name = model.description.classes[chosen[row, column]]
                predicted[example][words_BL[row, column]] = name
    if not weight:
        raise ValueError(f"{data} has no labelled examples")
    scores = {"accuracy": right / weight, "nll": nll_sum / weight, "examples": float(len(examples))}
    if not of_texts and _is_iob(model.description.classes):
        scores |= entity_scores([example.tags for example in examples], predicted)
    return scores


def _is_iob(classes: Sequence[str]) -> bool:
    return all(name == "O" or name[:2] in ("B-", "I-") for name in classes)


def entity_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities that agree in type, beginning and end, as conlleval counts them.

    On tests/data/ground_truth.txt of seqeval 1.2.2 it gives conlleval's 68.83, 80.83 and 74.35 (2026-11-21).

    Example:
      One of two entities is found, and nothing else.

      >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
      {'f1': 0.6666666666666666, 'precision': 1.0, 'recall': 0.5}
    """
    true_spans = {(i, *span) for i, tags in enumerate(true) for span in spans(tags)}
    predicted_spans = {(i, *span) for i, tags in enumerate(predicted) for span in spans(tags)}
    hits = len(true_spans & predicted_spans)
    precision = hits / len(predicted_spans) if predicted_spans else 0.0
    recall = hits / len(true_spans) if true_spans else 0.0
    f1 = 2 * hits / (len(true_spans) + len(predicted_spans)) if true_spans or predicted_spans else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def spans(tags: Sequence[str]) -> Iterator[Span]:
    """(type, begin, end) of each entity; as in conlleval, I- after another type or O begins one.

    Example:
      >>> list(spans(["I-PER", "I-PER", "B-PER", "I-LOC", "O"]))
      [('PER', 0, 2), ('PER', 2, 3), ('LOC', 3, 4)]
    """
    kind, begin = "", 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            yield kind, begin, i
            kind = ""
        if prefix != "O" and not kind:
            kind, begin = name, i


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
    sys.exit(one_line_errors(main, sys.argv[1:]))
