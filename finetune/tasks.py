"""The tasks a run can be fine-tuned for: how labelled records become rows, and which objective scores them.

A task joins `data` and `objectives`, which do not know each other. It must not know models, files or the
loop.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from data.labelled import (
    LabelledRows,
    SequenceExample,
    TokenExample,
    sequence_examples,
    sequence_rows,
    token_examples,
    token_rows,
)
from data.records import Record
from data.tokenizer import Tokenizer
from objectives import sequence_classification, token_classification
from objectives.segments import Pooling

Examples = list[Any]
"""SequenceExample or TokenExample, whichever the task reads."""
TaskObjective = sequence_classification.SequenceClassification | token_classification.TokenClassification
"""Objectives of tasks also have `logits(network, hidden, batch)`, which is what predictions are made of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What a labelled record is read from."""

    text: str
    text_pair: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassification:
    """One class per text, or pair of texts."""

    pooling: Pooling = "mean"
    """What stands for a text: the mean of its tokens, its first token through the pooler, as BERT has it, or its last
    token, as decoders have it.
    After little pretraining the first token says little: from a run of 60 steps, 2 epochs of Rotten Tomatoes
    ended at accuracy 0.49 with cls, 0.72 with mean (measured 2026-11-21, 2 layers of width 64)."""

    def objective(self, classes: int) -> TaskObjective:
        """The loss for this many classes."""
        return sequence_classification.SequenceClassification(classes=classes, pooling=self.pooling)

    def examples(self, records: Iterable[Record], columns: Columns) -> Examples:
        """Records to examples."""
        return sequence_examples(records, text=columns.text, text_pair=columns.text_pair, label=columns.label)

    def rows(
        self,
        examples: Sequence[SequenceExample],
        *,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        length: int,
        max_segments: int,
    ) -> LabelledRows:
        """Examples to packed rows."""
        return sequence_rows(
            examples, tokenizer=tokenizer, classes=classes, length=length, max_segments=max_segments
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification:
    """One class per word: named entities, parts of speech."""

    def objective(self, classes: int) -> TaskObjective:
        """The loss for this many classes."""
        return token_classification.TokenClassification(classes=classes)

    def examples(self, records: Iterable[Record], columns: Columns) -> Examples:
        """Records to examples."""
        if columns.text_pair:
            raise ValueError(f"data.text_pair is {columns.text_pair!r}, but word labels have no second text")
        return token_examples(records, words=columns.text, tags=columns.label)

    def rows(
        self,
        examples: Sequence[TokenExample],
        *,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        length: int,
        max_segments: int,
    ) -> LabelledRows:
        """Examples to packed rows."""
        return token_rows(
            examples, tokenizer=tokenizer, classes=classes, length=length, max_segments=max_segments
        )


Task = TextClassification | TokenClassification
