"""Folders of small tokenizers with settings of all kinds, and what the published library makes of them.

`python -m tests.golden.tokenizers` writes tokenizers.json anew, with transformers 5.24. All words are invented.
"""

import json
import sys
import tempfile
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2
from tokenizers import pre_tokenizers

RECORDED = Path(__file__).with_name("tokenizers.json")
TEXTS = (
    "Film caf\u00e9 caf\u0065\u0301 FILM",
    "a\u4e2db \u4e2d",
    "\u0130x \u00df \ufb01 \uff76\uff9e",
    "a [MASK] film[SEP]<s> <mask> b</s>",
    " two  spaces\tand\na line\r\n",
    "\U0001f468\u200d\U0001f469 \u00a0x\u0000\u200b",
    "film<new> NEW newword",
    "<extra_id_0> a <extra_id_1>\nb",
    "<|endoftext|>a",
    "",
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = (
    "film",
    "Film",
    "cafe",
    "caf\u00e9",
    "caf",
    "##e",
    "##\u00e9",
    "a",
    "b",
    "##b",
    "a\u4e2db",
    "\u4e2d",
    "x",
    "two",
    "new",
)
WORDPIECE = {piece: i for i, piece in enumerate((*_SPECIAL, *_PIECES, "[", "]", "mask", "<", ">", "s"))}
_ENDS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
_MERGES = ("f i", "fi l", "fil m", "\u0120 film", "\u0120 a")
BYTES = {
    piece: i
    for i, piece in enumerate(
        (*_ENDS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in _MERGES))
    )
}
_CHARACTERS = "\u2581abcdefilmnostwx<>"


def _added(content: str, number: int, **changes: bool) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags, **changes}


def _json(model: dict[str, object], added: list[dict[str, object]], **parts: object) -> dict[str, object]:
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", **empty, "added_tokens": added, "model": model, **parts}


def _bert(lowercase: bool, tokens: tuple[str, ...] = _SPECIAL) -> dict[str, object]:
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    rules = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lowercase}
    return _json(
        {**model, "vocab": WORDPIECE},
        [_added(token, WORDPIECE[token]) for token in tokens],
        normalizer={"type": "BertNormalizer", **rules},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def _bytes(*tokens: dict[str, object]) -> dict[str, object]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    names = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    model = {"type": "BPE", **dict.fromkeys(names), "fuse_unk": False, "byte_fallback": False, "vocab": BYTES}
    return _json({**model, "merges": list(_MERGES)}, [*tokens], pre_tokenizer=level, decoder=level)


def _unigram(special: tuple[str, ...], unk: int) -> dict[str, object]:
    pieces = [[piece, 0.0] for piece in special]
    pieces += [["\u2581film", -3.0], *([letter, -5.0 - i / 10] for i, letter in enumerate(_CHARACTERS))]
    model = {"type": "Unigram", "unk_id": unk, "vocab": pieces, "byte_fallback": False}
    return _json(model, [_added(piece, i) for i, piece in enumerate(special)])


def _spiece() -> bytes:
    """A Unigram with a line break that its maker asked for."""
    proto = sentencepiece_model_pb2.ModelProto()
    kinds = proto.SentencePiece
    known = [
        ("<pad>", kinds.CONTROL),
        ("</s>", kinds.CONTROL),
        ("<unk>", kinds.UNKNOWN),
        ("\n", kinds.USER_DEFINED),
    ]
    for piece, kind in known:
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for i, letter in enumerate(("\u2581film", *_CHARACTERS)):
        proto.pieces.add(piece=letter, score=-3.0 - i / 10, type=kinds.NORMAL)
    proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
    proto.trainer_spec.unk_id, proto.trainer_spec.eos_id, proto.trainer_spec.pad_id = 2, 1, 0
    proto.trainer_spec.bos_id = -1
    found: bytes = proto.SerializeToString()
    return found


_NEW = {
    str(len(WORDPIECE)): {
        k: v for k, v in _added("<new>", 0, normalized=True, special=False).items() if k != "id"
    }
}
_T5 = ("<pad>", "</s>", "<unk>")
_ROBERTA = [_added(token, BYTES[token], lstrip=token == "<mask>") for token in _ENDS[:5]]
FOLDERS: dict[str, tuple[str, dict[str, object]]] = {
    # name: (model_type, {file: content})
    **{
        f"bert lower={lower} accents={accents} chinese={chinese}": (
            "bert",
            {
                "tokenizer.json": _bert(not lower),
                "tokenizer_config.json": {
                    "do_lower_case": lower,
                    "strip_accents": accents,
                    "tokenize_chinese_chars": chinese,
                },
            },
        )
        for lower in (True, False)
        for accents in (True, False, None)
        for chinese in (True, False)
    },
    "bert, no settings": ("bert", {"tokenizer.json": _bert(False)}),
    "bert, as it is": (
        "bert",
        {
            "tokenizer.json": _bert(False),
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"},
        },
    ),
    "bert, class of config.json": (
        "bert",
        {"tokenizer.json": _bert(False), "config.json": {"tokenizer_class": "BertTokenizerFast"}},
    ),
    "electra": (
        "electra",
        {
            "tokenizer.json": _bert(True),
            "tokenizer_config.json": {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False},
        },
    ),
    **{
        f"bert {key}": ("bert", {"tokenizer.json": _bert(True), "tokenizer_config.json": {key: value}})
        for key, value in {
            "additional_special_tokens": ["<new>", "NEW"],
            "extra_special_tokens": ["<new>"],
            "image_token": "<new>",
            "added_tokens_decoder": _NEW,
            "split_special_tokens": True,
            "mask_token": None,
        }.items()
    },
    "bert, listed elsewhere": (
        "bert",
        {"tokenizer.json": _bert(True), "special_tokens_map.json": {"additional_special_tokens": ["NEW"]}},
    ),
    "bert, a mask that takes the space": (
        "bert",
        {
            "tokenizer.json": _bert(True, _SPECIAL[:4]),
            "special_tokens_map.json": {
                "mask_token": {
                    k: v for k, v in _added("[MASK]", 0, lstrip=True).items() if k not in ("id", "special")
                }
            },
        },
    ),
    "bert added_tokens.json": (
        "bert",
        {
            "tokenizer.json": _bert(True),
            "added_tokens.json": {"<new>": len(WORDPIECE), "NEW": len(WORDPIECE) + 1},
        },
    ),
    "modernbert": (
        "modernbert",
        {"tokenizer.json": _bert(True), "tokenizer_config.json": {"do_lower_case": False}},
    ),
    **{
        f"{kind} prefix={prefix}": (
            kind,
            {"tokenizer.json": _bytes(*tokens), "tokenizer_config.json": {"add_prefix_space": prefix}},
        )
        for kind, tokens in (
            ("roberta", _ROBERTA),
            ("gpt2", [_added("<|endoftext|>", BYTES["<|endoftext|>"])]),
            ("qwen2", [_added("<|endoftext|>", BYTES["<|endoftext|>"])]),
        )
        for prefix in (True, False)
    },
    "gpt2 from its vocabulary": (
        "gpt2",
        {
            "vocab.json": BYTES,
            "merges.txt": "#version: 0.2\n" + "\n".join(_MERGES) + "\n",
            "tokenizer_config.json": {"add_prefix_space": True, "add_bos_token": True},
        },
    ),
    "t5 without sentinels": ("t5", {"tokenizer.json": _unigram(_T5, 2)}),
    "t5 with three": (
        "t5",
        {"tokenizer.json": _unigram(_T5, 2), "tokenizer_config.json": {"extra_ids": 3}},
    ),
    "t5 from spiece.model": ("t5", {"spiece.model": _spiece()}),
    **{
        f"{kind} prefix={prefix}": (
            kind,
            {
                "tokenizer.json": _unigram(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), 3),
                "tokenizer_config.json": {"add_prefix_space": prefix},
            },
        )
        for kind in ("xlm-roberta", "camembert")
        for prefix in (True, False)
    },
}


def put(folder: Path, name: str) -> str:
    """Write the files of a folder; returns its model_type."""
    model_type, files = FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    described = {"model_type": model_type, **files.get("config.json", {})}  # type: ignore[dict-item]
    for file, content in ({**files, "config.json": described}).items():
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / file).write_text(text, encoding="utf-8")
    return model_type


def main() -> None:
    """Ask the published library."""
    from transformers import AutoTokenizer

    recorded = {}
    for name in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            put(Path(folder), name)
            theirs = AutoTokenizer.from_pretrained(folder)
            pair = theirs("a", "b", return_token_type_ids=True)
            recorded[name] = {
                "ids": [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
                "pair": [pair["input_ids"], pair["token_type_ids"]],
            }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in recorded.items())
    RECORDED.write_text(f"{{\n{lines}\n}}\n")
    print(f"{len(recorded)} folders", file=sys.stderr)


if __name__ == "__main__":
    main()
