"""The files in which published checkpoints bring their tokenizers, in all their forms.

tokenizer.json is taken as it is; vocab.txt, vocab.json with merges.txt and SentencePiece's models become one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer

from data.json_objects import read_object
from data.published_tokenizer import FORMAT, ROLES, SPACE, PublishedTokenizer, built, of_library
from data.stand_ins import refuse_stand_in

_LARGEST = 200_000_000
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
    folder = Path(folder).expanduser()
    for name in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model"):
        if (folder / name).is_file():
            refuse_stand_in(folder / name)
    config = _read(folder / "tokenizer_config.json")
    named = {**_read(folder / "special_tokens_map.json"), **config}
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = _read(folder / "tokenizer.json")
        else:
            tokenizer = _assembled(folder, config, model_type)
        # As the library writes it: older files leave out what it takes for granted.
        tokenizer = _as_json(built(tokenizer))
        roles = _roles(tokenizer, named)
        return PublishedTokenizer(
            {"format": FORMAT, "tokenizer": tokenizer, "roles": roles, "config": config}
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _assembled(folder: Path, config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """A tokenizer.json from files that came before it."""
    kind = config["tokenizer_class"] if "tokenizer_class" in config else None
    for file, classes, make in (
        ("vocab.txt", ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), _wordpiece),
        ("merges.txt", ("GPT2Tokenizer", "RobertaTokenizer"), _byte_level),
        ("spiece.model", ("T5Tokenizer",), _t5),
    ):
        if (folder / file).is_file():
            if kind is not None and str(kind).removesuffix("Fast") not in classes:
                raise ValueError(
                    f"{file} of a {kind} needs its tokenizer.json: without it those of {', '.join(classes)} can be read"
                )
            tokenizer = make(folder, {"tokenizer_class": _class_of(model_type), **config})
            return _with_added(tokenizer, _read(folder / "added_tokens.json"))
    raise FileNotFoundError(f"{folder} has no tokenizer: none of {', '.join(FILES)}")


def _class_of(model_type: str) -> str:
    """The class of a byte-level tokenizer whose files do not name one."""
    return "RobertaTokenizer" if model_type in ("roberta", "xlm-roberta", "camembert") else "GPT2Tokenizer"


def _with_added(tokenizer: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """With the tokens that somebody added to the vocabulary; ValueError if they do not follow on it."""
    made = built(tokenizer)
    for token, number in sorted(added.items(), key=lambda pair: str(pair[1]).zfill(12)):
        made.add_tokens([token])
        if made.token_to_id(token) != number:
            raise ValueError(
                f"added_tokens.json gives {token!r} the id {number}, but it is {made.token_to_id(token)}"
            )
    return _as_json(made)


def _as_json(made: Any) -> dict[str, Any]:
    """The tokenizer.json of the library's object."""
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def _read(path: Path) -> dict[str, Any]:
    """A file that need not be there."""
    return read_object(path, _LARGEST) if path.is_file() else {}


def _roles(tokenizer: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by role: as the files say, else by their usual names among the added tokens."""
    known = {token["content"] for token in tokenizer["added_tokens"]}
    said = {role: _text(named, f"{role}_token") for role in ROLES}
    if not any(said.values()):
        said = {role: next((name for name in _USUAL[role] if name in known), "") for role in ROLES}
    return {role: token for role, token in said.items() if token}


def _text(named: Mapping[str, Any], key: str) -> str:
    """A special token, which files write as text or as an object."""
    token = named[key] if key in named else None
    if isinstance(token, dict) and "content" in token:
        token = token["content"]
    if token is not None and not isinstance(token, str):
        raise ValueError(f"{key} is {token!r}, which is no token")
    return token or ""


def _flag(config: Mapping[str, Any], key: str, default: bool | None) -> bool | None:
    """A setting that is true, false or, for some, null."""
    value = config[key] if key in config else default
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"tokenizer_config.json: {key} is {value!r}, neither true nor false")
    return value


def _wordpiece(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """As BERT's own tokenizer reads vocab.txt: folding case unless the configuration says otherwise."""
    # Split at line feeds alone: a vocabulary may hold other characters that end lines.
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    missing = {"[UNK]", "[CLS]", "[SEP]"} - set(lines)
    if missing:
        raise ValueError(f"vocab.txt lacks {sorted(missing)}, so it is no vocabulary of BERT")
    made = BertWordPieceTokenizer(
        {piece: i for i, piece in enumerate(lines)},
        lowercase=bool(_flag(config, "do_lower_case", True)),
        strip_accents=_flag(config, "strip_accents", None),
        handle_chinese_chars=bool(_flag(config, "tokenize_chinese_chars", True)),
    )
    return _as_json(made)


def _byte_level(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2's vocabulary, or RoBERTa's, which has a template."""
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    if not Path(files[0]).is_file():
        raise ValueError("merges.txt is there, but no vocab.json")
    prefix = bool(_flag(config, "add_prefix_space", False))
    made = of_library(lambda: ByteLevelBPETokenizer(*files, add_prefix_space=prefix))
    if str(config["tokenizer_class"]).startswith("Roberta"):
        ids = {token: made.token_to_id(token) for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>")}
        if None in ids.values():
            raise ValueError(f"vocab.json lacks {[token for token, i in ids.items() if i is None]}")
        # A mask stands for the space before it, too.
        plain = [token for token in ids if token != "<mask>"]
        made.add_special_tokens([*plain, AddedToken("<mask>", lstrip=True, special=True)])
        ends = ("</s>", ids["</s>"]), ("<s>", ids["<s>"])
        made.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=prefix)
    elif made.token_to_id("<|endoftext|>") is not None:
        made.add_special_tokens(["<|endoftext|>"])
    return _as_json(made)


def _t5(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """T5's vocabulary with its sentinels behind it, of which the first is the last."""
    tokenizer = from_sentencepiece((folder / "spiece.model").read_bytes(), ends=True)
    count = config["extra_ids"] if "extra_ids" in config else 100
    if not isinstance(count, int) or not 0 <= count <= 10_000:
        raise ValueError(f"tokenizer_config.json: extra_ids is {count!r}, which is no number of sentinels")
    made = built(tokenizer)
    made.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(count))])
    return _as_json(made)


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
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    if not vocabulary:
        raise ValueError("this SentencePiece model has no pieces")
    unigram = of_library(lambda: models.Unigram(vocabulary, trained.unk_id, trained.byte_fallback))
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
    return _as_json(made)


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
        tokenizer = _as_json(made)
    return PublishedTokenizer({"format": FORMAT, "tokenizer": tokenizer, "roles": roles, "config": {}})
