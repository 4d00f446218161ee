"""Published tokenizers give the ids, frames and files of the library they come from."""

import io
import json
import pickle

import numpy as np
import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.implementations import ByteLevelBPETokenizer

from data.frame import Frame
from data.labelled import SequenceExample, TokenExample, sequence_rows, token_rows
from data.sentencepiece_files import of_sentencepiece
from data.tokenizer import SentencePieceTokenizer, load_tokenizer
from data.tokenizer_files import published_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "##s", "##ing", "act", ",", "cafe"]
TEXTS = (
    "a film, films and acting",
    "  two  spaces, and\ta tab",
    "caf\u00e9 na\u00efve \u2014 \ufb01ne \u00bd",
    "",
    "\u65e5\u672c\u8a9e and \U0001f600",
    "x" * 300,
)


@pytest.fixture
def wordpiece(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return published_tokenizer(tmp_path, "bert")


@pytest.fixture
def bytes_of(tmp_path):
    """A small byte-level BPE: (model_type) -> tokenizer."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    trained.train_from_iterator([t for t in TEXTS] * 20, vocab_size=320, special_tokens=special)
    folder = tmp_path / "bytes"
    folder.mkdir()
    trained.save_model(str(folder))
    return lambda model_type: published_tokenizer(folder, model_type)


def test_wordpiece_from_a_vocabulary_alone(wordpiece):
    assert wordpiece.encode("A film, Films acting CAF\u00c9") == [5, 6, 10, 6, 7, 9, 8, 11]
    assert wordpiece.encode("unknown") == [wordpiece.unk_id] == [1]
    assert (wordpiece.pad_id, wordpiece.cls_id, wordpiece.sep_id, wordpiece.mask_id) == (0, 2, 3, 4)
    assert wordpiece.frame(pair=False) == Frame((2,), (), (3,))
    assert wordpiece.frame(pair=True) == Frame((2,), (3,), (3,), (0, 0, 0, 1, 1))
    assert wordpiece.encode_words(["films", "\u200b", "a,"]) == ([6, 7, 1, 5, 10], [0, 0, 1, 2, 2])
    assert wordpiece.word_starts.tolist() == [False] * 5 + [True, True, False, False, True, True, True]
    assert wordpiece.token_bytes.tolist() == [0] * 5 + [2, 5, 1, 3, 4, 2, 5]
    assert wordpiece.vocab_size == len(WORDS) and wordpiece.first_ordinary_id == 5
    with pytest.raises(ValueError, match="this tokenizer has no eos token, only"):
        wordpiece.eos_id  # noqa: B018


def test_case_is_kept_where_the_files_say_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Film"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert published_tokenizer(tmp_path).encode("Film film") == [12, 6]


def test_bytes_frame_texts_as_roberta_does_and_gpt2_not(bytes_of):
    roberta, gpt2 = bytes_of("roberta"), bytes_of("gpt2")
    begin, end = roberta.cls_id, roberta.sep_id
    assert roberta.frame(pair=True) == Frame((begin,), (end, end), (end,))
    assert gpt2.frame(pair=False) == Frame() and gpt2.frame(pair=True).added == 0
    assert gpt2.pad_id == 0, "any will do"
    for text in TEXTS:
        assert roberta.decode(roberta.encode(text)) == text
        # One character of the alphabet is a byte, so the tokens of a text add up to it.
        assert roberta.token_bytes[roberta.encode(text)].sum() == len(text.encode())
    words, owners = roberta.encode_words(["film", "film"])
    assert words[: len(words) // 2] == words[len(words) // 2 :] == roberta.encode(" film")
    assert owners == [0] * (len(words) // 2) + [1] * (len(words) // 2)


@pytest.fixture(scope="module")
def sentencepiece_model():
    rng = np.random.default_rng(0)
    words = ["film", "films", "acting", "caf\u00e9", "story", "the", "of", "naive", "and"]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(200)]
    return sentencepiece_of(
        texts, pad_id=0, unk_id=1, bos_id=5, eos_id=6, control_symbols=["[CLS]", "[SEP]", "[MASK]"]
    )


def sentencepiece_of(texts, **settings):
    """The bytes of a model as older versions trained it here, and as T5 was."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=60,
        normalization_rule_name="nmt_nfkc_cf",
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def test_a_sentencepiece_model_gives_the_same_ids(sentencepiece_model):
    ours, theirs = (
        SentencePieceTokenizer(sentencepiece_model),
        of_sentencepiece(sentencepiece_model, "cls_sep"),
    )
    for text in (*TEXTS, "The FILMS  of the caf\u00e9", " acting", "a [MASK]<s> <pad>b</s>"):
        assert theirs.encode(text) == ours.encode(text), text
    assert theirs.frame(pair=True) == ours.frame(pair=True) and theirs.frame(False) == ours.frame(False)
    roles = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
    assert [getattr(theirs, f"{r}_id") for r in roles] == [getattr(ours, f"{r}_id") for r in roles]
    np.testing.assert_array_equal(theirs.word_starts, ours.word_starts)
    np.testing.assert_array_equal(theirs.token_bytes, ours.token_bytes)
    assert theirs.decode(theirs.encode("the film")) == "the film"


def test_t5s_template_ends_texts(sentencepiece_model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model)
    tokenizer = published_tokenizer(tmp_path, "t5")
    end = tokenizer.eos_id
    assert tokenizer.frame(pair=True) == Frame((), (end,), (end,))
    (tmp_path / "spiece.model").write_bytes(b"\xff" * 9)
    with pytest.raises(ValueError, match=r"spiece\.model: these 9 bytes are no SentencePiece model"):
        published_tokenizer(tmp_path, "t5")


def test_it_travels_in_one_file(wordpiece, bytes_of, tmp_path):
    for tokenizer in (wordpiece, bytes_of("roberta")):
        tokenizer.save(tmp_path / "tokenizer.model")
        for again in (load_tokenizer(tmp_path / "tokenizer.model"), pickle.loads(pickle.dumps(tokenizer))):
            assert again.fingerprint == tokenizer.fingerprint
            assert [again.encode(t) for t in TEXTS] == tokenizer.encode_batch(TEXTS)
        out = tmp_path / f"published-{tokenizer.kind}"
        out.mkdir()
        tokenizer.publish(out, types=True, longest=99)
        again = published_tokenizer(out)
        assert again.roles == tokenizer.roles and again.frame(True) == tokenizer.frame(True)
        assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
        assert config["model_max_length"] == 99


def test_limits_of_a_file_do_not_cut_or_fill_texts(wordpiece, tmp_path):
    out = tmp_path / "limited"
    out.mkdir()
    wordpiece.publish(out, types=True, longest=99)
    settings = json.loads((out / "tokenizer.json").read_text())
    cut = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    fill = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (out / "tokenizer.json").write_text(
        json.dumps(settings | {"truncation": cut, "padding": {**fill, "pad_to_multiple_of": None}})
    )
    assert published_tokenizer(out).encode("a a a a a a") == [5] * 6
    assert published_tokenizer(out).encode_batch(["a", "a film"]) == [[5], [5, 6]]


def test_rows_are_framed_as_the_model_expects(bytes_of):
    tokenizer = bytes_of("roberta")
    begin, end = tokenizer.cls_id, tokenizer.sep_id
    pair = SequenceExample(text="a film", text_pair="acting", label="x")
    rows = sequence_rows([pair], tokenizer=tokenizer, classes=("x", "y"), length=40)
    batch = rows.take([0])
    first, second = tokenizer.encode("a film"), tokenizer.encode("acting")
    expected = [begin, *first, end, end, *second, end]
    assert batch["tokens"][0, : len(expected)].tolist() == expected
    assert not batch["type_ids"].any()
    words = token_rows(
        [TokenExample(words=("a", "film"), tags=("x", "y"))],
        tokenizer=tokenizer,
        classes=("x", "y"),
        length=40,
    ).take([0])
    ids, owners = tokenizer.encode_words(["a", "film"])
    assert words["tokens"][0, : len(ids) + 2].tolist() == [begin, *ids, end]
    labelled = [-1, *(w if w not in owners[:j] else -1 for j, w in enumerate(owners)), -1]
    assert words["token_labels"][0, : len(ids) + 2].tolist() == labelled


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        published_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=f"{tmp_path}: this is no tokenizer of the tokenizers library"):
        published_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        published_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"lacks \['\[CLS\]', '\[SEP\]', '\[UNK\]'\]"):
        published_tokenizer(tmp_path)


def test_a_vocabulary_may_hold_other_line_ends(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS[:5], "\u2028", "film"]) + "\n", encoding="utf-8")
    assert published_tokenizer(tmp_path).encode("film") == [6]


def test_words_are_read_as_after_a_space_also_where_bytes_come_second(tmp_path):
    """Qwen and Llama 3 split by a pattern before they take bytes."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(sorted(letters))}, []))
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = published_tokenizer(tmp_path)
    for word in ("don't", "2024", "film"):
        ids, owners = tokenizer.encode_words([word])
        assert ids == tokenizer.encode(" " + word) and set(owners) == {0}
        assert tokenizer.decode(ids) == " " + word


def test_files_of_older_versions_that_leave_types_out(wordpiece, tmp_path):
    out = tmp_path / "old"
    out.mkdir()
    wordpiece.publish(out, types=True, longest=99)
    settings = json.loads((out / "tokenizer.json").read_text())
    del settings["model"]["type"]
    (out / "tokenizer.json").write_text(json.dumps(settings))
    old = published_tokenizer(out)
    assert old.kind == "wordpiece"
    np.testing.assert_array_equal(old.word_starts, wordpiece.word_starts)


def test_tokenizers_that_cannot_be_assembled_are_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "BertJapaneseTokenizer"}))
    with pytest.raises(ValueError, match="vocab.txt of a BertJapaneseTokenizer needs its tokenizer.json"):
        published_tokenizer(tmp_path)
    settings.write_text(json.dumps({"do_lower_case": "yes"}))
    with pytest.raises(ValueError, match="do_lower_case is 'yes', neither true nor false"):
        published_tokenizer(tmp_path)
    settings.write_text(json.dumps({"cls_token": {"x": 1}}))
    with pytest.raises(ValueError, match="cls_token is .*, which is no token"):
        published_tokenizer(tmp_path)
    settings.unlink()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 12, "<newer>": 13}))
    assert published_tokenizer(tmp_path).encode("film <newer>") == [6, 13]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 40}))
    with pytest.raises(ValueError, match="gives '<new>' the id 40, but it is 12"):
        published_tokenizer(tmp_path)


def test_a_mask_takes_the_space_before_it(bytes_of):
    roberta = bytes_of("roberta")
    assert roberta.encode("a <mask> film") == [
        *roberta.encode("a"),
        roberta.mask_id,
        *roberta.encode(" film"),
    ]


def test_t5s_sentinels_stand_behind_its_vocabulary_the_first_last(sentencepiece_model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model)
    tokenizer = published_tokenizer(tmp_path, "t5")
    size = SentencePieceTokenizer(sentencepiece_model).vocab_size
    assert tokenizer.encode("<extra_id_0>") == [size + 99] and tokenizer.encode("<extra_id_99>") == [size]
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(
        ValueError, match="this SentencePiece model is no Unigram|has no pieces|spiece.model is empty"
    ):
        published_tokenizer(tmp_path, "t5")
