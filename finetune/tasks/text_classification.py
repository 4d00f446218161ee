"""One class per text, or pair of texts: sentiment, acceptability, entailment."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.classes import about_classes
from data.labelled import (
    LabelledRows,
    SequenceExample,
    all_labels,
    class_names,
    sequence_examples,
    sequence_rows,
)
from data.records import Record
from finetune.tasks.base import Classes, Columns, Computed, Packing, Task
from model.network import BoundNetwork
from objectives.segments import Pooling
from objectives.sequence_classification import SequenceClassification

PAIR_COLUMN = "text_pair"
"""A column of this name is the second text, unless the experiment names another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPrediction:
    """The class of one text."""

    label: str
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassification(Task):
    """One class per text, or pair of texts."""

    metric = "accuracy"
    pooling: Pooling = "mean"
    """What stands for a text: the mean of its tokens, its first token through the pooler, as BERT has it, or its last
    token, as decoders have it.
    After little pretraining the first token says little: from a run of 60 steps, 2 epochs of Rotten Tomatoes
    ended at accuracy 0.49 with cls, 0.72 with mean (measured 2026-11-21, 2 layers of width 64)."""

    def columns(self, named: Columns, found: Collection[str]) -> Columns:
        """Those named, and the second text by the name of its column."""
        if named.text_pair or PAIR_COLUMN not in found:
            return named
        return dataclasses.replace(named, text_pair=PAIR_COLUMN)

    def examples(self, records: Iterable[Record], columns: Columns) -> list[SequenceExample]:
        """Texts, perhaps pairs, with a class each."""
        return sequence_examples(records, text=columns.text, text_pair=columns.text_pair, label=columns.label)

    def learn(self, examples: Sequence[SequenceExample]) -> Classes:
        """The names of the classes."""
        return class_names(examples)

    def about(self, examples: Sequence[SequenceExample]) -> list[str]:
        """How often each class occurs."""
        return about_classes(all_labels(examples))

    def objective(self, learned: Classes) -> SequenceClassification:
        """Cross-entropy per text."""
        return SequenceClassification(classes=len(learned), pooling=self.pooling)

    def rows(self, examples: Sequence[SequenceExample], learned: Classes, packing: Packing) -> LabelledRows:
        """One segment per text, or pair."""
        return sequence_rows(examples, classes=learned, **packing._asdict())

    def outputs(
        self, objective: SequenceClassification, network: BoundNetwork, batch: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Probabilities, float32[B, G, C]."""
        hidden_BLD = network.encode(batch)
        return jax.nn.softmax(objective.logits(network, hidden_BLD, batch))

    def answers(
        self,
        examples: Sequence[SequenceExample],
        learned: Classes,
        rows: LabelledRows,
        computed: Iterable[Computed],
    ) -> list[TextPrediction]:
        """The likeliest class of each text."""
        answers: list[Any] = [None] * len(examples)
        for numbers, _, probs_BGC in computed:
            examples_BG = rows.examples(numbers)
            for row, segment in np.argwhere(examples_BG >= 0):
                probs_C = probs_BGC[row, segment]
                answers[examples_BG[row, segment]] = TextPrediction(
                    label=learned[int(probs_C.argmax())],
                    probabilities={name: float(p) for name, p in zip(learned, probs_C, strict=True)},
                )
        return answers

    def question(self, given: str | tuple[str, str]) -> SequenceExample:
        """A text, or a tuple of two."""
        text, text_pair = given if isinstance(given, tuple) else (given, None)
        return SequenceExample(text=text, text_pair=text_pair)

    def parse(self, line: str, columns: Columns, where: str) -> str | tuple[str, str]:
        """A text, or two texts with a tab between them where the run was trained on pairs."""
        if not columns.text_pair:
            return line
        parts = line.split("\t")
        if len(parts) != 2:
            raise ValueError(
                f"{where} has {len(parts)} tab-separated fields, but the run was trained on pairs of texts: put one tab "
                "between the two"
            )
        return parts[0], parts[1]

    def line(self, answer: TextPrediction) -> str:
        """The class."""
        return answer.label
