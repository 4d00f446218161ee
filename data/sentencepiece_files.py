"""Models of SentencePiece, as files of the `tokenizers` library.

A vocabulary trained here is one of these from its first day: SentencePiece counts and prunes its pieces, but the library's
own steps normalise, split and look up, here and wherever the vocabulary goes. SentencePiece's own rules of normalisation
cannot be written in a tokenizer.json: they take the longest match over bytes, the library's `Precompiled` one in each
grapheme.
"""

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from data.charsmap import check_charsmap
from data.frame import TEMPLATES, FramingName
from data.published_tokenizer import FORMAT_2, SPACE, PublishedTokenizer, as_json, of_library, template

TOKENS = {
    "pad": "<pad>",
    "unk": "<unk>",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
    "bos": "<s>",
    "eos": "</s>",
}
"""The special tokens of vocabularies that are trained here, by role, in the order of their ids."""
# A piece of a byte is written so.
_BYTE = "<0x[0-9A-F]{2}>"


def read_model(model: bytes) -> Any:
    """The message that the bytes of a file hold.

    Raises:
      ValueError: it is no model of SentencePiece.
    """
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise ValueError(f"these {len(model)} bytes are no SentencePiece model") from error
    if not proto.pieces:
        raise ValueError("this SentencePiece model has no pieces")
    if proto.normalizer_spec.precompiled_charsmap:
        check_charsmap(proto.normalizer_spec.precompiled_charsmap)
    return proto


def normalizer(lowercase: bool) -> Any:
    """What stands before every vocabulary trained here: one form for each character, one space between words.

    Unicode's NFKC, and before it what SentencePiece drops or reads as a space. Folding case writes two letters otherwise
    than in lower case: ß as ss, ς as σ.
    """
    fold = [normalizers.Lowercase(), normalizers.Replace("ß", "ss"), normalizers.Replace("ς", "σ")]
    spaces = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    return normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), *(fold if lowercase else []), *spaces]
    )


def of_trained(model: bytes, lowercase: bool) -> PublishedTokenizer:
    """The tokenizer of a vocabulary that SentencePiece has trained on text after `normalizer`.

    Args:
      model: the file's bytes; special tokens are TOKENS.
      lowercase: whether case is folded.
    """
    proto = read_model(model)
    trained = proto.trainer_spec
    if trained.model_type == trained.UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        made = Tokenizer(of_library(lambda: models.Unigram(pieces, trained.unk_id, trained.byte_fallback)))
    else:
        made = Tokenizer(of_library(lambda: _merging(proto)))
    made.normalizer = normalizer(lowercase)
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence([spaces, _apart([*TOKENS.values()], more=_BYTE)])
    whole = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), whole]) if trained.byte_fallback else whole
    made.add_special_tokens(list(TOKENS.values()))
    framing: FramingName = "cls_sep"
    made.post_processor = template(made, TOKENS, *TEMPLATES[framing])
    content = {"format": FORMAT_2, "tokenizer": as_json(made), "roles": TOKENS, "config": {}}
    return PublishedTokenizer({**content, "split_special_tokens": True, "framing": framing})


def _merging(proto: Any) -> models.BPE:
    """A BPE with the merges that SentencePiece makes, the best score first."""
    normal = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == p.NORMAL}
    ranked = sorted(
        (rank, piece[:i], piece[i:])
        for piece, rank in normal.items()
        for i in range(1, len(piece))
        if piece[:i] in normal and piece[i:] in normal
    )
    return models.BPE(
        vocab={piece.piece: i for i, piece in enumerate(proto.pieces)},
        merges=[(left, right) for _, left, right in ranked],
        unk_token=TOKENS["unk"],
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def of_sentencepiece(model: bytes, framing: FramingName) -> PublishedTokenizer:
    """A vocabulary that an older version trained here, for whoever reads tokenizer.json.

    Close but not the same for all texts: decomposed accents and Korean come out otherwise, as this module says.

    Args:
      model: the file's bytes.
      framing: what stands around texts.

    Raises:
      ValueError: it is no model of SentencePiece, or a BPE, whose merges the file does not hold.
    """
    proto = read_model(model)
    spec, trained = proto.normalizer_spec, proto.trainer_spec
    if trained.model_type != trained.UNIGRAM:
        raise ValueError(
            "this SentencePiece model is no Unigram, and an older version trained it: train it anew"
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    made = Tokenizer(of_library(lambda: models.Unigram(pieces, trained.unk_id, trained.byte_fallback)))
    steps: list[Any] = (
        [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    )
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    normal = [piece.piece for piece in proto.pieces if piece.type == piece.NORMAL]
    made.pre_tokenizer = pre_tokenizers.Sequence([spaces, _apart([*TOKENS.values()], pieces=normal)])
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    made.add_special_tokens(list(TOKENS.values()))
    made.post_processor = template(made, TOKENS, *TEMPLATES[framing])
    content = {"format": FORMAT_2, "tokenizer": as_json(made), "roles": TOKENS, "config": {}}
    return PublishedTokenizer({**content, "split_special_tokens": True, "framing": framing})


def _apart(tokens: Sequence[str], *, more: str = "", pieces: Sequence[str] = ()) -> Any:
    """A step that cuts special tokens that are written in a text, so that none is looked up.

    Args:
      tokens: the special tokens.
      more: a pattern of further ones.
      pieces: of the vocabulary; the cut is where none of them lies across it, and no two characters that it lacks, or else
        behind the first character.
    """
    known = set(pieces)

    def crosses(piece: str, token: str, place: int) -> bool:
        if not {token[place - 1], token[place]} & known:
            return True
        starts = (i for i in range(1, len(piece)) if piece[i - 1] == token[place - 1])
        return any(
            _meet(piece[i:], token[place:]) and _meet(piece[:i][::-1], token[:place][::-1]) for i in starts
        )

    written = [f"{more[0]}(?={more[1:]})"] if more else []
    for token in tokens:
        free = (i for i in range(1, len(token)) if not any(crosses(piece, token, i) for piece in pieces))
        place = next(free, 1)
        written.append(f"{re.escape(token[:place])}(?={re.escape(token[place:])})")
    return pre_tokenizers.Split(Regex("|".join(written)), "merged_with_previous")


def _meet(one: str, other: str) -> bool:
    """Whether one of two texts begins with the other."""
    return one.startswith(other) or other.startswith(one)
