"""The files in which published checkpoints bring their tokenizers, in all their forms. Knows no models.

tokenizer.json is taken as it is; vocab.txt, vocab.json with merges.txt and SentencePiece's models become one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer

from data.published_tokenizer import FORMAT, ROLES, SPACE, PublishedTokenizer, built

FILES = ("tokenizer.json", "vocab.txt", "vocab.json + merges.txt", "spiece.model")
_USUAL = {
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "bos": ("<s>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}
"""What tokens of a role are called where no file says it."""


def published_tokenizer(folder: str | Path, model_type: str = "") -> PublishedTokenizer:
    """The tokenizer of a published checkpoint.

    Args:
      folder: holds tokenizer.json, or vocab.txt, or vocab.json and merges.txt, or spiece.model; and, where it has them,
        tokenizer_config.json and special_tokens_map.json.
      model_type: decides the template of a byte-level BPE without tokenizer.json ("roberta" frames, "gpt2" does not).

    Raises:
      FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    folder = Path(folder)
    config = _read(folder / "tokenizer_config.json")
    named = {**_read(folder / "special_tokens_map.json"), **config}
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        tokenizer = _wordpiece(folder / "vocab.txt", config)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _byte_level(folder, framed=model_type == "roberta")
    elif (folder / "spiece.model").is_file():
        tokenizer = from_sentencepiece((folder / "spiece.model").read_bytes(), ends=True)
    else:
        raise FileNotFoundError(f"{folder} has no tokenizer: none of {', '.join(FILES)}")
    content = {"format": FORMAT, "tokenizer": tokenizer, "roles": _roles(tokenizer, named), "config": config}
    try:
        return PublishedTokenizer(content)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def _roles(tokenizer: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by role: as the files say, else by their usual names among the added tokens."""
    added = tokenizer["added_tokens"] if "added_tokens" in tokenizer else []
    known = {token["content"] for token in added}
    roles: dict[str, str] = {}
    for role in ROLES:
        token = named[f"{role}_token"] if f"{role}_token" in named else None
        if isinstance(token, dict):
            token = token["content"]
        if token is None and not any(f"{r}_token" in named for r in ROLES):
            token = next((name for name in _USUAL[role] if name in known), None)
        if token is not None:
            roles[role] = token
    return roles


def _wordpiece(vocab: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """As BERT's own tokenizer reads vocab.txt: folding case unless the configuration says otherwise."""
    lines = vocab.read_text(encoding="utf-8").splitlines()
    lowercase = config["do_lower_case"] if "do_lower_case" in config else True
    accents = config["strip_accents"] if "strip_accents" in config else None
    missing = {"[UNK]", "[CLS]", "[SEP]"} - set(lines)
    if missing:
        raise ValueError(f"{vocab} lacks {sorted(missing)}, so it is no vocabulary of BERT")
    made = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(lines)}, lowercase=lowercase, strip_accents=accents
    )
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def _byte_level(folder: Path, framed: bool) -> dict[str, Any]:
    """GPT-2's vocabulary, or RoBERTa's, which has a template."""
    made = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    if framed:
        ids = {token: made.token_to_id(token) for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>")}
        if None in ids.values():
            raise ValueError(f"{folder / 'vocab.json'} lacks {[t for t, i in ids.items() if i is None]}")
        made.add_special_tokens(list(ids))
        made.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    elif made.token_to_id("<|endoftext|>") is not None:
        made.add_special_tokens(["<|endoftext|>"])
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def from_sentencepiece(model: bytes, ends: bool) -> dict[str, Any]:
    """The tokenizer.json of a Unigram model of SentencePiece.

    Args:
      model: the file's bytes.
      ends: whether texts end with its end token, as T5's do; else it has no template.

    Raises:
      ValueError: it is no model of SentencePiece, or a BPE, whose merges the file does not hold.
    """
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise ValueError(f"these {len(model)} bytes are no SentencePiece model") from error
    spec, trained = proto.normalizer_spec, proto.trainer_spec
    if trained.model_type != trained.UNIGRAM:
        raise ValueError("this SentencePiece model is no Unigram: its checkpoint needs a tokenizer.json")
    unigram = models.Unigram(
        [(piece.piece, piece.score) for piece in proto.pieces], trained.unk_id, trained.byte_fallback
    )
    made = Tokenizer(unigram)
    steps: list[Any] = (
        [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    )
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    special = [p.piece for p in proto.pieces if p.type in (p.CONTROL, p.UNKNOWN)]
    made.add_special_tokens(special)
    if ends:
        end = proto.pieces[trained.eos_id].piece
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, trained.eos_id)]
        )
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def of_sentencepiece(model: bytes, framed: bool) -> PublishedTokenizer:
    """A vocabulary trained here (data.tokenizer.train_sentencepiece), for whoever reads tokenizer.json.

    Args:
      model: the file's bytes.
      framed: whether texts stand between [CLS] and [SEP], as masked models read them.
    """
    tokenizer = from_sentencepiece(model, ends=False)
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    roles = {role: next(name for name in _USUAL[role] if name in ids) for role in ROLES}
    if framed:
        made = built(tokenizer)
        begin, end = roles["cls"], roles["sep"]
        made.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} $B:1 {end}:1",
            special_tokens=[(token, ids[token]) for token in (begin, end)],
        )
        tokenizer = json.loads(made.to_str())
    return PublishedTokenizer({"format": FORMAT, "tokenizer": tokenizer, "roles": roles, "config": {}})
