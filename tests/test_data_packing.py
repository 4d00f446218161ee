"""Packing: no token lost or doubled, rows are full, segments stay apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import packing
from data.documents import Documents, DocumentsWriter
from data.packing import MIN_REAL_SHARE, Framing, PackedRows, best_fit, cut
from data.row_index import ragged_arange
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


@pytest.fixture
def stored(tmp_path):
    """A corpus on disk in which pieces of long documents fill gaps, and its packed rows."""
    lengths = np.random.default_rng(0).lognormal(5.44, 0.65, 300).astype(int).clip(11, 3546)
    memory = corpus(lengths.tolist())
    with DocumentsWriter(tmp_path / "corpus") as writer:
        writer.add(memory.tokens.astype(np.uint32), memory.lengths, memory.hashes)
        docs = writer.finish({})
    return docs, packed(docs)


def packed(docs, **changes):
    return PackedRows(docs, **{"length": 256, "framing": FRAMINGS[0], **changes})


def assert_same_rows(a, b):
    numbers = range(len(a))
    assert len(a) == len(b)
    for (name, x), y in zip(a.take(numbers).items(), b.take(numbers).values(), strict=True):
        assert x.dtype == y.dtype == np.int32, name
        np.testing.assert_array_equal(x, y)


def index_folders(docs):
    return sorted(docs.directory.glob("packed-*"))


def test_a_corpus_on_disk_is_packed_once(stored, monkeypatch):
    docs, rows = stored
    in_memory = Documents.from_tokens([docs[i] for i in range(len(docs))])
    assert_same_rows(rows, packed(in_memory))
    monkeypatch.setattr(packing, "best_fit", None)
    again = packed(Documents.load(docs.directory))
    assert_same_rows(rows, again)
    assert again.report() == rows.report() and len(index_folders(docs)) == 1
    with pytest.raises(TypeError):
        packed(in_memory)


def test_what_rows_depend_on_has_an_index_of_its_own(stored):
    docs, rows = stored
    changes = [{"length": 128}, {"max_segments": 2}, {"framing": FRAMINGS[1]}]
    for count, change in enumerate(changes, 2):
        packed(docs, **change)
        assert len(index_folders(docs)) == count
    for count, half in enumerate(docs.split(0.5), 5):
        tokens = packed(half).take(range(len(packed(half))))["tokens"]
        assert sorted(tokens[tokens >= 10]) == sorted(np.concatenate([half[i] for i in range(len(half))]))
        assert len(index_folders(docs)) == count
    assert_same_rows(rows, packed(docs))


def truncate(folder):
    with (folder / "start.npy").open("r+b") as file:
        file.truncate(file.seek(0, 2) // 2)
    return "start.npy"


def empty_pieces(folder):
    np.save(folder / "size.npy", np.zeros_like(np.load(folder / "size.npy")))
    return "it holds"


def shorten(folder):
    np.save(folder / "ends.npy", np.load(folder / "ends.npy")[1:])
    return "shapes"


def lose(folder):
    (folder / "first.npy").unlink()
    return "first.npy"


def rename(folder):
    about = (folder / "about.json").read_text()
    (folder / "about.json").write_text(about.replace('"length": 256', '"length": 512'))
    return "about.json"


@pytest.mark.parametrize("damage", [truncate, empty_pieces, shorten, lose, rename])
def test_a_damaged_index_is_named_and_made_again(stored, damage, capfd):
    docs = stored[0]
    in_memory = Documents.from_tokens([docs[i] for i in range(len(docs))])
    (folder,) = index_folders(docs)
    expected = damage(folder)
    capfd.readouterr()
    assert_same_rows(packed(in_memory), packed(docs))
    said = capfd.readouterr().err
    assert expected in said and str(folder) in said and "computing it again" in said
    packed(docs)
    assert not capfd.readouterr().err
    assert index_folders(docs) == [folder]


def test_an_index_that_cannot_be_kept_is_used_all_the_same(stored, tmp_path, capfd):
    docs, rows = stored
    (tmp_path / "file").touch()
    docs.meta["directory"] = str(tmp_path / "file")
    assert_same_rows(rows, packed(docs))
    assert "cannot keep" in capfd.readouterr().err


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
