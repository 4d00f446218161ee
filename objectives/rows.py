"""What the rows of a run are, and how an objective may make its own from documents. Host side, numpy.

Shape suffixes: L tokens of a row.
"""

import abc
import dataclasses
from typing import Protocol

import numpy as np

Row = dict[str, np.ndarray]
NO_ID = -1
"""In place of the id of a special token that the tokenizer does not have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """What is true of all rows of a run; an objective is told once, when the run is built, and repeats none of it."""

    length: int
    """Positions of a row (L)."""
    max_segments: int = 1
    """Most packed segments in one row (G)."""
    pad_id: int = 0
    """Fills a row up; also what a decoder reads before its first token."""
    cls_id: int = NO_ID
    """Opens a text of a masked model."""
    sep_id: int = NO_ID
    """Closes a text of a masked model, and stands between two."""
    mask_id: int = NO_ID
    """Stands for a masked token."""
    bos_id: int = NO_ID
    """Opens a document of a causal model."""
    eos_id: int = NO_ID
    """Closes a document of a causal model."""
    first_ordinary_id: int = 0
    """Ids below are special: never scored by a masked model, never drawn as random tokens."""
    own_start: int = 0
    """The first id that is in no text, and so free for an objective's own tokens (sentinels, marks)."""
    own_stop: int = 0
    """One more than the last of them."""

    def require(self, who: object, *names: str) -> None:
        """For `check`: raise ValueError unless the tokenizer has these special tokens."""
        if missing := [name for name in names if getattr(self, name) == NO_ID]:
            raise ValueError(
                f"{type(who).__name__} needs {' and '.join(missing)}, but the tokenizer has no such token: choose another "
                "tokenizer or objective"
            )


class NotTold:
    """In place of `rows` as long as an objective was not told; an attribute of that name hides it."""

    def __get__(self, who: object, owner: type) -> RowShape:
        raise ValueError(
            f"{owner.__name__} was not told what its rows are: use what for_rows(RowShape(...)) gives"
        )


class Documents(Protocol):
    """Random-access tokenised documents, as `make_example` is given them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Token ids of one document, int32, without special tokens."""

    def hash(self, index: int, /) -> int:
        """Equal for documents of equal (normalised) text."""


class RowMaker(abc.ABC):
    """For objectives that make their rows from documents (pairs, spans); others read packed rows."""

    @abc.abstractmethod
    def make_example(self, docs: Documents, index: int, rng: np.random.Generator) -> Row:
        """One row as long as the run's rows, with arrays as docs/rows.md lists them; a pure function of its arguments.

        Document index % len(docs) should open it, so that each is visited once per epoch.
        """

    def own_ids(self) -> int:
        """How many ids, in no text, it takes for itself: the last ones of the vocabulary."""
        return 0

    def check_documents(self, docs: Documents) -> None:
        """Raise ValueError if no row could be made of these documents; called once, at the start."""
        return None
