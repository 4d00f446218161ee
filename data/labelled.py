"""Labelled text to packed rows: sequences (labels per segment) and words (labels per first piece).

Legend: B rows, L length, G segments per row.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np

from data.classes import NO_LABEL, ClassIds, check_sides, in_order, tidy
from data.encoded import TextTokenizer, encode_texts, encode_word_lists
from data.frame import Frame, cut, shorten
from data.packing import best_fit
from data.records import DataError, Record, a_few, check_unicode, required
from data.row_index import Batch, Placement, RowIndex, group_by_row, ragged_arange


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceExample:
    """A text, or a pair of texts, and its class."""

    text: str
    text_pair: str | None = None
    label: str | None = None
    where: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenExample:
    """A sentence in words, and the class of each word."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""


Example = TypeVar("Example", SequenceExample, TokenExample)


class PairTokenizer(TextTokenizer, Protocol):
    """What is needed of a tokenizer here."""

    pad_id: int

    def frame(self, pair: bool) -> Frame:
        """What a model expects around one text, or two."""
        ...


def sequence_examples(
    records: Iterable[Record], *, text: str = "text", text_pair: str = "", label: str = "label"
) -> list[SequenceExample]:
    """Examples from records; empty `text_pair` or `label` names no column."""
    _check_columns(text=text, text_pair=text_pair, label=label)
    names = _Names()
    examples = [
        SequenceExample(
            text=_text(record, text),
            text_pair=_text(record, text_pair) if text_pair else None,
            label=names.read(required(record, label), record, label) if label else None,
            where=record.where,
        )
        for record in records
    ]
    names.report()
    return examples


def token_examples(
    records: Iterable[Record], *, words: str = "tokens", tags: str = "tags"
) -> list[TokenExample]:
    """Examples from records whose columns hold lists of equal length; empty `tags` names no column."""
    _check_columns(text=words, label=tags)
    examples, names = [], _Names()
    for record in records:
        tokens = _list(record, words)
        classes = [names.read(tag, record, tags) for tag in _list(record, tags)] if tags else None
        if classes is not None and len(classes) != len(tokens):
            raise DataError(f"{record.where}: {len(tokens)} {words} but {len(classes)} {tags}")
        if not all(isinstance(token, str) for token in tokens):
            raise DataError(f"{record.where}: {words!r} holds something that is not text")
        examples.append(
            TokenExample(
                words=tuple(tokens), tags=None if classes is None else tuple(classes), where=record.where
            )
        )
    names.report()
    return examples


def class_names(examples: Sequence[SequenceExample] | Sequence[TokenExample]) -> tuple[str, ...]:
    """The classes of a training set, sorted (as numbers where all are numbers)."""
    labels = all_labels(examples)
    found = set(labels)
    if not found:
        raise DataError("the training examples have no labels")
    if len(found) == 1:
        raise DataError(
            f"all {len(examples)} training examples have the label {found.pop()!r}: nothing to learn"
        )
    check_sides(labels, (text for example in examples for text in _inputs(example)))
    return in_order(found)


def all_labels(examples: Sequence[SequenceExample] | Sequence[TokenExample]) -> list[str]:
    """The class of every example, or of every word, that has one."""
    return [label for example in examples for label in _labels(example)]


def subset(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """Draw n examples by seed alone; with one seed a smaller subset lies inside a larger one."""
    if not 0 < n <= len(examples):
        raise DataError(f"cannot draw {n} of {len(examples)} examples")
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:n]]


class LabelledRows:
    """Packed rows of labelled examples; `examples` and `words` map what a model says back to the input."""

    fill: Mapping[str, int] = MappingProxyType({"labels": NO_LABEL, "token_labels": NO_LABEL})
    """No label is not class 0."""

    def __init__(self, segments: "_Segments", *, tokenizer: PairTokenizer, length: int, max_segments: int):
        if not len(segments.sizes):
            raise DataError("there are no examples")
        self.length = length
        self.max_segments = max_segments
        self.truncated = segments.truncated
        """Examples that did not fit `length`."""
        self.lost = segments.lost
        """Tokens that were cut off."""
        self._segments = segments
        self._starts = np.cumsum(segments.sizes) - segments.sizes
        self._pad = tokenizer.pad_id
        self._example, first = group_by_row(best_fit(segments.sizes, length, max_segments))
        self.index = RowIndex(segments.sizes[self._example], first, length=length)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Rows `number % len(self)`: packed rows, with labels int32[B, G] or token_labels int32[B, L]."""
        laid = self._place(numbers)
        batch = laid.rows(self._pad)
        batch["tokens"] = self._per_token(laid, self._segments.tokens, self._pad)
        if self._segments.type_ids is not None:
            batch["type_ids"] = self._per_token(laid, self._segments.type_ids, 0)
        if self._segments.token_labels is not None:
            batch["token_labels"] = self._per_token(laid, self._segments.token_labels, NO_LABEL)
        if self._segments.labels is not None:
            batch["labels"] = self._per_segment(laid, self._segments.labels[laid.piece])
        return batch

    def examples(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which example each segment is, int32[B, G]; -1 where a row has fewer segments."""
        laid = self._place(numbers)
        return self._per_segment(laid, laid.piece)

    def words(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which word of its example begins at each position, int32[B, L]; -1 elsewhere."""
        if self._segments.words is None:
            raise DataError("these examples are texts, not words")
        return self._per_token(self._place(numbers), self._segments.words, -1)

    def report(self) -> str:
        """One line for the log; says what truncation cost."""
        n = len(self._segments.sizes)
        cut = f"{self.truncated:,} cut at {self.length} tokens ({self.lost:,} tokens lost)"
        return (
            f"packed {n:,} examples into {len(self):,} rows of {self.length}: "
            f"{self.index.real_share:.1%} real tokens, {cut if self.truncated else 'none cut'}"
        )

    def _place(self, numbers: Sequence[int] | np.ndarray) -> Placement:
        """Where the pieces of these rows go; a piece is an example, and has its number."""
        laid = self.index.place(numbers)
        return dataclasses.replace(laid, piece=self._example[laid.piece])

    def _per_token(self, laid: Placement, values: np.ndarray, fill: int) -> np.ndarray:
        """int32[B, L]: the values of each example's tokens, which lie end to end in `values`."""
        out = np.full(laid.shape, fill, np.int32)
        source = ragged_arange(self._starts[laid.piece], laid.sizes)
        out.reshape(-1)[ragged_arange(laid.start, laid.sizes)] = values[source]
        return out

    def _per_segment(self, laid: Placement, values: np.ndarray) -> np.ndarray:
        """int32[B, G]: a value for each piece, -1 where a row has fewer."""
        out = np.full((laid.shape[0], self.max_segments), NO_LABEL, np.int32)
        out[laid.row, laid.segment - 1] = values
        return out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Segments:
    """Framed examples end to end."""

    sizes: np.ndarray
    tokens: np.ndarray
    type_ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    token_labels: np.ndarray | None = None
    words: np.ndarray | None = None
    truncated: int
    lost: int


def sequence_rows(
    examples: Sequence[SequenceExample],
    *,
    tokenizer: PairTokenizer,
    classes: Sequence[str],
    length: int,
    max_segments: int = 8,
) -> LabelledRows:
    """A text, or a pair with type_ids, in the tokenizer's frame; labels int32[B, G]."""
    for number, example in enumerate(examples, 1):
        check_unicode(example.text + (example.text_pair or ""), example.where or f"text {number}")
    first = encode_texts(tokenizer, [e.text for e in examples])
    paired = [e.text_pair is not None for e in examples]
    if any(paired) and not all(paired):
        raise DataError(f"{examples[paired.index(False)].where}: has no second text, others have")
    second = encode_texts(tokenizer, [e.text_pair or "" for e in examples]) if any(paired) else None
    frame = tokenizer.frame(pair=second is not None)
    room = length - frame.added
    _check_room(room, length)
    tokens: list[int] = []
    types: list[int] = []
    sizes: list[int] = []
    truncated = lost = 0
    for i, a in enumerate(first):
        b = second[i] if second else []
        excess = max(0, len(a) + len(b) - room)
        truncated, lost = truncated + (excess > 0), lost + excess
        ids, kinds = frame.around(*shorten(a, b, room, frame.side))
        if not ids:
            # Nothing, in no frame: one token that stands for no text, so that it has a place in a row.
            ids, kinds = [_nothing(tokenizer)], [0]
        tokens += ids
        types += kinds
        sizes.append(len(ids))
    known = ClassIds(classes)
    labels = np.array([known.of(e.label, e.where) for e in examples], np.int32)
    segments = _Segments(
        sizes=np.array(sizes, np.int64),
        tokens=np.array(tokens, np.int32),
        type_ids=np.array(types, np.int32) if second else None,
        labels=labels,
        truncated=truncated,
        lost=lost,
    )
    return LabelledRows(segments, tokenizer=tokenizer, length=length, max_segments=max_segments)


def token_rows(
    examples: Sequence[TokenExample],
    *,
    tokenizer: PairTokenizer,
    classes: Sequence[str],
    length: int,
    max_segments: int = 8,
) -> LabelledRows:
    """Pieces in the tokenizer's frame; the first of each word carries its class in token_labels int32[B, L]."""
    frame = tokenizer.frame(pair=False)
    room = length - frame.added
    _check_room(room, length)
    tokens: list[int] = []
    labels: list[int] = []
    words: list[int] = []
    sizes: list[int] = []
    truncated = lost = 0
    for number, example in enumerate(examples, 1):
        check_unicode(" ".join(example.words), example.where or f"sentence {number}")
    numbers = ClassIds(classes)
    encoded = encode_word_lists(tokenizer, [example.words for example in examples])
    for example, (ids, owners) in zip(examples, encoded, strict=True):
        truncated, lost = truncated + (len(ids) > room), lost + max(0, len(ids) - room)
        ids, owners = (cut(some, room, frame.side) for some in (ids, owners))
        firsts = [w if j == 0 or owners[j - 1] != w else -1 for j, w in enumerate(owners)]
        known = [numbers.of(tag, example.where) for tag in (example.tags or [None] * len(example.words))]
        tokens += frame.around(ids)[0]
        words += frame.spread(firsts, -1)
        labels += frame.spread([known[w] if w >= 0 else NO_LABEL for w in firsts], NO_LABEL)
        sizes.append(len(ids) + frame.added)
    segments = _Segments(
        sizes=np.array(sizes, np.int64),
        tokens=np.array(tokens, np.int32),
        token_labels=np.array(labels, np.int32),
        words=np.array(words, np.int32),
        truncated=truncated,
        lost=lost,
    )
    return LabelledRows(segments, tokenizer=tokenizer, length=length, max_segments=max_segments)


def _check_room(room: int, length: int) -> None:
    if room < 1:
        raise ValueError(f"rows of {length} leave no room beside the framing")


def _labels(example: SequenceExample | TokenExample) -> tuple[str, ...]:
    if isinstance(example, TokenExample):
        return example.tags or ()
    return () if example.label is None else (example.label,)


def _inputs(example: SequenceExample | TokenExample) -> tuple[object, ...]:
    """What has a class each."""
    return example.words if isinstance(example, TokenExample) else ((example.text, example.text_pair),)


def _nothing(tokenizer: PairTokenizer) -> int:
    """An id that no text has."""
    for name in ("eos_id", "bos_id", "unk_id"):
        try:
            return int(getattr(tokenizer, name))
        except ValueError:  # a published tokenizer says so where it has no such token
            continue
    return tokenizer.pad_id


def _check_columns(**columns: str) -> None:
    named = [column for column in columns.values() if column]
    if len(set(named)) < len(named):
        said = " and ".join(f"{name} is {column!r}" for name, column in columns.items() if column)
        raise DataError(f"one column is read twice ({said}): name another")


class _Names:
    """Reads labels as the names of classes, and says what it wrote otherwise."""

    def __init__(self) -> None:
        self._changed: list[str] = []

    def read(self, value: Any, record: Record, column: str) -> str:
        """A tidy name; DataError for what is no word or integer."""
        name = tidy(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not name:
            raise DataError(f"{record.where}: {column!r} is {value!r:.60}; a label is a word or an integer")
        if isinstance(value, str) and name != value:
            self._changed.append(f"{record.where}: {value!r}")
        return name

    def report(self) -> None:
        """A line on the error stream where there is something to say."""
        if self._changed:
            print(
                f"{len(self._changed):,} labels are read without the white space around them and in composed form (NFC): "
                f"{a_few(self._changed, 2)}",
                file=sys.stderr,
                flush=True,
            )


def _text(record: Record, column: str) -> str:
    value = required(record, column)
    if not isinstance(value, str):
        raise DataError(f"{record.where}: {column!r} is {type(value).__name__}, not a text")
    return value


def _list(record: Record, column: str) -> list[Any]:
    value = required(record, column)
    if not isinstance(value, list) or not value:
        raise DataError(f"{record.where}: {column!r} should be a list of words, found {value!r:.60}")
    return value
