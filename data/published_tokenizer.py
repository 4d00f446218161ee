"""Tokenizers of published checkpoints: WordPiece, byte-level BPE and Unigram, by the `tokenizers` library.

They give the ids that they give in the library they come from, also for special tokens that are written in a text. The
interface is that of `data.tokenizer`.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer, processors

from data.charsmap import charsmaps, check_charsmap
from data.frame import TEMPLATES, Frame, FramingName, Side

T = TypeVar("T")

FORMAT = "handoff published tokenizer 1"
FORMAT_2 = "handoff published tokenizer 2"
"""With settings that tokenizer.json cannot hold, which readers of the first format would pass over."""
_NO_LENGTH = 1e9
"""A model_max_length from here on (10^30 is written mostly) says that there is none."""
SETTINGS = ("split_special_tokens", "truncation_side", "framing")
ROLES = ("unk", "cls", "sep", "mask", "pad", "bos", "eos")
SPACE = "\u2581"
_BYTE_SPACE = "\u0120"
"""How the byte alphabet of GPT-2 writes a space."""


class PublishedTokenizer:
    """A tokenizer of the `tokenizers` library, with the roles of its special tokens."""

    def __init__(self, content: Mapping[str, Any]):
        """What a file of it holds.

        Args:
          content: {"format", "tokenizer": tokenizer.json, "roles": {role: token}, "config": tokenizer_config.json}, and
            where they are not the usual ones the SETTINGS: "split_special_tokens": true (special tokens written in a text
            are ordinary characters), "truncation_side": "left" and, of one trained here, the name of its "framing".
        """
        self._content = dict(content)
        if any(name in content for name in SETTINGS):
            self._content["format"] = FORMAT_2
        self._tokenizer = built(content["tokenizer"])
        self._tokenizer.encode_special_tokens = "split_special_tokens" in content
        # Rows are cut and filled by whoever makes them.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def from_bytes(cls, text: bytes) -> "PublishedTokenizer":
        """What `save` wrote."""
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") not in (FORMAT, FORMAT_2):
            raise ValueError(f"this is no tokenizer file of the format {FORMAT!r} or {FORMAT_2!r}")
        return cls(content)

    @property
    def config(self) -> Mapping[str, Any]:
        """The published tokenizer_config.json, or what stands for it."""
        config: Mapping[str, Any] = self._content["config"]
        return config

    @property
    def roles(self) -> Mapping[str, str]:
        """Special tokens by their roles."""
        roles: Mapping[str, str] = self._content["roles"]
        return roles

    def with_pad(self, token: str) -> "PublishedTokenizer":
        """The same with this token, one that it has, as what fills a row."""
        return PublishedTokenizer({**self._content, "roles": {**self.roles, "pad": token}})

    @property
    def truncation_side(self) -> Side:
        """Where texts lose what does not fit a row."""
        return "left" if "truncation_side" in self._content else "right"

    @property
    def longest(self) -> int | None:
        """Tokens at which the published settings cut texts; None where they say nothing, or a number that means it."""
        for key in ("model_max_length", "max_len"):
            said = self.config[key] if key in self.config else None
            if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said < _NO_LENGTH:
                return int(said)
        return None

    def with_framing(self, name: FramingName) -> "PublishedTokenizer":
        """The same with this around texts, if it was trained here; what a published one puts around texts stays."""
        if "framing" not in self._content or self._content["framing"] == name:
            return self
        made = built(self._content["tokenizer"])
        made.post_processor = template(made, self.roles, *TEMPLATES[name])
        # Only this: the library does not write every number as it read it.
        changed = {**self._content["tokenizer"], "post_processor": as_json(made)["post_processor"]}
        return PublishedTokenizer({**self._content, "tokenizer": changed, "framing": name})

    def _id(self, role: str) -> int:
        if role not in self.roles:
            raise ValueError(f"this tokenizer has no {role} token, only {dict(self.roles)}")
        found = self._tokenizer.token_to_id(self.roles[role])
        if found is None:
            raise ValueError(f"the {role} token {self.roles[role]!r} is not in the vocabulary")
        return int(found)

    @property
    def pad_id(self) -> int:
        """What fills a row; any id will do where there is none, since padding is never seen."""
        return self._id("pad") if "pad" in self.roles else 0

    @property
    def unk_id(self) -> int:
        """Unknown; ValueError where there is none (bytes)."""
        return self._id("unk")

    @property
    def cls_id(self) -> int:
        """Begins a text of a masked model."""
        return self._id("cls")

    @property
    def sep_id(self) -> int:
        """Ends a text of a masked model."""
        return self._id("sep")

    @property
    def mask_id(self) -> int:
        """Stands for a masked token."""
        return self._id("mask")

    @property
    def bos_id(self) -> int:
        """Begins a document of a causal model."""
        return self._id("bos")

    @property
    def eos_id(self) -> int:
        """Ends a document of a causal model."""
        return self._id("eos")

    @functools.cached_property
    def first_ordinary_id(self) -> int:
        """The lowest id above the special ones that stand at the beginning of the vocabulary."""
        special = {self._tokenizer.token_to_id(token) for token in self.roles.values()}
        low = [i for i in special if i is not None and i < max(self.vocab_size // 2, len(special))]
        return max(low) + 1 if low else 0

    @functools.cached_property
    def vocab_size(self) -> int:
        """Number of ids: one more than the highest."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the ids."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    @functools.cached_property
    def _pieces(self) -> list[str]:
        pieces = [""] * self.vocab_size
        for piece, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            pieces[i] = piece
        return pieces

    @functools.cached_property
    def _special_ids(self) -> set[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {i for i, token in added.items() if token.special}

    @functools.cached_property
    def kind(self) -> str:
        """How words are written: "wordpiece", "bytes" or "metaspace"."""
        if self._content["tokenizer"]["model"]["type"] == "WordPiece":
            return "wordpiece"
        text = json.dumps([self._content["tokenizer"][key] for key in ("pre_tokenizer", "decoder")])
        return "bytes" if '"ByteLevel"' in text else "metaspace"

    @property
    def word_starts(self) -> np.ndarray:
        """Whether an id opens a word, bool [vocab_size]."""
        return np.array([self._opens(i, piece) for i, piece in enumerate(self._pieces)])

    def _opens(self, i: int, piece: str) -> bool:
        if i in self._special_ids:
            return False
        if self.kind == "wordpiece":
            prefix = self._content["tokenizer"]["model"]["continuing_subword_prefix"]
            return not piece.startswith(prefix)
        return piece.startswith(_BYTE_SPACE if self.kind == "bytes" else SPACE)

    @property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of the text that an id stands for, int32 [vocab_size]; special ids stand for none.

        WordPiece does not keep spaces: each piece that opens a word is counted with one before it, so punctuation that
        touches a word counts one too many.
        """
        return np.array([self._bytes(i, piece) for i, piece in enumerate(self._pieces)], np.int32)

    def _bytes(self, i: int, piece: str) -> int:
        if i in self._special_ids:
            return 0
        if self.kind == "bytes":
            return len(piece)  # one character of the alphabet is one byte
        if self.kind == "metaspace":
            is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
            return 1 if is_byte else len(piece.replace(SPACE, " ").encode())
        prefix = self._content["tokenizer"]["model"]["continuing_subword_prefix"]
        return len(piece.removeprefix(prefix).encode()) + self._opens(i, piece)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special ids added."""
        ids: list[int] = self.encode_batch([text])[0]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        found = of_library(lambda: self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
        return [encoding.ids for encoding in found]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids and the index of each id's word, each word as if a space stood before it; every word has at least one id."""
        before = " " if self.kind == "bytes" else ""
        # A word of invisible characters has no id, and would lose its label.
        pieces = [ids or [self.unk_id] for ids in self.encode_batch([before + word for word in words])]
        return [i for ids in pieces for i in ids], [w for w, ids in enumerate(pieces) for _ in ids]

    def frame(self, pair: bool) -> Frame:
        """What its own template puts around one text, or two."""
        framed = of_library(
            lambda: self._tokenizer.encode("a", "a" if pair else None, add_special_tokens=True)
        )
        places = framed.sequence_ids
        texts = [place for place in places if place is not None]
        if pair and set(texts) != {0, 1} or not pair and set(texts) != {0}:
            raise ValueError(f"the template of this tokenizer puts texts {texts} into a row")
        first = [i for i, place in enumerate(places) if place == 0]
        second = [i for i, place in enumerate(places) if place == 1] or [len(places)]
        ids, types = framed.ids, framed.type_ids
        parts = (
            range(first[0]),
            first,
            range(first[-1] + 1, second[0]) if pair else range(0),
            second if pair else (),
            range(second[-1] + 1, len(ids)) if pair else range(first[-1] + 1, len(ids)),
        )
        before, _, between, _, after = (tuple(ids[i] for i in part) for part in parts)
        kinds: Any = tuple(_one_or_all([types[i] for i in part]) for part in parts)
        return Frame(before, between, after, kinds, self.truncation_side)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids vanish."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def piece(self, token: int) -> str:
        """How one id is written, for people."""
        return self._pieces[int(token)]

    def _text(self) -> str:
        return json.dumps(self._content, ensure_ascii=False, sort_keys=True)

    def save(self, path: str | Path) -> None:
        """Write one file that `data.tokenizer.load_tokenizer` reads back."""
        Path(path).write_text(self._text(), encoding="utf-8")

    def publish(self, folder: Path, *, types: bool, longest: int) -> None:
        """Write the files that the library it comes from expects.

        Args:
          folder: where to.
          types: whether the model takes token_type_ids.
          longest: tokens at which texts are cut, as `model_max_length`.
        """
        tokens = {f"{role}_token": token for role, token in self.roles.items()}
        defaults = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        }
        config = {**defaults, **self.config, **tokens, "model_max_length": longest}
        # Of a run of an older version the settings of the origin were not followed.
        if self.truncation_side == "left" or "truncation_side" in config:
            config["truncation_side"] = self.truncation_side
        if "split_special_tokens" in self._content or "split_special_tokens" in config:
            config["split_special_tokens"] = "split_special_tokens" in self._content
        for name, value in (
            ("tokenizer.json", self._content["tokenizer"]),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", tokens),
        ):
            (folder / name).write_text(
                json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
            )
        if self.kind == "wordpiece":
            (folder / "vocab.txt").write_text("\n".join(self._pieces) + "\n", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        return self._content

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__init__(content)  # type: ignore[misc]


def _one_or_all(types: Sequence[int]) -> int | tuple[int, ...]:
    """The type of all tokens of a part of a frame, or of each where they differ."""
    return (types[0] if types else 0) if len(set(types)) < 2 else tuple(types)


def template(made: Tokenizer, roles: Mapping[str, str], single: str, pair: str) -> Any:
    """A template of the library, of one in roles: {cls} stands for the token of that role."""
    used = dict.fromkeys(token for role, token in roles.items() if f"{{{role}}}" in single + pair)
    return processors.TemplateProcessing(
        single=single.format(**roles).split(" "),
        pair=pair.format(**roles).split(" "),
        special_tokens=[(token, made.token_to_id(token)) for token in used],
    )


def as_json(made: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json of the library's object."""
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def built(tokenizer: Mapping[str, Any]) -> Tokenizer:
    """The library's object of a tokenizer.json; ValueError where it is none."""
    for charsmap in charsmaps(tokenizer["normalizer"] if "normalizer" in tokenizer else None):
        check_charsmap(charsmap)
    return of_library(lambda: Tokenizer.from_str(json.dumps(tokenizer)))


def of_library(make: Callable[[], T]) -> T:
    """What the `tokenizers` library makes; ValueError where it cannot."""
    try:
        return make()
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"this is no tokenizer of the tokenizers library: {error}") from error
    except BaseException as error:  # what Rust panics over is no Exception, and its class cannot be imported
        raise _of_panic(error) from None


def _of_panic(error: BaseException) -> BaseException:
    """A ValueError where the library has found something impossible; anything else as it is."""
    if type(error).__name__ != "PanicException":
        return error
    return ValueError(f"this tokenizer is damaged: the tokenizers library stopped at {error}")
