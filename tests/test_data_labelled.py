"""Labelled rows: labels stand where they belong, and predictions find their way back."""

import numpy as np
import pytest

from data.frame import Frame
from data.labelled import (
    SequenceExample,
    TokenExample,
    class_names,
    sequence_examples,
    sequence_rows,
    subset,
    token_examples,
    token_rows,
)
from data.records import DataError, Record


class Letters:
    """A tokenizer of one id per letter; word_pieces show as repeated word indices."""

    pad_id, cls_id, sep_id = 0, 2, 3

    def frame(self, pair):
        ends = (self.sep_id,)
        return Frame((self.cls_id,), ends if pair else (), ends, (0, 0, 0, 1, 1) if pair else (0,) * 5)

    def encode_batch(self, texts):
        return [[ord(c) for c in text if c != " "] for text in texts]

    def encode_words(self, words):
        return [ord(c) for w in words for c in w], [i for i, w in enumerate(words) for _ in w]


def sequences(count=50, seed=0):
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 12))) for _ in range(count)]
    return [SequenceExample(text=t, label="xyz"[i % 3], where=f"f: {i}") for i, t in enumerate(texts)]


def all_rows(rows):
    numbers = range(len(rows))
    return rows.take(numbers), rows.examples(numbers)


def test_each_sequence_keeps_its_label_wherever_it_is_packed():
    examples = sequences()
    rows = sequence_rows(examples, tokenizer=Letters(), classes=("x", "y", "z"), length=32, max_segments=4)
    batch, owners = all_rows(rows)
    assert batch["labels"].shape == (len(rows), 4) and "type_ids" not in batch
    seen = []
    for r in range(len(rows)):
        for g in range(4):
            text = batch["tokens"][r][batch["segment_ids"][r] == g + 1]
            if owners[r, g] < 0:
                assert not len(text) and batch["labels"][r, g] == -1
                continue
            example = examples[owners[r, g]]
            seen.append(owners[r, g])
            assert text.tolist() == [2, *map(ord, example.text), 3]
            assert "xyz"[batch["labels"][r, g]] == example.label
    assert sorted(seen) == list(range(50))


def test_pairs_have_sentence_types_and_lose_the_longer_side_first():
    examples = [
        SequenceExample(text="aaaaaaaaaa", text_pair="bb", label="x"),
        SequenceExample(text="a", text_pair="bbbbbbbbbb", label="y"),
        SequenceExample(text="aaaaaaaaaa", text_pair="bbbbbbbbbb", label="y"),
    ]
    rows = sequence_rows(examples, tokenizer=Letters(), classes=("x", "y"), length=11, max_segments=2)
    batch, owners = all_rows(rows)
    text = {int(owners[r, 0]): "".join(map(chr, t[t > 10])) for r, t in enumerate(batch["tokens"])}
    assert text == {0: "aaaaaabb", 1: "abbbbbbb", 2: "aaaabbbb"}
    assert rows.truncated == 3 and rows.lost == 4 + 3 + 12
    assert "3 cut at 11 tokens (19 tokens lost)" in rows.report()
    row = list(owners[:, 0]).index(0)
    assert batch["type_ids"][row].tolist() == [0] * 8 + [1] * 3


def test_nothing_cut_is_said_too():
    rows = sequence_rows(sequences(), tokenizer=Letters(), classes=("x", "y", "z"), length=32)
    assert rows.truncated == 0 and "none cut" in rows.report()


def test_the_first_piece_of_a_word_carries_its_tag_and_maps_back():
    rng = np.random.default_rng(1)
    examples = []
    for i in range(30):
        words = tuple(
            "".join(rng.choice(list("pqrs"), rng.integers(1, 4))) for _ in range(rng.integers(1, 6))
        )
        examples.append(
            TokenExample(words=words, tags=tuple(rng.choice(["B", "I", "O"], len(words))), where=f"{i}")
        )
    classes = class_names(examples)
    assert classes == ("B", "I", "O")
    rows = token_rows(examples, tokenizer=Letters(), classes=classes, length=24, max_segments=3)
    batch, owners = all_rows(rows)
    words = rows.words(range(len(rows)))
    assert ((batch["token_labels"] >= 0) == (words >= 0)).all()
    recovered = {i: {} for i in range(30)}
    for r, c in zip(*np.nonzero(words >= 0), strict=True):
        example = int(owners[r, batch["segment_ids"][r, c] - 1])
        word = int(words[r, c])
        assert chr(batch["tokens"][r, c]) == examples[example].words[word][0]
        recovered[example][word] = classes[batch["token_labels"][r, c]]
    assert [tuple(recovered[i][w] for w in range(len(e.words))) for i, e in enumerate(examples)] == [
        e.tags for e in examples
    ]


def test_unlabelled_examples_can_be_predicted():
    rows = sequence_rows([SequenceExample(text="ab")], tokenizer=Letters(), classes=("x", "y"), length=8)
    assert (rows.take([0])["labels"] == -1).all() and rows.examples([0])[0, 0] == 0
    rows = token_rows([TokenExample(words=("ab", "c"))], tokenizer=Letters(), classes=("x", "y"), length=8)
    assert (rows.take([0])["token_labels"] == -1).all()
    assert rows.words([0])[0].tolist() == [-1, 0, -1, 1, -1, -1, -1, -1]


def test_classes_are_sorted_words_or_numbers():
    def named(*labels):
        return class_names([SequenceExample(text="a", label=label) for label in labels])

    assert named("pos", "neg", "pos") == ("neg", "pos")
    assert named("10", "9", "-1") == ("-1", "9", "10")
    with pytest.raises(DataError, match="all 2 training examples have the label 'pos': nothing to learn"):
        named("pos", "pos")
    with pytest.raises(DataError, match="no labels"):
        named(None)


def test_an_unseen_label_is_named_with_its_place():
    examples = [SequenceExample(text="a", label="meh", where="eval.csv: record 7 (line 9)")]
    with pytest.raises(DataError) as error:
        sequence_rows(examples, tokenizer=Letters(), classes=("neg", "pos"), length=8)
    assert str(error.value) == ("eval.csv: record 7 (line 9): label 'meh' is not among the 2 known: neg, pos")
    with pytest.raises(DataError, match="t: 3: label 'Q' is not among the 1 known: O"):
        token_rows(
            [TokenExample(words=("a",), tags=("Q",), where="t: 3")],
            tokenizer=Letters(),
            classes=("O",),
            length=8,
        )


def test_examples_from_records_refuse_what_they_cannot_use():
    def record(**values):
        return Record(values=values, where="f.jsonl: line 4")

    good = sequence_examples([record(text="a", label=1, other="b")], text_pair="other")
    assert good == [SequenceExample(text="a", text_pair="b", label="1", where="f.jsonl: line 4")]
    assert token_examples([record(tokens=["a"], tags=["O"])])[0].tags == ("O",)
    assert token_examples([record(tokens=["a"])], tags="")[0].tags is None
    cases = {
        "f.jsonl: line 4: no column 'label'; found 'text'": lambda: sequence_examples([record(text="a")]),
        "a label is a word or an integer": lambda: sequence_examples([record(text="a", label=0.5)]),
        "'text' is int, not a text": lambda: sequence_examples([record(text=3, label="x")]),
        "line 4: 2 tokens but 1 tags": lambda: token_examples([record(tokens=["a", "b"], tags=["O"])]),
        "should be a list of words, found 'a b'": lambda: token_examples([record(tokens="a b", tags=["O"])]),
    }
    for message, call in cases.items():
        with pytest.raises(DataError, match=message.replace("'", "'")):
            call()
    mixed = [SequenceExample(text="a", text_pair="b"), SequenceExample(text="a", where="f: 2")]
    with pytest.raises(DataError, match="f: 2: has no second text, others have"):
        sequence_rows(mixed, tokenizer=Letters(), classes=("x",), length=8)
    with pytest.raises(DataError, match="there are no examples"):
        sequence_rows([], tokenizer=Letters(), classes=("x",), length=8)


def test_a_subset_is_drawn_by_seed_and_nested():
    examples = sequences()
    assert subset(examples, 10, 3) == subset(examples, 20, 3)[:10] != subset(examples, 10, 4)
    assert len({e.where for e in subset(examples, 50, 3)}) == 50
    with pytest.raises(DataError, match="cannot draw 51 of 50"):
        subset(examples, 51, 3)
