"""Rows of pairs are full, fair, and give the label away by nothing but their content."""

import dataclasses

import numpy as np
import pytest

from model.bert import BertConfig
from objectives.bert_next_sentence import BertNextSentence
from objectives.neighbour_words import NeighbourWords
from objectives.next_sentence import NextSentence
from objectives.rows import RowShape


class Corpus:
    """Documents whose tokens tell where they are from: document d, place p is 1000 (d + 1) + p."""

    def __init__(self, sizes, hashes=None):
        self.documents = [1000 * (d + 1) + np.arange(n, dtype=np.int32) for d, n in enumerate(sizes)]
        self.hashes = list(range(len(sizes))) if hashes is None else hashes

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, index):
        return self.documents[index]

    def hash(self, index):
        return self.hashes[index]


ROWS = RowShape(length=128, max_segments=4, cls_id=2, sep_id=3)


def _objective(length=128, max_segments=4, kind=NextSentence, **fields):
    rows = dataclasses.replace(ROWS, length=length, max_segments=max_segments)
    return kind(**fields).for_rows(rows)


def _pairs(objective, docs, rows, seed=0):
    for i in range(rows):
        row = objective.make_example(docs, i, np.random.default_rng([seed, i]))
        for g in range(row["segment_ids"].max()):
            here = row["segment_ids"] == g + 1
            tokens, types = row["tokens"][here], row["type_ids"][here]
            np.testing.assert_array_equal(row["positions"][here], np.arange(here.sum()))
            a, b = tokens[types == 0], tokens[types == 1]
            assert (a[0], a[-1], b[-1]) == (2, 3, 3)
            yield a[1:-1], b[:-1], row["labels"][g]
        assert np.all(row["labels"][row["segment_ids"].max() :] == -1)


def _sizes(n=60, seed=0):
    return np.random.default_rng(seed).integers(20, 400, n)


def test_pairs_are_what_their_labels_say():
    labels = []
    for a, b, label in _pairs(_objective(), Corpus(_sizes()), 300):
        assert len(a) and len(b) and np.all(np.diff(a) == 1) and np.all(np.diff(b) == 1)
        if label == 0:
            assert b[0] == a[-1] + 1
        else:
            assert b[0] // 1000 != a[0] // 1000
        labels.append(label)
    # A fair coin: within four standard deviations.
    assert abs(np.mean(labels) - 0.5) < 2 / np.sqrt(len(labels))


def test_duplicates_are_no_negatives():
    docs = Corpus([50] * 20, hashes=[i % 2 for i in range(20)])
    for a, b, label in _pairs(_objective(), docs, 100):
        if label == 1:
            assert docs.hash(b[0] // 1000 - 1) != docs.hash(a[0] // 1000 - 1)


def test_a_rare_other_document_is_found():
    docs = Corpus([50] * 400, hashes=[0] * 399 + [1])
    labels = [label for _, _, label in _pairs(_objective(), docs, 20)]
    assert 0 < np.mean(labels) < 1


@pytest.mark.parametrize("length", [64, 128, 512])
def test_rows_are_full(length):
    objective = _objective(length=length, max_segments=length // 32, longest_pair=min(length, 128))
    docs = Corpus(130 + _sizes())  # documents shorter than a pair would shorten it
    filled = [
        np.mean(objective.make_example(docs, i, np.random.default_rng(i))["segment_ids"] > 0)
        for i in range(200)
    ]
    assert np.mean(filled) >= 0.99


def test_lengths_and_places_do_not_tell_the_label():
    rows = np.array(
        [
            (len(a), len(b), a[0] % 1000, b[0] % 1000, len(docs_of[b[0] // 1000 - 1]), label)
            for docs_of in [Corpus(_sizes())]
            for a, b, label in _pairs(_objective(), docs_of, 2500)
        ],
        float,
    )
    labels = rows[:, -1] == 1
    for column in range(rows.shape[1] - 1):
        one, other = rows[labels, column], rows[~labels, column]
        error = np.sqrt(one.var() / len(one) + other.var() / len(other))
        assert abs(one.mean() - other.mean()) < 4.5 * error, column


def test_examples_are_pure_and_visit_every_document():
    docs, objective = Corpus(_sizes()), _objective()
    one, other = (objective.make_example(docs, 7, np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(one[k], other[k]) for k in one)
    long_enough = [i for i in range(len(docs)) if len(docs[i]) >= 125]
    opened = {
        int(objective.make_example(docs, i, np.random.default_rng(i))["tokens"][1]) // 1000 - 1
        for i in range(len(docs))
    }
    assert set(long_enough) <= opened


def test_short_documents_are_used_beside_long_ones():
    """A document shorter than the drawn pair shortens the pair instead of giving way to a longer document."""
    docs = Corpus([20] * 60 + [500])
    objective = _objective(length=64, max_segments=8, shortest_pair=8, longest_pair=64)
    rows = [objective.make_example(docs, i, np.random.default_rng(i)) for i in range(len(docs))]
    assert {int(row["tokens"][1]) // 1000 - 1 for row in rows} == set(range(len(docs)))


def test_one_distinct_document_is_refused_at_the_start():
    with pytest.raises(ValueError, match="two different documents"):
        _objective().check_documents(Corpus([50] * 5, hashes=[3] * 5))
    _objective().check_documents(Corpus([50, 1, 50], hashes=[3, 4, 5]))


def test_impossible_lengths_are_refused():
    config = BertConfig(vocab_size=64, layers=1, width=16, heads=2, mlp_width=32)
    with pytest.raises(ValueError, match="cannot be promised"):
        _objective(max_segments=2).check(config)
    with pytest.raises(ValueError, match="below twice"):
        _objective(shortest_pair=100, longest_pair=110).check(config)
    _objective().check(config)


@pytest.mark.parametrize("pieces", [2, 3])
def test_segments_of_a_unit_follow_each_other_in_one_document(pieces):
    objective = _objective(kind=NeighbourWords, max_segments=2 * pieces, segments_per_document=pieces)
    docs = Corpus(_sizes())
    filled = []
    for i in range(200):
        row = objective.make_example(docs, i, np.random.default_rng(i))
        filled.append(np.mean(row["segment_ids"] > 0))
        segments = [row["tokens"][row["segment_ids"] == g + 1] for g in range(row["segment_ids"].max())]
        assert len(segments) % pieces == 0
        for unit in range(0, len(segments), pieces):
            words = np.concatenate([s[1:-1] for s in segments[unit : unit + pieces]])
            assert all(len(s) > 2 and (s[0], s[-1]) == (2, 3) for s in segments[unit : unit + pieces])
            np.testing.assert_array_equal(words, words[0] + np.arange(len(words)))
    assert np.mean(filled) >= 0.97


# BERT's own rule.


class Texts(Corpus):
    """Documents of sentences of given lengths, each ended by token 999; all other tokens tell where they are from."""

    def __init__(self, sentences):
        super().__init__([sum(sizes) for sizes in sentences])
        for document, sizes in zip(self.documents, sentences, strict=True):
            document[np.cumsum(sizes) - 1] = 999


@pytest.mark.parametrize(
    ("sentences", "share"),
    [
        ([(200,)] * 8, 1.0),  # one sentence a document: nothing can follow
        ([(5,) * 200] * 8, 0.5 + 0.5 / 200),  # only the last sentence stands alone
        ([(100, 100)] * 8, 1.0),  # one sentence fills a pair
        ([(30, 30)] * 4 + [(200,)] * 4, 0.875),
    ],
)
def test_berts_rule_has_its_own_share_of_random_pairs(sentences, share):
    docs = Texts(sentences)
    pairs = dict(shortest_pair=64, longest_pair=64, sentence_ends=(999,))
    objective = _objective(kind=BertNextSentence, length=64, max_segments=1, **pairs)
    assert objective.random_share(docs, 61) == pytest.approx(share)
    n = 1500
    labels = [objective.make_example(docs, i, np.random.default_rng([7, i]))["labels"][0] for i in range(n)]
    assert abs(np.mean(labels) - share) <= 4 * (share * (1 - share) / n) ** 0.5


def test_pairs_by_berts_rule_follow_each_other_or_come_from_elsewhere():
    docs = Texts([tuple(np.random.default_rng(d).integers(5, 40, 12)) for d in range(20)])
    objective = _objective(kind=BertNextSentence, sentence_ends=(999,), shortest_pair=32)
    labels = []
    for a, b, label in _pairs(objective, docs, 200):
        a, b = (x[x != 999] for x in (a, b))
        assert len(a) and len(b)
        if label == 0:
            # Truncation may take tokens off A's end, so a gap is possible, an overlap is not.
            assert b[0] // 1000 == a[0] // 1000 and b[0] > a[-1]
        else:
            assert b[0] // 1000 != a[0] // 1000
        labels.append(label)
    assert 0.5 < np.mean(labels) < 0.7
