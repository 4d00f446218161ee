"""The store of encoded texts: each text is tokenised once, whatever list it comes in, and damage is named."""

import numpy as np
import pytest

from data import encoded
from data.encoded import encode_texts, encode_word_lists


class Counting:
    """A tokenizer of one id per letter that counts what it is asked."""

    def __init__(self, fingerprint="one"):
        self.fingerprint = fingerprint
        self.asked = 0

    def encode_batch(self, texts):
        self.asked += len(texts)
        return [[ord(c) for c in text] for text in texts]

    def encode_words(self, words):
        self.asked += 1
        return [ord(c) for w in words for c in w], [i for i, w in enumerate(words) for _ in w]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path))
    monkeypatch.setattr(encoded, "KEPT_FROM", 5)
    return tmp_path / "encoded"


TEXTS = ["one", "", "two", "\u72ac \ud800", "three", "two", "four"]
WORDS = [("a", "b c"), ("a b", "c"), ("a",), ("d", "e"), ("f",), ("a",), ("g", "", "h")]


@pytest.mark.parametrize("encode, items", [(encode_texts, TEXTS), (encode_word_lists, WORDS)])
def test_what_was_encoded_once_is_read_again(encode, items, store):
    first, second, other = Counting(), Counting(), Counting("two")
    plain = first.encode_batch(items) if encode is encode_texts else [first.encode_words(w) for w in items]
    first.asked = 0
    assert encode(first, items) == plain and first.asked == 6
    # A part of them, in another order; with one that is new.
    some = [*items[:0:-1], items[2] * 3]
    assert encode(second, items) == plain and second.asked == 0
    assert encode(second, some)[:-1] == plain[:0:-1] and second.asked == 1
    # One text is not worth a file.
    assert len(list(store.glob("*/*"))) == 1
    assert encode(other, items) == plain and other.asked == 6


def test_texts_and_words_are_stored_apart(store):
    tokenizer = Counting()
    encode_texts(tokenizer, ['["a"]'] * 1 + TEXTS)
    assert encode_word_lists(tokenizer, [("a",), *WORDS])[0] == ([97], [0])
    assert len(list(store.iterdir())) == 2


def test_small_inputs_leave_nothing_behind(store):
    tokenizer = Counting()
    for start in range(0, 100, 4):
        encode_texts(tokenizer, [str(i) for i in range(start, start + 4)])
    assert tokenizer.asked == 100 and not store.exists()
    encode_texts(tokenizer, TEXTS)
    tokenizer.asked = 0
    assert encode_texts(tokenizer, TEXTS[:4]) == tokenizer.encode_batch(TEXTS[:4]) and tokenizer.asked == 8


def truncate(file):
    file.write_bytes(file.read_bytes()[:-200])


def flip(file):
    content = bytearray(file.read_bytes())
    where = content.index(np.array([ord(c) for c in "three"], np.int32).tobytes())
    content[where] ^= 1
    file.write_bytes(bytes(content))


def empty(file):
    file.write_bytes(b"")


def swap(file):
    with np.load(file) as arrays:
        kept = dict(arrays)
    np.savez(file, **{**kept, "about": np.array("another")})


def shorten(file):
    with np.load(file) as arrays:
        kept = dict(arrays)
    np.savez(file, **{**kept, "column_0": kept["column_0"][1:]})


@pytest.mark.parametrize("damage", [truncate, flip, empty, swap, shorten])
def test_a_damaged_file_is_named_and_encoded_again(store, damage, capfd):
    plain = encode_texts(Counting(), TEXTS)
    (file,) = store.glob("*/*.npz")
    damage(file)
    capfd.readouterr()
    tokenizer = Counting()
    assert encode_texts(tokenizer, TEXTS) == plain and tokenizer.asked == 6
    assert f"{file} is damaged or not ours" in capfd.readouterr().err
    assert encode_texts(tokenizer, TEXTS) == plain and tokenizer.asked == 6
    assert [file] == list(store.glob("*/*"))


def test_where_nothing_can_be_kept_texts_are_encoded_all_the_same(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "file"))
    assert encode_texts(Counting(), TEXTS) == Counting().encode_batch(TEXTS)
    assert "cannot keep" in capfd.readouterr().err
