"""Small instances to examine: every objective of a package, a backbone of its family, a batch it can read.

Each file of an objective offers `example()`. Shape suffixes: B rows, L tokens of a row, G segments of a row.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType

import jax
import numpy as np

import objectives
from model.config import TextConfig
from model.encoder import EncoderConfig
from model.gpt2 import Gpt2Config
from model.network import Network
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
    """Four rows: made by the objective if it makes rows, else packed, ragged, padded and labelled.

    Labels are classes [B, G], or whatever else the objective can read: answers to several questions [B, G, C], numbers.

    Raises:
      What the objective raises at every one of these.
    """
    maker = objective.row_maker()
    if maker is None:
        return _readable(objective, packed_rows(_LAYOUTS, seed))
    rng = np.random.default_rng(seed)
    rows = [maker.make_example(Documents(seed), i, rng) for i in range(4)]
    return _looked_up({name: np.stack([row[name] for row in rows]) for name in rows[0]})


_LAYOUTS = ((7, 9, 5), (20,), (3, 11), (24,))


def packed_rows(
    layouts: Sequence[Sequence[int]], seed: int = 0, like: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Rows with segments of these sizes, drawn at random, with labels of every kind, or as those of the batch `like`."""
    rng = np.random.default_rng(seed)
    segments = max(SEGMENTS, *map(len, layouts))
    rows = [_packed_row(sizes, segments, rng) for sizes in layouts]
    batch = _looked_up({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    return batch if like is None else {k: _as_like(v, like[k]) for k, v in batch.items()}


def _as_like(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The same labels in the dtype of others and, where these have one more axis, with answers to so many questions."""
    if like.ndim > x.ndim:
        answers = (x[..., None] + np.arange(like.shape[-1])) % 2
        x = np.where(x[..., None] < 0, -1, answers)
    return x.astype(like.dtype)


def _readable(objective: Objective, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with labels of the first form of which the objective can make a loss."""
    fields = [getattr(objective, f.name) for f in dataclasses.fields(objective) if f.init]
    many = next((x for x in fields if isinstance(x, int) and not isinstance(x, bool) and 1 < x <= 32), 3)
    network, config = Network(small_config(objective).build()), small_config(objective)
    network = dataclasses.replace(network, heads=tuple(objective.heads(config)))
    companions = tuple(
        (k, Network(config.build(), tuple(objective.companion_heads(k, config))))
        for k in objective.companions
    )
    network = dataclasses.replace(network, companions=companions)
    shapes = jax.eval_shape(network.init, jax.ShapeDtypeStruct((), jax.random.key(0).dtype))
    others = {
        k: jax.eval_shape(n.init, jax.ShapeDtypeStruct((), jax.random.key(0).dtype)) for k, n in companions
    }
    first: Exception | None = None
    for form in _FORMS:
        like = {
            k: np.zeros((1, 1, many)[: v.ndim + form[0]], form[1]) for k, v in batch.items() if "labels" in k
        }
        candidate = {k: _as_like(v, like[k]) if k in like else v for k, v in batch.items()}
        try:
            jax.eval_shape(
                lambda params, others, batch: tuple(
                    objective(network.bind(params, None, others), batch, jax.random.key(0))
                ),
                shapes,
                others,
                candidate,
            )
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            first = first or error
        else:
            return candidate
    assert first is not None
    raise first


_FORMS = ((0, np.int32), (1, np.int32), (1, np.float32), (0, np.float32))
"""(further axes, dtype) of labels."""


def _looked_up(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with what the data would look up for each token, and the numbers of its rows."""
    tokens_BL = batch["tokens"]
    return {
        **batch,
        "word_starts": (tokens_BL % 3 != 0).astype(np.int32),
        "token_bytes": np.where(tokens_BL < 7, 0, 1 + tokens_BL % 4).astype(np.int32),
        # Neither sorted nor starting at 0: an objective that counts rows instead would be seen.
        "example_ids": np.array([11, 5, 17, 2], np.int32)[: len(tokens_BL)],
    }


def _packed_row(sizes: Sequence[int], segments: int, rng: np.random.Generator) -> Row:
    names = ("tokens", "segment_ids", "positions", "type_ids")
    row: Row = {name: np.zeros(LENGTH, np.int32) for name in names}
    row["labels"] = np.full(segments, -1, np.int32)
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
