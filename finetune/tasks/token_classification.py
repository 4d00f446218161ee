"""One class per word: named entities, parts of speech."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data.labelled import LabelledRows, TokenExample, token_examples, token_rows
from data.records import Record
from finetune.tasks.base import Classes, Classification, Columns, Computed, Packing
from objectives import token_classification

CUT_OFF = "?"
"""Printed for words that did not fit the row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordsPrediction:
    """The class of each word of one text."""

    words: tuple[str, ...]
    labels: tuple[str | None, ...]
    """None for words that did not fit the row."""
    probabilities: tuple[float | None, ...]
    """Of the label that was chosen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Classification):
    """One class per word: named entities, parts of speech."""

    def examples(self, records: Iterable[Record], columns: Columns) -> list[TokenExample]:
        if columns.text_pair:
            raise ValueError(f"data.text_pair is {columns.text_pair!r}, but word labels have no second text")
        return token_examples(records, words=columns.text, tags=columns.label)

    def objective(self, learned: Classes) -> token_classification.TokenClassification:
        return token_classification.TokenClassification(classes=len(learned))

    def rows(self, examples: Sequence[TokenExample], learned: Classes, packing: Packing) -> LabelledRows:
        """One segment per sentence that has words."""
        # Rows need something in them, also where no sentence has words.
        filled = [example for example in examples if example.words] or [TokenExample(words=("",))]
        return token_rows(filled, classes=learned, **packing._asdict())

    def answers(
        self,
        examples: Sequence[TokenExample],
        learned: Classes,
        rows: LabelledRows,
        computed: Iterable[Computed],
    ) -> list[WordsPrediction]:
        labels: list[list[str | None]] = [[None] * len(example.words) for example in examples]
        chosen: list[list[float | None]] = [[None] * len(example.words) for example in examples]
        filled = [i for i, example in enumerate(examples) if example.words]
        for numbers, batch, probs_BLC in computed if filled else ():
            examples_BG, words_BL = rows.examples(numbers), rows.words(numbers)
            for row, column in np.argwhere(words_BL >= 0):
                example = filled[examples_BG[row, batch["segment_ids"][row, column] - 1]]
                probs_C, word = probs_BLC[row, column], words_BL[row, column]
                labels[example][word] = learned[int(probs_C.argmax())]
                chosen[example][word] = float(probs_C.max())
        return [
            WordsPrediction(words=example.words, labels=tuple(names), probabilities=tuple(probs))
            for example, names, probs in zip(examples, labels, chosen, strict=True)
        ]

    def scores(
        self, examples: Sequence[TokenExample], answers: Sequence[WordsPrediction], learned: Classes
    ) -> dict[str, float]:
        """Of classes in IOB form F1, precision and recall of whole entities; a word that was cut off counts as in none."""
        if not all(name == "O" or name[:2] in ("B-", "I-") for name in learned):
            return {}
        predicted = [["O" if label is None else label for label in answer.labels] for answer in answers]
        return entity_scores([example.tags or () for example in examples], predicted)

    def question(self, given: Sequence[str]) -> TokenExample:
        return TokenExample(words=tuple(given))

    def parse(self, line: str, columns: Columns, where: str) -> list[str]:
        return line.split()

    def line(self, answer: WordsPrediction) -> str:
        return " ".join(CUT_OFF if label is None else label for label in answer.labels)


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


def spans(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
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
