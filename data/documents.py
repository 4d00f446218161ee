"""A tokenised corpus on disk with random access: what packing and objectives read."""

import contextlib
import functools
import hashlib
import json
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data.files import LARGEST_JSON, NO_ARRAY, check_regular, writing
from data.json_objects import read_object
from data.partial import partial_folder
from data.seals import check_files, check_seal, file_digests, sealed

FORMAT = 1
_CONTENT = "content"
_META = "meta.json"
_ARRAYS = ("tokens", "offsets", "hashes")


def text_hash(text: str) -> int:
    """64-bit hash of a text up to case, Unicode form and white space: equal means the same document."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hashlib.blake2b(normal.encode(), digest_size=8).digest(), "big")


def hash_fraction(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers in [0, 1): splits compare these with a fraction, so duplicates stay together."""
    return (np.asarray(hashes, np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _digest(tokens: "hashlib._Hash", lengths: "hashlib._Hash") -> str:
    return hashlib.sha256(tokens.digest() + lengths.digest()).hexdigest()


class Documents:
    """Token sequences without special ids, by number; `documents[i]` copies one out of a memory map."""

    def __init__(
        self,
        *,
        tokens: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        hashes: np.ndarray,
        meta: Mapping[str, Any],
        content: str = "",
    ):
        """`content`: what the property of that name gives, where it is known."""
        self.tokens = tokens
        self.starts = starts
        self.lengths = lengths
        self.hashes = hashes
        self.meta = dict(meta)
        self._content = content
        self._splits: dict[float, tuple[Documents, Documents]] = {}

    @classmethod
    def from_tokens(
        cls, documents: Sequence[Sequence[int]], hashes: Sequence[int] | None = None
    ) -> "Documents":
        """A corpus in memory; without text at hand the hash is that of the tokens."""
        arrays = [np.asarray(d, np.int32) for d in documents]
        lengths = np.array([len(a) for a in arrays], np.int64)
        if hashes is None:
            hashes = [
                int.from_bytes(hashlib.blake2b(a.tobytes(), digest_size=8).digest(), "big") for a in arrays
            ]
        return cls(
            tokens=np.concatenate([np.zeros(0, np.int32), *arrays]),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            hashes=np.array(hashes, np.uint64),
            meta={"documents": len(arrays), "tokens": int(lengths.sum())},
        )

    @classmethod
    def load(cls, directory: str | Path) -> "Documents":
        """Open a corpus written by `DocumentsWriter`.

        Raises:
          FileNotFoundError, ValueError: it is not one, of another format, or damaged; the message names the file.
        """
        directory = Path(directory)
        meta = _read_meta(directory)
        # Hashed while it was written: a large corpus takes long to read.
        content = str(meta.pop(_CONTENT)) if _CONTENT in meta else ""
        tokens, offsets, hashes = (_read_array(directory / f"{name}.npy") for name in _ARRAYS)
        if len(offsets) and int(offsets[-1]) != len(tokens):
            raise ValueError(
                f"{directory} holds {len(tokens)} tokens, its offsets end at {int(offsets[-1])}: "
                "prepare it again"
            )
        lengths = np.diff(offsets)
        if not len(offsets) or offsets[0] != 0 or (lengths < 0).any():
            raise ValueError(
                f"{directory / 'offsets.npy'} is damaged: it does not divide the {len(tokens)} tokens: prepare it again"
            )
        if len(hashes) != len(lengths):
            raise ValueError(
                f"{directory / 'hashes.npy'} is damaged: {len(hashes)} for {len(lengths)} documents: prepare it again"
            )
        if "files" in meta:
            # Whatever lies beside the arrays, such as a tokenizer, was there when they were moved to their place.
            digests = meta.pop("files")
            named = set(digests) if isinstance(digests, dict) else set()
            check_files(directory, digests, {f"{name}.npy" for name in _ARRAYS} | named)
        else:
            print(f"{directory} was prepared without hashes: its files are not checked", file=sys.stderr)
        return cls(
            tokens=tokens,
            starts=offsets[:-1],
            lengths=lengths,
            hashes=hashes,
            meta={**meta, "directory": str(directory)},
            content=content,
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        """Tokens int32 of one document."""
        start = int(self.starts[index])
        return self.tokens[start : start + int(self.lengths[index])].astype(np.int32)

    @property
    def directory(self) -> Path | None:
        """Where the corpus is; None for one in memory."""
        return Path(self.meta["directory"]) if "directory" in self.meta else None

    @property
    def digest(self) -> str:
        """Of all documents in their order: another corpus has another one."""
        return hashlib.blake2b(np.ascontiguousarray(self.hashes).data, digest_size=8).hexdigest()

    @functools.cached_property
    def content(self) -> str:
        """SHA-256 of all tokens and the lengths of the documents, in their order."""
        if self._content:
            return self._content
        tokens, lengths = hashlib.sha256(), hashlib.sha256(np.ascontiguousarray(self.lengths, np.int64).data)
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            tokens.update(self.tokens[start : start + length].tobytes())
        return _digest(tokens, lengths)

    def hash(self, index: int) -> int:
        """Hash of the normalised text: equal hashes are the same document."""
        return int(self.hashes[index])

    def select(self, indices: np.ndarray) -> "Documents":
        """A view of some documents, in the order given."""
        meta = {**self.meta, "documents": len(indices), "tokens": int(self.lengths[indices].sum())}
        return Documents(
            tokens=self.tokens,
            starts=self.starts[indices],
            lengths=self.lengths[indices],
            hashes=self.hashes[indices],
            meta=meta,
        )

    def split(self, held_out: float) -> tuple["Documents", "Documents"]:
        """(training, held-out) views by hash: duplicates never stand on both sides."""
        if not 0.0 < held_out < 1.0:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        if held_out not in self._splits:
            held = hash_fraction(self.hashes) < held_out
            if not held.any() or held.all():
                raise ValueError(
                    f"holding out {held_out} of {len(self)} documents leaves one side empty "
                    f"({int(held.sum())} held out): choose another fraction, or part the texts (a blank line ends a "
                    "document of a .txt file, with --data.end line every line does; a record of a .jsonl file is one)"
                )
            self._splits[held_out] = self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))
        return self._splits[held_out]


def _read_meta(directory: Path) -> dict[str, Any]:
    missing = [
        name for name in (_META, *(f"{name}.npy" for name in _ARRAYS)) if not (directory / name).exists()
    ]
    if missing:
        raise FileNotFoundError(
            f"{directory} is no prepared corpus ({', '.join(missing)} missing): prepare it again"
        )
    path = directory / _META
    meta = check_seal(path, read_object(path, LARGEST_JSON))
    lacking = [name for name in ("format", "documents", "tokens") if name not in meta]
    if lacking:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}: prepare it again")
    if meta["format"] != FORMAT:
        raise ValueError(
            f"{directory} has format {meta['format']}, this code reads {FORMAT}: prepare it again"
        )
    return meta


def _read_array(path: Path) -> np.ndarray:
    """A memory map of one axis of integers; a plain view: indexing np.memmap itself costs several times more per access."""
    try:
        check_regular(path)
        array: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)
    except NO_ARRAY as error:
        raise ValueError(f"{path} is damaged: {error}: prepare it again") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{path} is damaged: it holds {array.dtype}{list(array.shape)}: prepare it again")
    return array


class DocumentsWriter:
    """Writes a corpus chunk by chunk beside its place, and moves it there once complete."""

    def __init__(self, directory: str | Path):
        self._final = Path(directory)
        self._stack = contextlib.ExitStack()
        self._lengths: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._dtype = np.dtype(np.uint16)
        self._data_start = 0
        self._total = 0
        self._hashed_tokens, self._hashed_lengths = hashlib.sha256(), hashlib.sha256()

    def __enter__(self) -> "DocumentsWriter":
        self._partial = self._stack.enter_context(partial_folder(self._final))
        self._stack.enter_context(writing(self._final))
        self._file = open(self._partial / "tokens.npy", "wb")
        self._stack.callback(self._close)
        return self

    def _close(self) -> None:
        # What could not be written cannot be flushed either.
        with contextlib.suppress(OSError):
            self._file.close()

    def _write_header(self, count: int) -> int:
        # NumPy pads headers so that the first axis can grow in place.
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (count,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def add(self, tokens: np.ndarray, lengths: np.ndarray, hashes: np.ndarray) -> None:
        """Append documents: their tokens end to end (the first chunk's dtype holds), lengths and hashes."""
        if not self._lengths:
            self._dtype = tokens.dtype
            self._data_start = self._write_header(0)
        elif tokens.dtype != self._dtype:
            raise TypeError(f"tokens are {tokens.dtype}, those before were {self._dtype}")
        written = np.ascontiguousarray(tokens).tobytes()
        self._file.write(written)
        self._lengths.append(np.asarray(lengths, np.int64))
        self._hashed_tokens.update(written)
        self._hashed_lengths.update(np.ascontiguousarray(self._lengths[-1]).data)
        self._hashes.append(np.asarray(hashes, np.uint64))
        self._total += len(tokens)

    def finish(self, meta: Mapping[str, Any]) -> Documents:
        """Close the files, move the directory to its place and open it."""
        if self._write_header(self._total) != self._data_start:
            raise RuntimeError("the header of tokens.npy outgrew its place")
        self._file.close()
        lengths = np.concatenate([np.zeros(1, np.int64), *self._lengths])
        np.save(self._partial / "offsets.npy", np.cumsum(lengths))
        np.save(self._partial / "hashes.npy", np.concatenate([np.zeros(0, np.uint64), *self._hashes]))
        files = file_digests(self._partial, sorted(path.name for path in self._partial.iterdir()))
        full = {
            "format": FORMAT,
            "documents": len(lengths) - 1,
            "tokens": self._total,
            _CONTENT: _digest(self._hashed_tokens, self._hashed_lengths),
            **meta,
            "files": files,
        }
        (self._partial / _META).write_text(json.dumps(sealed(full), indent=1) + "\n")
        os.replace(self._partial, self._final)
        return Documents.load(self._final)

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return sum(map(len, self._lengths))

    @property
    def partial(self) -> Path:
        """Where the files are until `finish`: further files may be put beside them."""
        return self._partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
