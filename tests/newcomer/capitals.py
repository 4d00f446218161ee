"""How many words of a text are capitalised: a task, and its loss."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from data.labelled import SequenceExample, sequence_rows
from data.records import required
from finetune.tasks.base import Task
from model.heads import Classifier
from objectives.base import LossOut, Objective
from objectives.segments import pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredError(Objective):
    mean: float

    def heads(self, config):
        return (("count", Classifier(config, 1)),)

    def coefficients(self):
        return {"squared_error": 1.0}

    def predicted(self, network, batch):
        hidden_BLD = network.encode(batch)
        segments = batch["counts"].shape[1]
        pooled_BGD = pool(hidden_BLD, batch["segment_ids"], segments, "mean")
        return self.mean + network.head("count", pooled_BGD)[..., 0]

    def __call__(self, network, batch, rng):
        error_BG = (self.predicted(network, batch) - batch["counts"]) ** 2
        return LossOut(
            {"squared_error": (jnp.sum(error_BG * batch["counted"]), jnp.sum(batch["counted"]))}, {}
        )


@dataclasses.dataclass(frozen=True)
class Text:
    text: str
    count: float | None = None


@dataclasses.dataclass(frozen=True)
class Count:
    count: float


class CountRows:
    def __init__(self, examples, packed):
        self.packed = packed
        self.counts = np.array([0.0 if e.count is None else e.count for e in examples], np.float32)
        self.counted = np.array([e.count is not None for e in examples], np.float32)
        self.report = packed.report
        self.examples = packed.examples

    def __len__(self):
        return len(self.packed)

    def take(self, numbers):
        examples_BG = self.packed.examples(numbers)
        there_BG = (examples_BG >= 0).astype(np.float32)
        return {
            **self.packed.take(numbers),
            "counts": self.counts[examples_BG] * there_BG,
            "counted": self.counted[examples_BG] * there_BG,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountCapitals(Task):
    """How many words are capitalised."""

    metric = "squared_error"
    metric_mode = "min"
    decimals: int = 1

    def examples(self, records, columns):
        return [Text(r.values[columns.text], float(required(r, columns.label))) for r in records]

    def learn(self, examples):
        return {"mean": sum(e.count for e in examples) / len(examples)}

    def objective(self, learned):
        return SquaredError(mean=learned["mean"])

    def rows(self, examples, learned, packing):
        texts = [SequenceExample(text=e.text) for e in examples]
        packed = sequence_rows(texts, classes=(), **packing._asdict())
        return CountRows(examples, packed)

    def outputs(self, objective, network, batch):
        return objective.predicted(network, batch)

    def answers(self, examples, learned, rows, computed):
        counts = np.zeros(len(examples))
        for numbers, _, predicted_BG in computed:
            examples_BG = rows.examples(numbers)
            counts[examples_BG[examples_BG >= 0]] = predicted_BG[examples_BG >= 0]
        return [Count(float(count)) for count in counts]

    def scores(self, examples, answers, learned):
        return {
            "correlation": float(np.corrcoef([e.count for e in examples], [a.count for a in answers])[0, 1])
        }

    def question(self, given):
        return Text(given)

    def parse(self, line, columns, where):
        if not line:
            raise ValueError(f"{where} is empty")
        return line

    def line(self, answer):
        return f"{answer.count:.{self.decimals}f}"
