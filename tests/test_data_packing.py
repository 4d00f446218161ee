"""Packing: no token lost or doubled, rows are full, segments stay apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.documents import Documents
from data.packing import MIN_REAL_SHARE, Framing, PackedRows, best_fit, cut, ragged_arange
from data.tokenizer import SentencePieceTokenizer

FRAMINGS = [Framing.named(name, SentencePieceTokenizer) for name in ("cls_sep", "bos_eos")]


def corpus(lengths: list[int]) -> Documents:
    """Every token is unique, so a lost or doubled one shows."""
    first = 10
    documents = []
    for length in lengths:
        documents.append(np.arange(first, first + length))
        first += length
    return Documents.from_tokens(documents)


@settings(max_examples=150, deadline=None)
@given(
    # Long enough that documents are also cut into gaps.
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=40).filter(any),
    length=st.integers(4, 120),
    max_segments=st.integers(1, 6),
    framing=st.sampled_from(FRAMINGS),
)
def test_every_token_stands_exactly_once(lengths, length, max_segments, framing):
    docs = corpus(lengths)
    rows = PackedRows(docs, length=length, framing=framing, max_segments=max_segments)
    batch = rows.take(range(len(rows)))
    tokens, segments = batch["tokens"], batch["segment_ids"]
    ordinary = np.sort(tokens[tokens >= 10])
    np.testing.assert_array_equal(ordinary, np.arange(10, 10 + sum(lengths)))
    assert (tokens[segments == 0] == framing.pad).all()
    assert segments.max() <= max_segments
    assert (segments > 0).any(axis=1).all()
    real = (segments > 0).mean()
    assert rows.real_share == pytest.approx(real)
    # Framing: whole documents begin and end once under bos_eos, each piece does under cls_sep.
    count = rows.index.segments if framing.every_piece else sum(n > 0 for n in lengths)
    assert (tokens == framing.begin).sum() == (tokens == framing.end).sum() == count


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.sampled_from(FRAMINGS))
def test_segments_are_runs_of_one_document(lengths, framing):
    docs = corpus(lengths)
    rows = PackedRows(docs, length=24, framing=framing)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for row in (rows[i] for i in range(len(rows))):
        # Segments are 1..G from left to right, padding only at the end.
        held = row["segment_ids"][row["segment_ids"] > 0]
        assert (row["segment_ids"][: len(held)] == held).all() and (np.diff(held) >= 0).all()
        for segment in np.unique(held):
            where = row["segment_ids"] == segment
            np.testing.assert_array_equal(row["positions"][where], np.arange(where.sum()))
            text = row["tokens"][where]
            text = text[text >= 10]
            assert len(text) and (np.diff(text) == 1).all()
            assert len(set(owner[text - 10])) == 1
            if framing.every_piece:
                assert row["tokens"][where][0] == framing.begin and row["tokens"][where][-1] == framing.end


@pytest.mark.parametrize("length", [128, 256, 512])
@pytest.mark.parametrize("framing", FRAMINGS, ids=["cls_sep", "bos_eos"])
def test_rows_are_full_where_documents_are_long_enough(length, framing):
    # Like IMDB: log-normal around 230 tokens. At 256 best fit alone leaves 5% empty.
    lengths = np.random.default_rng(0).lognormal(5.44, 0.65, 3000).astype(int).clip(11, 3546)
    rows = PackedRows(corpus(lengths.tolist()), length=length, framing=framing)
    assert rows.real_share >= MIN_REAL_SHARE
    assert f"{rows.real_share:.2%} real tokens" in rows.report()


def test_best_fit_prefers_the_tightest_row():
    # 7 and 6 open a row each; 3 belongs to the 7, 4 to the 6.
    row = best_fit(np.array([7, 6, 3, 4]), 10, 8)
    assert row[0] == row[2] and row[1] == row[3] and row[0] != row[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=200), st.integers(1, 5))
def test_best_fit_respects_room_and_segments(sizes, max_segments):
    row = best_fit(np.array(sizes), 30, max_segments)
    assert set(row) == set(range(row.max() + 1))
    assert np.bincount(row, weights=sizes).max() <= 30
    assert np.bincount(row).max() <= max_segments


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="max_segments must be at least 1, got 0"):
        best_fit(np.array([1]), 10, 0)
    with pytest.raises(ValueError, match="a row holds 1 to 10"):
        best_fit(np.array([11]), 10, 8)
    with pytest.raises(ValueError, match="rows of 2 leave no room"):
        cut(np.array([5]), 2, FRAMINGS[0])
    with pytest.raises(ValueError, match="corpus is empty"):
        PackedRows(Documents.from_tokens([[]]), length=16, framing=FRAMINGS[0])
    with pytest.raises(ValueError, match="cls_sep or bos_eos, got 'cls'"):
        Framing.named("cls", SentencePieceTokenizer)
    with pytest.raises(IndexError):
        PackedRows(corpus([5]), length=16, framing=FRAMINGS[0])[1]


def test_ragged_arange():
    np.testing.assert_array_equal(ragged_arange(np.array([5, 0, 9]), np.array([2, 0, 3])), [5, 6, 9, 10, 11])
