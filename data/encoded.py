"""Ids of many texts, kept under the cache: whatever reads the same texts with the same tokenizer again finds them there.

Texts are found one by one, by a digest of their content, so that a part of a data set or a mixture of several is found too.
"""

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data.files import NO_ARRAY
from data.packages import cache_dir

FORMAT = 1
KEPT_FROM = 4096
"""Smaller inputs pass the store by: they take a second at most, and the 2,048 lines at a time that `finetune.predict` reads
would fill it with what nobody asks for again."""
Columns = tuple[list[int], ...]
"""What is known of one text: its ids, and for words whose they are."""


class TextTokenizer(Protocol):
    """What is needed of a tokenizer here."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        ...

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of a sentence in words, and for each id the index of its word."""
        ...


def encode_texts(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text: those of `encode_batch`."""
    if len(texts) < KEPT_FROM:
        return tokenizer.encode_batch(texts)

    def encode(numbers: list[int]) -> list[Columns]:
        return [(ids,) for ids in tokenizer.encode_batch([texts[i] for i in numbers])]

    contents = [text.encode("utf-8", "surrogatepass") for text in texts]
    return [ids for (ids,) in _from_store(tokenizer, "texts", contents, 1, encode)]


def encode_word_lists(
    tokenizer: TextTokenizer, word_lists: Sequence[Sequence[str]]
) -> list[tuple[list[int], list[int]]]:
    """For each list of words its ids, and for each id the index of its word: those of `encode_words`."""
    if len(word_lists) < KEPT_FROM:
        return [tokenizer.encode_words(words) for words in word_lists]

    def encode(numbers: list[int]) -> list[Columns]:
        return [tokenizer.encode_words(word_lists[i]) for i in numbers]

    contents = [json.dumps(list(words)).encode() for words in word_lists]
    return [(ids, owners) for ids, owners in _from_store(tokenizer, "words", contents, 2, encode)]


def _from_store(
    tokenizer: TextTokenizer,
    kind: str,
    contents: Sequence[bytes],
    columns: int,
    encode: Callable[[list[int]], list[Columns]],
) -> list[Columns]:
    """What the store knows of these texts, after encoding and keeping what it does not.

    Args:
      tokenizer: its fingerprint names the part of the store.
      kind: of encoding; names that part, too.
      contents: each text, as bytes.
      columns: how many lists of numbers there are for each text.
      encode: gives those of the texts with these numbers.
    """
    about = f"{FORMAT} {kind} {tokenizer.fingerprint}"
    folder = cache_dir() / "encoded" / hashlib.sha256(about.encode()).hexdigest()[:16]
    digests = [hashlib.blake2b(content, digest_size=16).digest() for content in contents]
    wanted, known = set(digests), dict[bytes, Columns]()
    for file in sorted(folder.glob("*.npz")):
        try:
            known |= _read(file, about, columns, wanted)
        except NO_ARRAY as error:
            print(f"{file} is damaged or not ours ({error}): encoding it again", file=sys.stderr, flush=True)
            file.unlink(missing_ok=True)
    # Each text once, by the number of its first copy.
    missing = {digest: i for i, digest in reversed(list(enumerate(digests))) if digest not in known}
    if missing:
        numbers = sorted(missing.values())
        print(f"tokenising {len(numbers):,} texts ...", file=sys.stderr, flush=True)
        new = dict(zip([digests[i] for i in numbers], encode(numbers), strict=True))
        if len(new) >= KEPT_FROM:
            _write(folder, about, columns, new)
        known |= new
    return [known[digest] for digest in digests]


def _read(file: Path, about: str, columns: int, wanted: set[bytes]) -> dict[bytes, Columns]:
    """Those of a file that are wanted. NumPy checks the sums of what it reads from a .npz."""
    with np.load(file) as arrays:
        if str(arrays["about"]) != about:
            raise ValueError(f"it is about {arrays['about']}, not {about}")
        digests, ends = arrays["digests"], np.cumsum(arrays["lengths"], dtype=np.int64)
        if digests.shape != (len(ends), 16):
            raise ValueError(f"{len(ends)} texts, but digests of shape {digests.shape}")
        flat = digests.tobytes()
        keys = [flat[i : i + 16] for i in range(0, len(flat), 16)]
        chosen = [i for i, key in enumerate(keys) if key in wanted]
        if not chosen:
            return {}
        values = [arrays[f"column_{number}"] for number in range(columns)]
    total = int(ends[-1])
    if any(value.shape != (total,) for value in values):
        raise ValueError(f"{total} numbers were written, {[len(value) for value in values]} are there")
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return {
        keys[i]: tuple(value[start:end].tolist() for value in values)
        for i, start, end in zip(chosen, starts[chosen].tolist(), ends[chosen].tolist(), strict=True)
    }


def _write(folder: Path, about: str, columns: int, encoded: dict[bytes, Columns]) -> None:
    """One more file; a process that writes the same texts at the same time writes the same file."""
    digests = b"".join(encoded)
    total = sum(len(lists[0]) for lists in encoded.values())
    arrays = {
        "about": np.array(about),
        "digests": np.frombuffer(digests, np.uint8).reshape(-1, 16),
        "lengths": np.array([len(lists[0]) for lists in encoded.values()], np.int64),
    }
    for number in range(columns):
        numbers = (value for lists in encoded.values() for value in lists[number])
        arrays[f"column_{number}"] = np.fromiter(numbers, np.int32, total)
    file = folder / f"{hashlib.sha256(digests).hexdigest()[:16]}.npz"
    partial = folder / f"{file.stem}.partial-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        os.replace(partial, file)
    except OSError as error:
        print(f"cannot keep {file} ({error}): texts are tokenised every time", file=sys.stderr, flush=True)
        if partial.is_file():
            partial.unlink()
