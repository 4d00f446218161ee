"""The files in which published checkpoints bring their tokenizers, in all their forms.

A vocabulary (tokenizer.json, or vocab.txt, vocab.json with merges.txt, or SentencePiece's spiece.model) and settings beside
it. A folder is read as by the class that the published library would take (published_classes.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

from data.charsmap import charsmaps
from data.json_objects import read_object
from data.paths import local_path
from data.published_classes import ALIASES, CLASSES, Vocabulary, assembled, class_name
from data.published_tokenizer import FORMAT, PublishedTokenizer, as_json, built, of_library
from data.sentencepiece_files import read_model
from data.special_tokens import ROLES, SpecialTokens, sentinels, special_tokens, tokens_listed, with_sentinels
from data.stand_ins import refuse_stand_in

_LARGEST = 200_000_000
_JSON, _CONFIG = "tokenizer.json", "tokenizer_config.json"
FILES = (_JSON, "vocab.txt", "vocab.json + merges.txt", "spiece.model")
_USUAL = {
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "bos": ("<s>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}
"""What tokens of a role are called where neither a file nor a class says it."""
_BYTES = ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer")
_READ_WITHOUT_JSON = {"vocab.txt": ("BertTokenizer",), "merges.txt": _BYTES, "spiece.model": ("T5Tokenizer",)}
"""Files of a vocabulary, and the classes that are put together from them; the first where no file names one."""
_NOT_USED = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]


def published_tokenizer(folder: str | Path, model_type: str = "") -> PublishedTokenizer:
    """The tokenizer of a published checkpoint.

    Args:
      folder: holds tokenizer.json, or vocab.txt, or vocab.json and merges.txt, or spiece.model; and, where it has them,
        tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json.
      model_type: of the model that it belongs to; decides the class where no file names one.

    Raises:
      FileNotFoundError, ValueError: there is none, it is damaged, or its class is not known here.
    """
    folder = local_path(folder)
    for file in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model"):
        if (folder / file).is_file():
            refuse_stand_in(folder / file)
    config = settings = _read(folder / _CONFIG)
    try:
        whole = _whole(folder / _JSON)
        file = _JSON if whole else _vocabulary_file(folder)
        name = _class(folder, file, config, model_type, whole)
        if whole:
            # What stands around texts is said there; their classes pass these over.
            settings = {k: v for k, v in config.items() if k not in ("add_bos_token", "add_eos_token")}
        made, special = (
            _of_class(name, folder, file, settings, whole) if name else _as_it_is(folder, settings, whole)
        )
        special.check(made)
        content = {
            "format": FORMAT,
            "tokenizer": as_json(made),
            "roles": dict(special.roles),
            "config": config,
        }
        return PublishedTokenizer({**content, **_not_in_json(config)})
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from error


def _whole(path: Path) -> dict[str, Any]:
    """tokenizer.json as the library writes it, for older files leave out what it takes for granted; empty where none is."""
    try:
        return as_json(built(_read(path))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{error} (in {path.name})") from error


def _vocabulary_file(folder: Path) -> str:
    for file in _READ_WITHOUT_JSON:
        if (folder / file).is_file():
            return file
    raise FileNotFoundError(f"{folder} has no tokenizer: none of {', '.join(FILES)}")


def _class(
    folder: Path, file: str, config: Mapping[str, Any], model_type: str, whole: Mapping[str, Any]
) -> str:
    """The class that reads this file; empty takes tokenizer.json as it is."""
    named = next(
        (c["tokenizer_class"] for c in (config, _read(folder / "config.json")) if "tokenizer_class" in c),
        None,
    )
    if named is not None and not isinstance(named, str):
        raise ValueError(f"tokenizer_class is {named!r}, which is no name")
    if whole:
        within = '"ByteLevel"' in json.dumps([whole["pre_tokenizer"], whole["decoder"]])
        return class_name(model_type, named or "", within)
    classes = _READ_WITHOUT_JSON[file]
    if named is None and file == "merges.txt" and model_type in ("roberta", "xlm-roberta", "camembert"):
        return "RobertaTokenizer"
    plain = (named or classes[0]).removesuffix("Fast")
    name = ALIASES[plain] if plain in ALIASES else plain
    if name not in classes:
        raise ValueError(
            f"{file} of a {named} needs its {_JSON}: without it those of {', '.join(classes)} can be read"
        )
    return name


def _of_class(
    name: str, folder: Path, file: str, config: Mapping[str, Any], whole: Mapping[str, Any]
) -> tuple[Tokenizer, SpecialTokens]:
    """What a published class makes of its vocabulary by its settings."""
    kind = CLASSES[name]
    special_map = _read(folder / "special_tokens_map.json")
    vocabulary, own = _VOCABULARIES[file](folder, config) if file != _JSON else (_of_json(whole), [])
    if name == "CamembertTokenizer":
        own = own or _NOT_USED
    if name == "T5Tokenizer":
        listed = tokens_listed(special_map, "additional_special_tokens")
        own = with_sentinels(config, own or listed)
    # A mask stands for the space before it, too: so says tokenizer.json, where there is one.
    spaced = ("mask",) if name == "CamembertTokenizer" or (name == "RobertaTokenizer" and not whole) else ()
    added = _read(folder / "added_tokens.json")
    special = special_tokens(config, special_map, added, whole, kind.tokens, own=own, spaced=spaced)
    return assembled(kind, name, vocabulary, config, special.roles, special.added), special


def _as_it_is(
    folder: Path, config: Mapping[str, Any], whole: Mapping[str, Any]
) -> tuple[Tokenizer, SpecialTokens]:
    """A tokenizer.json, with the tokens that the files beside it add."""
    made = built(whole)
    special_map, known = (
        _read(folder / "special_tokens_map.json"),
        {t["content"] for t in whole["added_tokens"]},
    )
    usual: dict[str, str] = {}
    if not any(f"{role}_token" in where for role in ROLES for where in (config, special_map)):
        usual = {role: name for role in ROLES for name in reversed(_USUAL[role]) if name in known}
    special = special_tokens(config, special_map, _read(folder / "added_tokens.json"), whole, usual)
    made.add_tokens(list(special.added))
    return made, special


def _not_in_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that tokenizer.json cannot hold, where they are not the usual ones."""
    split = config["split_special_tokens"] if "split_special_tokens" in config else False
    side = config["truncation_side"] if "truncation_side" in config else "right"
    if not isinstance(split, bool) or side not in ("left", "right"):
        raise ValueError(
            f"{_CONFIG}: split_special_tokens is {split!r} and truncation_side {side!r}, but they are true or false, and "
            "left or right"
        )
    return {
        **({"split_special_tokens": True} if split else {}),
        **({"truncation_side": side} if side == "left" else {}),
    }


def _read(path: Path) -> dict[str, Any]:
    """A file that need not be there."""
    return read_object(path, _LARGEST) if path.is_file() else {}


def _of_json(whole: Mapping[str, Any]) -> Vocabulary:
    """What a class takes of a tokenizer.json."""
    model = whole["model"]
    return Vocabulary(
        kind=model["type"],
        pieces=model["vocab"],
        merges=model["merges"] if "merges" in model else (),
        charsmap=next(charsmaps(whole["normalizer"]), None),
        template=built(whole).post_processor,
    )


def _wordpiece(folder: Path, config: Mapping[str, Any]) -> tuple[Vocabulary, list[Any]]:
    """vocab.txt: a piece a line."""
    path = folder / "vocab.txt"
    try:
        # Split at line feeds alone: a vocabulary may hold other characters that end lines.
        lines = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    missing = {"[UNK]", "[CLS]", "[SEP]"} - set(lines)
    if missing:
        raise ValueError(f"vocab.txt lacks {sorted(missing)}, so it is no vocabulary of BERT")
    return Vocabulary("WordPiece", {piece: i for i, piece in enumerate(lines)}), []


def _byte_level(folder: Path, config: Mapping[str, Any]) -> tuple[Vocabulary, list[Any]]:
    """vocab.json and merges.txt."""
    pieces, merges = folder / "vocab.json", folder / "merges.txt"
    if not pieces.is_file():
        raise ValueError("merges.txt is there, but no vocab.json")
    _read(pieces)
    try:
        found = of_library(lambda: models.BPE.read_file(str(pieces), str(merges)))
    except ValueError as error:
        raise ValueError(f"{pieces} and {merges}: {error}") from error
    return Vocabulary("BPE", *found), []


def _sentencepiece(folder: Path, config: Mapping[str, Any]) -> tuple[Vocabulary, list[Any]]:
    """T5's spiece.model, with its sentinels behind it, of which the first is the last."""
    path = folder / "spiece.model"
    try:
        proto = read_model(path.read_bytes())
        if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
            raise ValueError("this SentencePiece model is no Unigram: its checkpoint needs a tokenizer.json")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(sentinels(config)))]
    own = [
        AddedToken(piece.piece, normalized=False, special=piece.type == piece.CONTROL)
        for piece in proto.pieces
        if piece.type in (piece.CONTROL, piece.USER_DEFINED)
    ]
    return Vocabulary("Unigram", pieces, charsmap=proto.normalizer_spec.precompiled_charsmap or None), own


_VOCABULARIES = {"vocab.txt": _wordpiece, "merges.txt": _byte_level, "spiece.model": _sentencepiece}
