"""Documents into rows of one length, best fit: an index of slices, materialised when a row is read.

Legend: B rows, L length, G segments per row.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from data.array_store import Arrays, open_or_compute
from data.documents import Documents
from data.row_index import ZEROS, Batch, RowIndex, group_by_row, ragged_arange

FORMAT = 1
"""Of the index of a corpus: goes up whenever the code below would lay out other rows."""
FramingName = Literal["cls_sep", "bos_eos"]
# What packing promises where documents are long enough for max_segments of them to fill a row.
MIN_REAL_SHARE = 0.99
# Shortest slice worth cutting off a document to fill a gap: a guess.
MIN_PIECE = 16


class SpecialIds(Protocol):
    """The special ids that framing needs; every tokenizer has them."""

    pad_id: int
    cls_id: int
    sep_id: int
    bos_id: int
    eos_id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """Which ids stand around the tokens of a document."""

    begin: int
    """Id before the first token."""
    end: int
    """Id after the last token."""
    pad: int
    """Id that fills a row up."""
    every_piece: bool
    """Frame each piece of a long document; otherwise only the document's own beginning and end."""

    @classmethod
    def named(cls, name: FramingName, ids: SpecialIds) -> "Framing":
        """`cls_sep` frames every piece (masked models), `bos_eos` whole documents (causal models)."""
        if name == "cls_sep":
            return cls(begin=ids.cls_id, end=ids.sep_id, pad=ids.pad_id, every_piece=True)
        if name == "bos_eos":
            return cls(begin=ids.bos_id, end=ids.eos_id, pad=ids.pad_id, every_piece=False)
        raise ValueError(f"framing is cls_sep or bos_eos, got {name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """Slices of documents, one per future segment: parallel arrays."""

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    begins: np.ndarray
    """Whether the begin id stands before the slice."""
    ends: np.ndarray
    """Whether the end id stands after the slice."""

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each piece in its row, framing included."""
        return self.end - self.start + self.begins + self.ends


def cut(lengths: np.ndarray, length: int, framing: Framing) -> Pieces:
    """Cut documents into pieces that fit a row of `length`, framing included; no token is lost."""
    if length < 3:
        raise ValueError(f"rows of {length} leave no room beside the framing")
    lengths = np.asarray(lengths, np.int64)
    document = np.flatnonzero(lengths)
    full = lengths[document]
    room = length - 2 if framing.every_piece else length
    counts = -(-full // room) if framing.every_piece else -(-(full + 2) // room)
    owner = np.repeat(np.arange(len(document)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    if framing.every_piece:
        start, end = number * room, np.minimum((number + 1) * room, full[owner])
    else:
        # The begin id takes one place of the first piece; the end id never stands alone in the last.
        start = np.minimum(np.maximum(number * room - 1, 0), full[owner] - 1)
        end = np.where(
            number == counts[owner] - 1, full[owner], np.minimum((number + 1) * room - 1, full[owner] - 1)
        )
    begins = np.ones(len(owner), np.int64) if framing.every_piece else (start == 0).astype(np.int64)
    ends = np.ones(len(owner), np.int64) if framing.every_piece else (end == full[owner]).astype(np.int64)
    return Pieces(document=document[owner], start=start, end=end, begins=begins, ends=ends)


def best_fit(sizes: np.ndarray, length: int, max_segments: int) -> np.ndarray:
    """Best-fit decreasing, a whole class of equal sizes at a time.

    Args:
      sizes: int[n], each between 1 and `length`.
      length: room of a row.
      max_segments: most pieces in one row.

    Returns:
      Row of each piece, int[n]; rows are numbered from 0 without holes.
    """
    sizes = np.asarray(sizes, np.int64)
    if max_segments < 1:
        raise ValueError(f"max_segments must be at least 1, got {max_segments}")
    if len(sizes) and not (1 <= sizes.min() and sizes.max() <= length):
        raise ValueError(f"sizes lie between {sizes.min()} and {sizes.max()}, a row holds 1 to {length}")
    order = np.argsort(-sizes, kind="stable")
    row_of = np.empty(len(sizes), np.int64)
    # Open rows by (room left, segments in it): rows of one class are interchangeable.
    open_rows: dict[int, dict[int, list[np.ndarray]]] = {}
    counts_in_order = np.bincount(sizes, minlength=length + 1)
    done, rows = 0, 0
    for size in range(length, 0, -1):
        remaining = int(counts_in_order[size])
        while remaining:
            room, held, ids = _tightest_fit(open_rows, size, length)
            if ids is None:
                room, held, per_row = length, 0, min(length // size, max_segments)
                ids = np.arange(rows, rows + -(-remaining // per_row))
                rows += len(ids)
            per_row = min(room // size, max_segments - held)
            used, rest = divmod(remaining, per_row)
            fills = [(ids[:used], per_row)]
            if used < len(ids) and rest:
                fills.append((ids[used : used + 1], rest))
            for some, each in fills:
                pieces = len(some) * each
                row_of[order[done : done + pieces]] = np.repeat(some, each)
                done, remaining = done + pieces, remaining - pieces
                _put(open_rows, room - size * each, held + each, some, max_segments)
            _put(open_rows, room, held, ids[sum(len(some) for some, _ in fills) :], max_segments)
    return row_of


def _tightest_fit(
    open_rows: dict[int, dict[int, list[np.ndarray]]], size: int, length: int
) -> tuple[int, int, np.ndarray | None]:
    """Take out the open rows with the least room that fits `size`; among them those with fewest segments."""
    for room in range(size, length):
        if classes := open_rows.get(room):
            held = min(classes)
            ids = np.concatenate(classes.pop(held))
            return room, held, ids
    return 0, 0, None


def _put(
    open_rows: dict[int, dict[int, list[np.ndarray]]],
    room: int,
    held: int,
    ids: np.ndarray,
    max_segments: int,
) -> None:
    if len(ids) and room > 0 and held < max_segments:
        open_rows.setdefault(room, {}).setdefault(held, []).append(ids)


_Piece = tuple[int, int, int, int, int]  # document, start, end, begins, ends


def fill_gaps(
    pieces: Pieces, row_of: np.ndarray, *, length: int, max_segments: int, framing: Framing
) -> tuple[Pieces, np.ndarray]:
    """Cut further pieces into the gaps of other rows until `MIN_REAL_SHARE` is reached or no gap takes more.

    A whole document is worth more than a full row: no more are cut than needed, those of the emptiest rows.
    """
    filled = np.bincount(row_of, weights=pieces.sizes).astype(np.int64)
    members: list[list[_Piece]] = [[] for _ in filled]
    columns = (pieces.document, pieces.start, pieces.end, pieces.begins, pieces.ends)
    for row, piece in zip(row_of.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True):
        members[row].append(piece)
    total, rows = int(filled.sum()), len(filled)
    emptiest = [int(row) for row in np.argsort(filled, kind="stable") if length - filled[row] >= MIN_PIECE]
    giver = 0
    while giver < len(emptiest) - 1 and total < MIN_REAL_SHARE * length * rows:
        given = members[emptiest[giver]]
        while given and giver < len(emptiest) - 1:
            taken = members[emptiest[-1]]
            room = length - sum(map(_size, taken)) if len(taken) < max_segments else 0
            slices = _cut_for(given[-1], room, framing)
            if slices is None:
                emptiest.pop()
                continue
            taken.append(slices[0])
            given[-1:] = slices[1:]
            total += sum(map(_size, slices)) - _size(
                (*slices[0][:2], slices[-1][2], slices[0][3], slices[-1][4])
            )
        rows -= not given
        giver += 1
    kept = [m for m in members if m]
    flat = np.array([piece for m in kept for piece in m], np.int64).reshape(-1, 5).T
    named = dict(zip(("document", "start", "end", "begins", "ends"), flat, strict=True))
    return Pieces(**named), np.repeat(np.arange(len(kept)), [len(m) for m in kept])


def _size(piece: _Piece) -> int:
    return piece[2] - piece[1] + piece[3] + piece[4]


def _cut_for(piece: _Piece, room: int, framing: Framing) -> list[_Piece] | None:
    """The piece whole if it fits, else a slice that fits and the rest; None where that would be too short."""
    document, start, end, begins, ends = piece
    if _size(piece) <= room:
        return [piece]
    inner_end = 1 if framing.every_piece else 0
    middle = min(start + room - begins - inner_end, end - MIN_PIECE)
    if middle - start < MIN_PIECE:
        return None
    later_begin = 1 if framing.every_piece else 0
    return [(document, start, middle, begins, inner_end), (document, middle, end, later_begin, ends)]


def pack(lengths: np.ndarray, *, length: int, framing: Framing, max_segments: int) -> Arrays:
    """The index of packed rows, in the smallest types that hold it.

    Args:
      lengths: tokens of each document, int[n].
      length: L.
      framing: whether each piece is framed, or only whole documents.
      max_segments: most pieces in one row.

    Returns:
      Pieces by row: document, start (its first token there), size (framing included), begins and ends (whether the begin
      and the end id stand around it), each [pieces]; and first, int64[rows + 1]: row r holds the pieces from first[r] to
      first[r + 1].
    """
    pieces = cut(lengths, length, framing)
    row_of = best_fit(pieces.sizes, length, max_segments)
    if pieces.sizes.sum() < MIN_REAL_SHARE * length * (row_of.max() + 1):
        pieces, row_of = fill_gaps(pieces, row_of, length=length, max_segments=max_segments, framing=framing)
    order, first = group_by_row(row_of)
    return {
        "document": _narrow(pieces.document[order]),
        "start": _narrow(pieces.start[order]),
        "size": _narrow(pieces.sizes[order]),
        "begins": pieces.begins[order].astype(np.int8),
        "ends": pieces.ends[order].astype(np.int8),
        "first": first,
    }


def _narrow(values: np.ndarray) -> np.ndarray:
    """int32 where that is enough."""
    return values.astype(np.int32 if values.max() < 2**31 else np.int64)


INDEX_ARRAYS = ("document", "start", "size", "begins", "ends", "first")


def packed_index(docs: Documents, *, length: int, framing: Framing, max_segments: int) -> Arrays:
    """What `pack` gives for a corpus; for one on disk it is kept beside it and opened as memory maps."""

    def compute() -> Arrays:
        return pack(docs.lengths, length=length, framing=framing, max_segments=max_segments)

    if docs.directory is None:
        return compute()
    tokens = int(docs.lengths.sum())
    about = {
        "format": FORMAT,
        "documents": len(docs),
        "tokens": tokens,
        # All that rows depend on of the documents that were chosen from the corpus.
        "lengths": hashlib.blake2b(
            np.ascontiguousarray(docs.lengths, np.int64).data, digest_size=16
        ).hexdigest(),
        "length": length,
        "max_segments": max_segments,
        "every_piece_framed": framing.every_piece,
    }

    def compute_with_notice() -> Arrays:
        print(f"packing {len(docs):,} documents into rows of {length} ...", file=sys.stderr, flush=True)
        return compute()

    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = docs.directory / f"packed-{key}"
    return open_or_compute(
        folder, about, INDEX_ARRAYS, compute_with_notice, lambda arrays: _check_index(arrays, tokens)
    )


def _check_index(arrays: Arrays, tokens: int) -> None:
    """Raise ValueError if the arrays do not fit each other, or do not hold all tokens of the corpus."""
    first, pieces = arrays["first"], len(arrays["document"])
    lengths = {name: array.shape for name, array in arrays.items() if name != "first"}
    if set(lengths.values()) != {(pieces,)} or not len(first) or (first[0], first[-1]) != (0, pieces):
        raise ValueError(f"its arrays have the shapes {lengths}, its rows end at piece {first[-1:].tolist()}")
    framing = int(arrays["begins"].sum(dtype=np.int64) + arrays["ends"].sum(dtype=np.int64))
    held = int(arrays["size"].sum(dtype=np.int64)) - framing
    if held != tokens:
        raise ValueError(f"it holds {held:,} tokens, the corpus {tokens:,}")


class PackedRows:
    """Rows of one length over a corpus; reading one touches only its own documents."""

    fill = ZEROS

    def __init__(self, docs: Documents, *, length: int, framing: Framing, max_segments: int = 8):
        if not len(docs) or not docs.lengths.any():
            raise ValueError("the corpus is empty: there is nothing to pack")
        self.docs = docs
        self.framing = framing
        self._pieces = packed_index(docs, length=length, framing=framing, max_segments=max_segments)
        self.index = RowIndex(self._pieces["size"], self._pieces["first"], length=length)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def real_share(self) -> float:
        """Share of positions that hold a token."""
        return self.index.real_share

    def __getitem__(self, index: int) -> Batch:
        """One row: arrays of shape [L]."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {name: array[0] for name, array in self.take([index]).items()}

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Rows `number % len(self)` as tokens, segment_ids, positions int32[B, L]."""
        laid = self.index.place(numbers)
        batch = laid.rows(self.framing.pad)
        tokens = batch["tokens"].reshape(-1)
        document, start, begins, ends = (
            self._pieces[name][laid.piece].astype(np.int64)
            for name in ("document", "start", "begins", "ends")
        )
        counts = laid.sizes - begins - ends
        source = ragged_arange(self.docs.starts[document] + start, counts)
        tokens[ragged_arange(laid.start + begins, counts)] = self.docs.tokens[source]
        tokens[laid.start[begins > 0]] = self.framing.begin
        tokens[(laid.start + laid.sizes - 1)[ends > 0]] = self.framing.end
        return batch

    def report(self) -> str:
        """One line for the log."""
        return (
            f"packed {len(self.docs):,} documents into {len(self):,} rows of {self.index.length}: "
            f"{self.real_share:.2%} real tokens, {self.index.segments:,} segments"
        )
