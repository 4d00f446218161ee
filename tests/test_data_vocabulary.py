"""A vocabulary trained here reads texts here as wherever it is published, and frames them as its run did."""

import json
import pickle
import unicodedata

import numpy as np
import pytest
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers

from data.frame import Frame, cut, shorten
from data.sentencepiece_files import TOKENS
from data.tokenizer import load_tokenizer, train_sentencepiece
from data.tokenizer_files import published_tokenizer

ODD = (
    "caf\u00e9 na\u00efve \u00c9t\u00e9",
    "\ud55c\uad6d\uc5b4 \uac01",
    "\uff76\uff9e\uff77\uff9e \u30ab\u30bf",
    "\u0130stanbul \u0131i",
    "q\u0307\u0323 a\u0323\u0307 o\u0302\u0301",
    "\u0958 \u2adc \u1e9b\u0323",
    "\ufb01ne \u00bd \u2460",
    "\u00df \u1e9e \u03a3\u03c2",
    "\u0627\u0644\u0633\u0644\u0627\u0645",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd",
    "nbsp\u00a0thin\u2009wide\u3000\u2028line\u0085",
    "nul\u0000 bell\u0007 \ufeff\ufffd",
    "\u2581lower \u2581",
    "a [MASK] b[SEP][CLS] <s>x</s><pad> <unk>",
    "<0x41>",
    "  two  spaces\n",
    "",
)
FORMS = tuple(unicodedata.normalize(form, text) for text in ODD for form in ("NFC", "NFD"))


@pytest.fixture(
    scope="module", params=[("unigram", False), ("unigram", True), ("bpe", False), ("bpe", True)], ids=str
)
def vocabulary(request, tmp_path_factory):
    kind, fallback = request.param
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    texts = [*(text for text in ODD if text), "a plain text of words"] * 20
    return train_sentencepiece(
        texts, vocab_size=400, lowercase=kind == "bpe", path=path, model_type=kind, byte_fallback=fallback
    )


def test_it_reads_texts_as_whoever_opens_its_published_files(vocabulary, tmp_path):
    vocabulary.publish(tmp_path, types=True, longest=64)
    theirs = published_tokenizer(tmp_path, "bert")
    assert theirs.encode_batch(FORMS) == vocabulary.encode_batch(FORMS)
    assert theirs.roles == vocabulary.roles == TOKENS and theirs.frame(True) == vocabulary.frame(True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["split_special_tokens"] is True and config["model_max_length"] == 64
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast", "which takes the rest as it is"


def test_composed_and_decomposed_texts_are_one(vocabulary):
    for composed, decomposed in zip(FORMS[::2], FORMS[1::2], strict=True):
        assert vocabulary.encode(composed) == vocabulary.encode(decomposed), ascii(composed)
    korean = vocabulary.encode(ODD[1])
    assert vocabulary.decode(korean).replace(" ", "") == unicodedata.normalize("NFKC", ODD[1]).replace(
        " ", ""
    )


def test_special_tokens_written_in_a_text_are_ordinary_characters(vocabulary):
    assert not set(np.concatenate(vocabulary.encode_batch([*TOKENS.values(), ODD[13]]))) & {0, 2, 3, 4, 5, 6}


def test_what_stands_around_texts_travels_with_it(vocabulary, tmp_path):
    ids = {role: i for i, role in enumerate(TOKENS)}
    causal, ended = (vocabulary.with_framing(name) for name in ("bos_eos", "eos"))
    assert causal.frame(pair=False) == Frame((ids["bos"],), (), (ids["eos"],))
    assert causal.frame(pair=True) == Frame((ids["bos"],), (ids["eos"],), (ids["eos"],))
    assert ended.frame(pair=False) == Frame((), (), (ids["eos"],))
    causal.save(tmp_path / "tokenizer.model")
    again = load_tokenizer(tmp_path / "tokenizer.model")
    assert again.frame(pair=True) == causal.frame(pair=True) and again.fingerprint == causal.fingerprint
    assert again.fingerprint != vocabulary.fingerprint == again.with_framing("cls_sep").fingerprint
    assert pickle.loads(pickle.dumps(again)).encode_batch(FORMS) == vocabulary.encode_batch(FORMS)


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_are_cut_as_the_library_cuts_them(side):
    words = Tokenizer(models.WordLevel({"u": 0, **{str(i): i for i in range(60)}}, unk_token="u"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for room in (1, 2, 5, 8, 11, 20):
        words.enable_truncation(room, strategy="longest_first", direction=side)
        for a in range(13):
            for b in range(13):
                first, second = list(range(a)), list(range(20, 20 + b))
                pair: Encoding = words.encode(*(" ".join(map(str, part)) for part in (first, second)))
                places = np.array(pair.sequence_ids)
                ids = np.array(pair.ids, int)
                ours = tuple(list(part) for part in shorten(first, second, room, side))
                assert ours == (ids[places == 0].tolist(), ids[places == 1].tolist()), (room, a, b)
    assert list(cut([1, 2, 3], 2, side)) == ([1, 2] if side == "right" else [2, 3])
    assert list(cut([1, 2, 3], 0, side)) == []
