"""What feeds a pretraining run: rows to train on, rows to evaluate on, and what there is to say about them.

Text is one kind (train/text.py). Another kind is one frozen dataclass in a file of its own; an experiment names it.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from data.frame import FramingName
from data.stream import Rows
from data.tokenizer import Tokenizer
from model.network import Network, Params
from model.ranges import COUNT
from objectives.rows import RowShape

if TYPE_CHECKING:
    from train.experiment import Experiment
    from train.restore import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
    """All that a run is fed with."""

    train: Sequence[Rows]
    """Sources of training rows."""
    weights: Sequence[float] | None = None
    """How they are mixed; None goes by their numbers of rows."""
    evaluation: Mapping[str, Rows]
    """Rows to evaluate on, by the name of their set."""
    tokenizer: Tokenizer | None = None
    """What made the ids, if there are any; it travels with the run."""
    framing: FramingName | None = None
    """What stands around texts in the rows."""
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """JSON values that tell this data from other data: a resumed run must read the same."""
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The field of the experiment that names an input -> {"sha256": of what was read, and how much it is}."""
    reports: Sequence[str] = ()
    """Lines for the log."""
    initial: Callable[[Network], Params] | None = None
    """Makes the initial parameters; None lets the loop draw them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(abc.ABC):
    """Base of all kinds of data."""

    eval_rows: Annotated[int, COUNT] = 512
    """Held-out rows scored at each evaluation."""

    def check(self, experiment: "Experiment") -> None:
        """Raise ValueError where this data and the rest of the experiment cannot go together."""
        return None

    @abc.abstractmethod
    def row_shape(self, experiment: "Experiment", source: "Source | None") -> RowShape:
        """What is true of all rows; cheap, so that mistakes are found before any data is prepared.

        Args:
          experiment: the whole experiment that this is the data of.
          source: the run that it goes on from, if any.
        """

    @abc.abstractmethod
    def feed(self, experiment: "Experiment", rows: RowShape, source: "Source | None") -> Feed:
        """Prepare everything; the experiment's objective is told its rows already."""

    def evaluation_rows(
        self, experiment: "Experiment", source: "Source", reads: Sequence[str]
    ) -> Mapping[str, Rows]:
        """The evaluation rows of a run that is `source`, with the arrays that are asked for; none can be looked up here."""
        if reads:
            raise ValueError(f"{type(self).__name__} offers no {' and '.join(reads)}")
        return self.feed(experiment, self.row_shape(experiment, source), source).evaluation

    def read_files(
        self,
        experiment: "Experiment",
        source: "Source",
        files: Sequence[str],
        column: str,
        reads: Sequence[str],
    ) -> Rows:
        """Rows of other files, as this run would make them."""
        raise ValueError(f"{type(self).__name__} reads no other files: leave data.files empty")

    @property
    def offered(self) -> tuple[str, ...]:
        """Arrays that can be looked up for whoever `reads` them."""
        return ()
