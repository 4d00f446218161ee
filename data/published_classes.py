"""What the published tokenizer classes make of their files: which class reads a folder, and what it puts together.

A class takes the pieces of a vocabulary and decides the rest itself, by its own rules and tokenizer_config.json, also where
a tokenizer.json says otherwise. Source: transformers 5.24 (tokenization_auto.py, models/*/tokenization_*.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data.frame import TEMPLATES
from data.published_tokenizer import SPACE, of_library, template

Settings = Mapping[str, Any]
"""tokenizer_config.json."""
AS_IT_IS = ("PreTrainedTokenizer", "PythonBackend", "TokenizersBackend")
"""Classes (less their ending "Fast") that take tokenizer.json as it is."""
_REGISTERED = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "t5": "T5Tokenizer",
    "modernbert": "TokenizersBackend",
    "mistral": "TokenizersBackend",
}
"""The class of a model whose files name none."""
ALIASES = {"DistilBertTokenizer": "BertTokenizer", "ElectraTokenizer": "BertTokenizer"}
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Vocabulary(NamedTuple):
    """What a class takes from the files beside its settings."""

    kind: str
    """The model of the `tokenizers` library: "WordPiece", "BPE" or "Unigram"."""
    pieces: Any
    """{piece: id}, or of a Unigram [(piece, score)]."""
    merges: Sequence[Any] = ()
    charsmap: bytes | None = None
    """The precompiled rules of SentencePiece."""
    template: Any = None
    """The post-processor of tokenizer.json."""


class TokenizerClass(NamedTuple):
    """One published class."""

    kind: str
    """What its vocabulary must be."""
    tokens: Mapping[str, str]
    """Special tokens by role, where the files name none."""
    assemble: Callable[[Vocabulary, Settings, Mapping[str, str]], Tokenizer]
    """(vocabulary, settings, tokens by role) -> the tokenizer, before tokens are added to it."""
    template: Callable[[Tokenizer, Mapping[str, str], Settings], Any] | None = None
    """(tokenizer, tokens by role, settings) -> what stands around texts; None keeps what the file says."""


def class_name(model_type: str, named: str, bytes_within: bool) -> str:
    """The class that reads a folder, as AutoTokenizer chooses it; empty takes tokenizer.json as it is.

    Args:
      model_type: of config.json; empty where there is none.
      named: the class that tokenizer_config.json names, or config.json; empty where neither does.
      bytes_within: whether tokenizer.json is of bytes.

    Raises:
      ValueError: the class has rules that are not known here.
    """
    plain = named.removesuffix("Fast")
    registered = _REGISTERED[model_type] if model_type in _REGISTERED else ""
    if plain == "LlamaTokenizer" and bytes_within:
        return ""
    # Many folders of Qwen 2 name another class than theirs.
    chosen = registered if not plain or registered in AS_IT_IS or model_type == "qwen2" else plain
    if not chosen or chosen in AS_IT_IS:
        return ""
    chosen = ALIASES[chosen] if chosen in ALIASES else chosen
    if chosen not in CLASSES:
        raise ValueError(
            f"a {named} reads its files by rules that are not known here, only those of {', '.join(CLASSES)} are: where "
            'tokenizer.json says it all, name "PreTrainedTokenizerFast" as tokenizer_class in tokenizer_config.json'
        )
    return chosen


def flag(config: Settings, key: str, default: bool | None) -> bool | None:
    """A setting that is true, false or, for some, null."""
    value = config[key] if key in config else default
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"tokenizer_config.json: {key} is {value!r}, neither true nor false")
    return value


def _wordpiece(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    made = Tokenizer(models.WordPiece(vocabulary.pieces, unk_token=tokens["unk"]))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(flag(config, "tokenize_chinese_chars", True)),
        strip_accents=flag(config, "strip_accents", None),
        lowercase=bool(flag(config, "do_lower_case", True)),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    return made


def _byte_level(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    made = Tokenizer(_merged(vocabulary))
    prefix = bool(flag(config, "add_prefix_space", False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    return made


def _qwen2(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    made = Tokenizer(_merged(vocabulary))
    made.normalizer = normalizers.NFC()
    prefix = bool(flag(config, "add_prefix_space", False))
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    made.decoder = decoders.ByteLevel()
    return made


def _merged(vocabulary: Vocabulary) -> Any:
    return models.BPE(
        vocab=vocabulary.pieces,
        merges=_pairs(vocabulary),
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )


def _pairs(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """Merges, which older files write as one text each."""
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in vocabulary.merges]


def _llama(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    model = models.BPE(vocab=vocabulary.pieces, merges=_pairs(vocabulary), fuse_unk=True, byte_fallback=True)
    made = Tokenizer(model)
    prefix = flag(config, "add_prefix_space", None) is not False
    scheme = "never" if not prefix else "always" if flag(config, "legacy", False) else "first"
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if prefix else []))
    return made


def _unigram(vocabulary: Vocabulary, scheme: str, unk: int) -> Tokenizer:
    made = Tokenizer(models.Unigram([(piece, score) for piece, score in vocabulary.pieces], unk, False))
    if vocabulary.charsmap is not None:
        made.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    made.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return made


def _t5(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    return _unigram(vocabulary, "always", 2)


def _xlm_roberta(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    return _unigram(vocabulary, _scheme(config), 3)


def _camembert(vocabulary: Vocabulary, config: Settings, tokens: Mapping[str, str]) -> Tokenizer:
    places = [i for i, (piece, _) in enumerate(vocabulary.pieces) if piece == tokens["unk"]]
    return _unigram(vocabulary, _scheme(config), places[0] if places else 0)


def _scheme(config: Settings) -> str:
    return "always" if flag(config, "add_prefix_space", True) else "never"


def _around(single: str, pair: str) -> Callable[[Tokenizer, Mapping[str, str], Settings], Any]:
    return lambda made, roles, config: template(made, roles, single, pair)


def _roberta_ends(made: Tokenizer, tokens: Mapping[str, str], config: Settings) -> Any:
    ends = [(tokens[role], made.token_to_id(tokens[role])) for role in ("sep", "cls")]
    return processors.RobertaProcessing(
        *ends,
        trim_offsets=bool(flag(config, "trim_offsets", True)),
        add_prefix_space=bool(flag(config, "add_prefix_space", False)),
    )


_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "pad": "<pad>",
    "cls": "<s>",
    "mask": "<mask>",
}
_END = "<|endoftext|>"
CLASSES: Mapping[str, TokenizerClass] = {
    "BertTokenizer": TokenizerClass(
        "WordPiece",
        _BERT,
        _wordpiece,
        _around(*TEMPLATES["cls_sep"]),
    ),
    "RobertaTokenizer": TokenizerClass("BPE", _ROBERTA, _byte_level, _roberta_ends),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", _ROBERTA, _xlm_roberta, _around("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}")
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram", _ROBERTA, _camembert, _around("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}")
    ),
    "GPT2Tokenizer": TokenizerClass("BPE", {"bos": _END, "eos": _END, "unk": _END}, _byte_level),
    "Qwen2Tokenizer": TokenizerClass("BPE", {"eos": _END, "unk": _END, "pad": _END}, _qwen2),
    "LlamaTokenizer": TokenizerClass("BPE", {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, _llama),
    "T5Tokenizer": TokenizerClass(
        "Unigram",
        {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
        _t5,
        _around("$A {eos}", "$A {eos} $B {eos}"),
    ),
}
"""Those of the families that are read here."""


def assembled(
    kind: TokenizerClass,
    name: str,
    vocabulary: Vocabulary,
    config: Settings,
    roles: Mapping[str, str],
    added: Sequence[AddedToken],
) -> Tokenizer:
    """What a class makes of a vocabulary, with its tokens and its template.

    Raises:
      ValueError: the vocabulary is of another kind, a token of the template is missing, or the library refuses it.
    """
    if vocabulary.kind != kind.kind:
        raise ValueError(
            f"a {name} has a vocabulary of kind {kind.kind}, but this is one of kind {vocabulary.kind}"
        )
    lacking = [role for role in kind.tokens if role in ("unk", "cls", "sep", "eos") and role not in roles]
    if lacking and kind.template is not None:
        raise ValueError(f"a {name} needs a token as {lacking[0]}, but its files say that there is none")
    made = of_library(lambda: kind.assemble(vocabulary, config, roles))
    made.add_tokens(list(added))
    if kind.template is not None:
        made.post_processor = of_library(lambda: kind.template(made, roles, config))  # type: ignore[misc]
    elif vocabulary.template is not None:
        made.post_processor = vocabulary.template
    else:
        made.post_processor = of_library(lambda: _flagged_ends(made, roles, config))
    return made


def _flagged_ends(made: Tokenizer, roles: Mapping[str, str], config: Settings) -> Any:
    """What a class without a template of its own puts around texts where no file has one."""
    begin, end = (
        f"{{{role}}}" if role in roles and flag(config, f"add_{role}_token", False) else ""
        for role in ("bos", "eos")
    )
    one, other = (
        " ".join(f"{part}:{kind}" for part in (begin, text, end) if part)
        for text, kind in (("$A", 0), ("$B", 1))
    )
    return template(made, roles, one, f"{one} {other}")
