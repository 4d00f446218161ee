"""What a task is: from a labelled record to rows, and from what a network gives for rows to answers and scores.

Shape suffixes here and in the tasks: B rows, L tokens of a row, G segments of a row, C classes.
"""

import abc
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import numpy as np

from data.labelled import class_names
from data.records import Record
from data.stream import Rows
from data.tokenizer import Tokenizer
from model.network import BoundNetwork
from objectives.base import Objective

Example = Any
"""A record as the task reads it, with its label or without."""
Learned = Any
"""What the training examples say of all (class names, a range of scores), as JSON can carry it."""
Classes = tuple[str, ...]
"""What tasks that choose among classes learn: the names."""
Outputs = Any
"""A pytree of arrays with leading axis B."""
Answer = Any
"""A frozen dataclass."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What a labelled record is read from; empty names no column."""

    text: str
    text_pair: str
    label: str


class Packing(NamedTuple):
    """How a run makes rows: by which tokenizer, of how many tokens, with at most how many segments."""

    tokenizer: Tokenizer | None
    """None where the run reads no ids."""
    length: int
    max_segments: int


class TaskRows(Rows, Protocol):
    """Rows of examples; the task that made them knows which example is where."""

    def report(self) -> str:
        """One line for the log: how many examples, how many rows, what was cut."""
        ...


class Computed(NamedTuple):
    """What the network gave for some rows, without those that only filled the batch up."""

    numbers: np.ndarray
    """Which rows, as `take` counts them."""
    batch: Mapping[str, np.ndarray]
    outputs: Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Base of all tasks; fields of a subclass are its settings."""

    metric: ClassVar[str]
    """The term or metric of its objective that chooses the best checkpoint where an experiment says best="task"."""
    metric_mode: ClassVar[Literal["max", "min"]] = "max"

    def columns(self, named: Columns, present: Collection[str]) -> Columns:
        """The columns to read of records in which those are `present`, where an experiment names these."""
        return named

    @abc.abstractmethod
    def examples(self, records: Iterable[Record], columns: Columns) -> list[Example]:
        """Labelled examples; an error names the record."""

    def learn(self, examples: Sequence[Example]) -> Learned:
        """Computed once from all training examples and stored with the run."""
        return None

    @abc.abstractmethod
    def objective(self, learned: Learned) -> Objective:
        """The loss."""

    @abc.abstractmethod
    def rows(self, examples: Sequence[Example], learned: Learned, packing: Packing) -> TaskRows:
        """Examples, perhaps without labels, as rows; one example may become several segments."""

    @abc.abstractmethod
    def outputs(self, objective: Any, network: BoundNetwork, batch: Mapping[str, jax.Array]) -> Outputs:
        """What answers are made of; runs under jit, and `objective` is what the method of that name gave."""

    @abc.abstractmethod
    def answers(
        self, examples: Sequence[Example], learned: Learned, rows: Any, computed: Iterable[Computed]
    ) -> list[Answer]:
        """One answer per example, from the rows that the method of that name made of them, each computed once."""

    def scores(
        self, examples: Sequence[Example], answers: list[Answer], learned: Learned
    ) -> dict[str, float]:
        """What is no mean over examples, such as F1; the objective's terms and metrics are reported anyway."""
        return {}

    @abc.abstractmethod
    def question(self, given: Any) -> Example:
        """An example without a label, from what `finetune.predict.predict` is given for it."""

    @abc.abstractmethod
    def parse(self, line: str, columns: Columns, where: str) -> Any:
        """What `question` takes, from a line of input; an error begins with `where`."""

    @abc.abstractmethod
    def line(self, answer: Answer) -> str:
        """An answer as one line of text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Base of tasks that choose among classes; their objectives have `logits`."""

    metric = "accuracy"

    def learn(self, examples: Sequence[Example]) -> Classes:
        return class_names(examples)

    def outputs(self, objective: Any, network: BoundNetwork, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Probabilities, float32[..., C], of whatever the objective labels."""
        return jax.nn.softmax(objective.logits(network, network.encode(batch), batch))
