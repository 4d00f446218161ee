"""Text to ids and back: the small interface the other rooms see, and training a vocabulary.

Vocabularies trained here and those of published checkpoints are PublishedTokenizers (published_tokenizer.py); those that
older versions trained are SentencePiece's own files, and stay it.

It is handed strings: files of text are read in sources.py and records.py, rows are made in packing.py and labelled.py.
"""

import contextlib
import hashlib
import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import sentencepiece

from data.frame import Frame, FramingName
from data.paths import local_path
from data.published_tokenizer import PublishedTokenizer
from data.sentencepiece_files import TOKENS, normalizer, of_trained

# Fixed for every vocabulary trained here, so that objectives and checkpoints can rely on them.
PAD, UNK, CLS, SEP, MASK, BOS, EOS = range(7)
FIRST_ORDINARY = 7
# 60,000 sentences (7 MB of film reviews) train 8,192 pieces in about 12 s on 2 cores (measured); the
# vocabulary changes little beyond.
LONGEST_SENTENCE = 4192
"""Bytes; longer ones are cut for vocabulary training. A character has at most 4."""
MAX_SENTENCES = 60_000
LONG_WORD = 256
"""Characters without white space from which a word counts as unbroken text: DNA, a script without spaces, base64."""
MAX_UNBROKEN = 300_000
"""Characters of sentences with such words that a vocabulary is trained on, all in all: words repeat and are learned once
each, unbroken text does not. So many take 30 s on two cores, and ten times as many take ten times as long and more."""
_HEARTBEAT = 15.0
"""Seconds after which a training says that it still goes on."""
# SentencePiece sums floats per thread: the count is part of the result, so it is not the machine's.
_THREADS = 2
_FRAMED = "handoff framed sentencepiece 1"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Tokenizer(Protocol):
    """What a tokenizer must offer; special ids are plain attributes."""

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    bos_id: int
    eos_id: int
    first_ordinary_id: int

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the ids."""
        ...

    @property
    def word_starts(self) -> np.ndarray:
        """Whether an id opens a word, bool [vocab_size]."""
        ...

    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of the text that an id stands for, int32 [vocab_size]; special ids stand for none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special ids added."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        ...

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of a sentence already split into words, and for each id the index of its word."""
        ...

    def frame(self, pair: bool) -> Frame:
        """What a model expects around one text, or two."""
        ...

    def with_framing(self, name: FramingName) -> "Tokenizer":
        """The same with this around texts; what a published tokenizer puts around texts stays."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids vanish."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to one file that `load_tokenizer` reads back."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model whose special ids are the fixed ones of this module, as older versions trained them."""

    pad_id, unk_id, cls_id, sep_id, mask_id, bos_id, eos_id = range(7)
    first_ordinary_id = FIRST_ORDINARY

    def __init__(self, model: bytes, framing: FramingName = "cls_sep"):
        self.model = model
        """The file's bytes."""
        self.framing = framing
        """What stands around texts."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"these {len(model)} bytes are no SentencePiece model") from error
        found = [self._processor.pad_id(), self._processor.unk_id()]
        found += [self._processor.piece_to_id(piece) for piece in ("[CLS]", "[SEP]", "[MASK]")]
        found += [self._processor.bos_id(), self._processor.eos_id()]
        if found != list(range(7)):
            raise ValueError(
                "the SentencePiece model has pad, unk, [CLS], [SEP], [MASK], bos, eos at ids "
                f"{found}, not {list(range(7))}: train it with data.tokenizer.train_sentencepiece"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""
        return int(self._processor.vocab_size())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model, and of what stands around texts where that is not [CLS] and [SEP]."""
        return hashlib.sha256(self._content()).hexdigest()

    @property
    def word_starts(self) -> np.ndarray:
        """Whether an id opens a word, bool [vocab_size]: SentencePiece writes the space before it as U+2581."""
        return np.array([self.piece(i).startswith("\u2581") for i in range(self.vocab_size)])

    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of the text that an id stands for, int32 [vocab_size]; special ids stand for none.

        Over the ids of a text they add up to the bytes of its normalised form, and one for the mark before its first word,
        less the characters that the vocabulary lacks (unk_id).
        """
        return np.array([self._bytes(i) for i in range(self.vocab_size)], np.int32)

    def _bytes(self, token: int) -> int:
        model = self._processor
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            return 0
        # The mark stands for the space before a word; a byte piece is written <0x41>.
        return 1 if model.is_byte(token) else len(self.piece(token).replace("\u2581", " ").encode())

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special pieces written in the text are ordinary characters."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        ids: list[list[int]] = self._processor.encode(list(texts), num_threads=1)
        return ids

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids and the index of each id's word; every word has at least one id."""
        # A word of invisible characters normalises to nothing, and would lose its label.
        pieces = [ids or [self.unk_id] for ids in self.encode_batch(words)]
        return [i for ids in pieces for i in ids], [w for w, ids in enumerate(pieces) for _ in ids]

    def frame(self, pair: bool) -> Frame:
        """[CLS] text [SEP], or [CLS] text [SEP] text [SEP] with types 0 and 1, as BERT has it; or as `framing` says."""
        begin = {"cls_sep": (self.cls_id,), "bos_eos": (self.bos_id,), "eos": ()}[self.framing]
        end = (self.sep_id,) if self.framing == "cls_sep" else (self.eos_id,)
        second = 1 if self.framing == "cls_sep" else 0
        return Frame(begin, end, end, (0, 0, 0, second, second)) if pair else Frame(begin, (), end)

    def with_framing(self, name: FramingName) -> "SentencePieceTokenizer":
        """The same with this around texts."""
        return SentencePieceTokenizer(self.model, name)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids vanish."""
        text: str = self._processor.decode([int(i) for i in ids])
        return text

    def piece(self, token: int) -> str:
        """How one id is written, for people."""
        text: str = self._processor.id_to_piece(int(token))
        return text

    def save(self, path: str | Path) -> None:
        """Write the model file, and behind it what stands around texts where that is not [CLS] and [SEP]."""
        Path(path).write_bytes(self._content())

    def _content(self) -> bytes:
        if self.framing == "cls_sep":
            return self.model
        return json.dumps({"format": _FRAMED, "model": self.model.hex(), "framing": self.framing}).encode()

    def __getstate__(self) -> tuple[bytes, FramingName]:
        return self.model, self.framing

    def __setstate__(self, state: tuple[bytes, FramingName]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer file, with one clear error when it is not there."""
    path = local_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no tokenizer at {path}: train one with `python -m data.prepare --vocab-size`"
        )
    content = path.read_bytes()
    try:
        # No SentencePiece model begins as JSON does.
        if content[:1] != b"{":
            return SentencePieceTokenizer(content)
        return (
            _framed(content) if _FRAMED.encode() in content[:100] else PublishedTokenizer.from_bytes(content)
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no tokenizer: {error}") from error


def _framed(content: bytes) -> SentencePieceTokenizer:
    """What `SentencePieceTokenizer.save` wrote."""
    found = json.loads(content)
    if found["framing"] not in get_args(FramingName):
        raise ValueError(f"framing is {found['framing']!r}, none of {', '.join(get_args(FramingName))}")
    return SentencePieceTokenizer(bytes.fromhex(found["model"]), found["framing"])


def sample_sentences(texts: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """At most `count` sentences drawn evenly from all texts, in the order they stood (reservoir)."""
    rng = np.random.default_rng(seed)
    kept: list[tuple[int, str]] = []
    number = 0
    # Algorithm L (Li 1994): draws only as many random numbers as sentences are replaced.
    weight = 1.0
    following = -1
    for sentence in _sentences(texts):
        if number < count:
            kept.append((number, sentence))
        elif number == following:
            kept[int(rng.integers(count))] = (number, sentence)
        if number >= count - 1 and number >= following:
            weight *= float(np.exp(np.log(1.0 - rng.random()) / count))
            following = number + 1 + int(np.log(1.0 - rng.random()) / np.log1p(-weight))
        number += 1
    return [sentence for _, sentence in sorted(kept)]


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            stripped = sentence.strip()
            if len(stripped.encode()) > LONGEST_SENTENCE:
                # SentencePiece would leave it out: text without full stops, or in a script that has others.
                step = LONGEST_SENTENCE // 4
                yield from (stripped[i : i + step] for i in range(0, len(stripped), step))
            elif stripped:
                yield stripped


def _bounded(sentences: list[str], seed: int = 0) -> list[str]:
    """The sentences, of those with unbroken text only as many as the trainer gets through, drawn evenly."""
    unbroken = [
        i for i, s in enumerate(sentences) if len(s) > LONG_WORD and max(map(len, s.split())) > LONG_WORD
    ]
    total = sum(len(sentences[i]) for i in unbroken)
    if total <= MAX_UNBROKEN:
        return sentences
    drawn = np.random.default_rng(seed).permutation(unbroken)
    sizes = np.cumsum([len(sentences[i]) for i in drawn])
    left_out = set(drawn[max(1, int(np.searchsorted(sizes, MAX_UNBROKEN, "right"))) :].tolist())
    print(
        f"tokenizer: {total:,} characters of the text are in words of more than {LONG_WORD}; a vocabulary is trained on "
        f"{MAX_UNBROKEN:,} of them, drawn evenly",
        file=sys.stderr,
        flush=True,
    )
    return [sentence for i, sentence in enumerate(sentences) if i not in left_out]


@contextlib.contextmanager
def _heartbeat(what: str) -> Iterator[None]:
    """Say now and then that something long goes on."""
    ended = threading.Event()

    def beat() -> None:
        seconds = 0.0
        while not ended.wait(_HEARTBEAT):
            seconds += _HEARTBEAT
            print(f"{what}, {seconds:.0f} s so far ...", file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def train_sentencepiece(
    texts: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool,
    path: str | Path,
    model_type: Literal["unigram", "bpe"] = "unigram",
    byte_fallback: bool = False,
    max_sentences: int = MAX_SENTENCES,
) -> PublishedTokenizer:
    """Train a vocabulary on a bounded sample of the texts' sentences and write it to `path`.

    Special tokens that are written in a text are ordinary characters. The same texts give the same file. A corpus too small
    for `vocab_size` gives a smaller unigram vocabulary.
    """
    if vocab_size <= FIRST_ORDINARY + (256 if byte_fallback else 0):
        raise ValueError(f"vocab_size {vocab_size} leaves no room beside {FIRST_ORDINARY} special ids")
    sentences = _bounded(sample_sentences(texts, max_sentences))
    if not sentences:
        raise ValueError("no text to train a vocabulary on")
    started = time.monotonic()
    print(
        f"tokenizer: training {vocab_size:,} {model_type} pieces on {len(sentences):,} sentences ...",
        file=sys.stderr,
        flush=True,
    )
    model, prepared = io.BytesIO(), normalizer(lowercase)
    try:
        with _heartbeat("tokenizer: still training"):
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(prepared.normalize_str(sentence) for sentence in sentences),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                normalization_rule_name="identity",
                byte_fallback=byte_fallback,
                hard_vocab_limit=False,
                shuffle_input_sentence=False,
                num_threads=_THREADS,
                max_sentence_length=LONGEST_SENTENCE,
                minloglevel=2,
                pad_id=PAD,
                unk_id=UNK,
                bos_id=BOS,
                eos_id=EOS,
                pad_piece=TOKENS["pad"],
                unk_piece=TOKENS["unk"],
                bos_piece=TOKENS["bos"],
                eos_piece=TOKENS["eos"],
                control_symbols=[TOKENS[role] for role in ("cls", "sep", "mask")],
            )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece cannot train {vocab_size:,} {model_type} pieces "
            f"on {len(sentences):,} sentences: {error}"
        ) from error
    tokenizer = of_trained(model.getvalue(), lowercase)
    tokenizer.save(path)
    print(
        f"tokenizer: {tokenizer.vocab_size:,} pieces in {time.monotonic() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return tokenizer
