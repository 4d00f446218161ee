"""Small instances to examine: every objective of a package, a backbone of its family, a batch it can read.

Each file of an objective offers `example()`. Shape suffixes: B rows, L tokens of a row, G segments of a row.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

import objectives
from model.config import TextConfig
from model.encoder import EncoderConfig
from model.gpt2 import Gpt2Config
from model.t5 import T5V11Config
from objectives.base import Objective
from objectives.rows import Row, RowShape

VOCABULARY, LENGTH, SEGMENTS = 64, 24, 3
"""What an `example()` must be able to work with; ids below 7 are special (cls 2, sep 3, mask 4, eos 6)."""
SENTINELS = 8
"""The last ids are in no document."""
LONG = 44
"""Length of rows that must hold sentinels or marks beside a text."""


def example_of(module: ModuleType) -> Objective | None:
    """The example of a module; None if it defines no objective.

    Raises:
      ValueError: the module defines an objective but no example of it.
    """
    classes = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Objective)
        and c is not Objective
        and not inspect.isabstract(c)
        and c.__module__ == module.__name__
    ]
    factory = getattr(module, "example", None)
    objective = in_small_rows(factory()) if callable(factory) else None
    missing = [c.__name__ for c in classes if type(objective) is not c]
    if missing:
        raise ValueError(
            f"{module.__name__} defines {missing}, but its example() makes {type(objective).__name__}: "
            "one file holds one objective and a function example() -> Objective"
        )
    return objective


def examples() -> Iterator[tuple[str, Objective]]:
    """(module name, example) of every objective in this package."""
    for info in pkgutil.iter_modules(objectives.__path__):
        objective = example_of(importlib.import_module(f"objectives.{info.name}"))
        if objective is not None:
            yield info.name, objective


def in_small_rows(objective: Objective) -> Objective:
    """The objective told of rows that are small enough to look at."""
    maker = objective.row_maker()
    rows = RowShape(
        length=LONG if maker is not None and maker.own_ids() else LENGTH,
        max_segments=2 * SEGMENTS if objective.claims().segments_per_unit() > 1 else SEGMENTS,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        bos_id=5,
        eos_id=6,
        first_ordinary_id=7,
        own_start=VOCABULARY - SENTINELS,
        own_stop=VOCABULARY,
    )
    return objective.for_rows(rows)


def small_config(objective: Objective) -> TextConfig:
    """A backbone of the objective's family, small enough to compile in a second."""
    if objective.family == "decoder":
        return Gpt2Config(
            vocab_size=VOCABULARY,
            layers=1,
            width=16,
            heads=2,
            mlp_width=32,
            max_positions=2 * LENGTH,
            dropout=0.0,
            attention_dropout=0.0,
        )
    if objective.family == "encoder_decoder":
        # At the published scale logits start with unit variance, half a nat above ln V.
        return T5V11Config(
            vocab_size=VOCABULARY,
            layers=1,
            width=16,
            heads=2,
            head_dim=8,
            mlp_width=32,
            max_positions=2 * LENGTH,
            init_std=0.3,
        )
    return EncoderConfig(
        vocab_size=VOCABULARY, layers=1, width=16, heads=2, mlp_width=32, max_positions=2 * LENGTH, types=2
    )


def small_batch(objective: Objective, seed: int = 0) -> dict[str, np.ndarray]:
    """Four rows: made by the objective if it makes rows, else packed, ragged, padded and labelled."""
    rng = np.random.default_rng(seed)
    maker = objective.row_maker()
    if maker is None:
        rows = [_packed_row(sizes, rng) for sizes in _LAYOUTS]
    else:
        rows = [maker.make_example(Documents(seed), i, rng) for i in range(4)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    batch["word_starts"] = (batch["tokens"] % 3 != 0).astype(np.int32)
    # Neither sorted nor starting at 0: an objective that counts rows instead would be seen.
    batch["example_ids"] = np.array([11, 5, 17, 2], np.int32)
    return batch


_LAYOUTS = ((7, 9, 5), (20,), (3, 11), (24,))


def _packed_row(sizes: tuple[int, ...], rng: np.random.Generator) -> Row:
    names = ("tokens", "segment_ids", "positions", "type_ids")
    row: Row = {name: np.zeros(LENGTH, np.int32) for name in names}
    row["labels"] = np.full(SEGMENTS, -1, np.int32)
    row["token_labels"] = np.full(LENGTH, -1, np.int32)
    start = 0
    for number, size in enumerate(sizes):
        here = slice(start, start + size)
        row["tokens"][here] = [2, *rng.integers(7, VOCABULARY, size - 2), 3]
        row["segment_ids"][here] = number + 1
        row["positions"][here] = np.arange(size)
        row["type_ids"][here] = np.arange(size) > size // 2
        row["labels"][number] = -1 if len(sizes) > 2 and number == 1 else rng.integers(2)
        row["token_labels"][here] = rng.integers(-1, 2, size)
        start += size
    return row


class Documents:
    """Random documents of these sizes and tokens; with `alphabets` no two share one, so that a span tells whence it is."""

    def __init__(
        self,
        seed: int = 0,
        *,
        sizes: Sequence[int] = range(16, 40, 2),
        tokens: Sequence[int] = range(7, VOCABULARY - SENTINELS),
        alphabets: bool = False,
    ):
        rng = np.random.default_rng(seed)
        letters = np.array_split(tokens, len(sizes)) if alphabets else [np.array(tokens)] * len(sizes)
        self._documents = [rng.choice(own, n).astype(np.int32) for n, own in zip(sizes, letters, strict=True)]

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._documents[index]

    def hash(self, index: int) -> int:
        """Equal for equal documents: here all differ."""
        return index
