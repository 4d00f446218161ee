"""User text to corpora: reading, tokenizers, documents on disk, preparing, and each error message."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import prepare as prepare_module
from data import tokenizer as tokenizer_module
from data.documents import Documents, DocumentsWriter, text_hash
from data.prepare import TOKENIZER_FILE, TrainTokenizer, encode_chunk, prepare
from data.records import DataError, read_conll, read_table
from data.sources import documents, is_tfds, parse_tfds, records
from data.tokenizer import SentencePieceTokenizer, load_tokenizer, sample_sentences, train_sentencepiece

WORDS = (
    "the a cat dog house runs sees likes quickly Slowly green Happy old bird ( sings ) and then over".split()
)


def text(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(5, 30))) + "." for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    return train_sentencepiece(iter(text(300)), vocab_size=90, lowercase=True, path=path)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# Tokenizer


def test_special_ids_are_fixed_and_text_cannot_spell_them(tokenizer, tmp_path):
    names = ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "bos_id", "eos_id", "first_ordinary_id")
    assert [getattr(tokenizer, n) for n in names] == list(range(8))
    assert [tokenizer.piece(i) for i in (2, 3, 4)] == ["[CLS]", "[SEP]", "[MASK]"]
    assert not set(tokenizer.encode("[CLS] [MASK] <s> </s> <pad>")) & {0, 2, 3, 4, 5, 6}
    assert tokenizer.decode([2, *tokenizer.encode("The Cat sings"), 3, 0]) == "the cat sings"
    tokenizer.save(tmp_path / "copy")
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.fingerprint == tokenizer.fingerprint and copy.encode("a dog") == tokenizer.encode("a dog")


def test_training_is_deterministic_and_case_is_a_choice(tokenizer, tmp_path):
    again = train_sentencepiece(text(300), vocab_size=90, lowercase=True, path=tmp_path / "b")
    assert again.fingerprint == tokenizer.fingerprint
    cased = train_sentencepiece(text(300), vocab_size=90, lowercase=False, path=tmp_path / "c")
    assert cased.decode(cased.encode("Happy bird")) == "Happy bird"
    assert tokenizer.encode("Happy") == tokenizer.encode("happy") and cased.encode("Happy") != cased.encode(
        "happy"
    )
    assert tokenizer.unk_id in tokenizer.encode("犬")
    fallback = train_sentencepiece(
        text(300), vocab_size=340, lowercase=True, path=tmp_path / "d", byte_fallback=True, model_type="bpe"
    )
    assert fallback.decode(fallback.encode("犬")) == "犬"


def test_bytes_of_tokens_add_up_to_those_of_the_normalised_text(tokenizer, tmp_path):
    plain = ["The  Cat\nsings (then", "dog", "quickly, slowly."]
    foreign = ["the \u72ac runs", "na\u00efve \u00bd \U0001f600 cat"]
    cased = train_sentencepiece(text(300), vocab_size=90, lowercase=False, path=tmp_path / "a")
    fallback = train_sentencepiece(
        text(300), vocab_size=340, lowercase=True, path=tmp_path / "b", byte_fallback=True, model_type="bpe"
    )
    for one, texts in ((tokenizer, plain), (cased, plain), (fallback, plain + foreign)):
        assert one.token_bytes.dtype == np.int32 and not one.token_bytes[:7].any()
        for some in texts:
            ids = one.encode(some)
            # Decoding drops the mark before the first word.
            if one.unk_id not in ids:
                assert one.token_bytes[ids].sum() == len(one.decode(ids).encode()) + 1
    # Case is folded and white space is one space: 21 bytes and the mark.
    assert tokenizer.token_bytes[tokenizer.encode("The  Cat\nsings (\tand )")].sum() == 22
    # What the vocabulary lacks counts nothing: 3 bytes here.
    ids = tokenizer.encode(foreign[0])
    assert ids.count(tokenizer.unk_id) == 1
    assert tokenizer.token_bytes[ids].sum() == len(foreign[0].encode()) + 1 - 3


def test_words_keep_their_pieces_apart(tokenizer):
    words = ["Happy", "\u200b", "zqx", "("]
    ids, owner = tokenizer.encode_words(words)
    assert owner == sorted(owner) and set(owner) == {0, 1, 2, 3}
    for number, word in enumerate(words):
        own = [i for i, w in zip(ids, owner, strict=True) if w == number]
        assert own == (tokenizer.encode(word) or [tokenizer.unk_id])


def test_the_sentence_sample_is_even_bounded_and_in_order():
    texts = [f"{i}. " * 1 for i in range(5000)]
    drawn = [int(s.rstrip(".")) for s in sample_sentences(texts, 500)]
    assert len(drawn) == 500 and drawn == sorted(drawn) and len(set(drawn)) == 500
    assert sample_sentences(texts, 500) == sample_sentences(iter(texts), 500)
    # A quarter of the text gets a quarter of the sample: 5 sigma of the hypergeometric is about 46.
    assert all(abs(sum(lo <= d < lo + 1250 for d in drawn) - 125) < 46 for lo in range(0, 5000, 1250))
    assert sample_sentences(["One. Two!\nThree"], 10) == ["One.", "Two!", "Three"]


def test_tokenizer_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*: train one with"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(ValueError, match="no SentencePiece model"):
        SentencePieceTokenizer(b"nonsense")
    with pytest.raises(ValueError, match="vocab_size 7 leaves no room"):
        train_sentencepiece(["a"], vocab_size=7, lowercase=True, path=tmp_path / "x")
    with pytest.raises(ValueError, match="no text to train"):
        train_sentencepiece([" "], vocab_size=50, lowercase=True, path=tmp_path / "x")


# Reading


def test_documents_of_text_files(tmp_path):
    plain = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \n\nthree")
    write(tmp_path / "b.txt.gz", gzip.compress("vier\n\nfünf\n".encode()))
    assert list(documents(plain)) == ["one\ntwo", "three"]
    source = documents([str(tmp_path / "*.txt*")])
    assert list(source) == ["one\ntwo", "three", "vier", "fünf"] == list(source)
    assert source.done == 1.0
    lines = '{"text": "x", "t": "y"}\n\n{"text": " ", "t": "z"}\n'
    path = write(tmp_path / "c.jsonl", lines)
    assert list(documents(path)) == ["x"] and list(documents(path, column="t")) == ["y", "z"]


def test_tables(tmp_path):
    csv = write(tmp_path / "a.csv", 'text,label\n"a, ""b""\nc",pos\n' + "x" * 200_000 + ",neg\n")
    assert [r.values["label"] for r in records(csv)] == ["pos", "neg"]
    assert next(read_table(Path(csv))).values["text"] == 'a, "b"\nc'
    tsv = write(tmp_path / "a.tsv.gz", gzip.compress(b'text\tlabel\n"a\t1\n'))
    assert records(tsv)[0].values == {"text": '"a', "label": "1"}
    conll = write(tmp_path / "a.conll", "-DOCSTART- O\n\nEU X B\nsays X O\n\nhi X O")
    assert [r.values for r in records(conll)] == [
        {"tokens": ["EU", "says"], "tags": ["B", "O"]},
        {"tokens": ["hi"], "tags": ["O"]},
    ]
    assert records(conll)[1].where == f"{conll}: sentence 2"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"good\nb\xffd", "a.txt: byte 6 is not UTF-8 (invalid start byte)"),
        ("a.txt", b"\xef\xbb\xbf\xff", "a.txt: byte 3 is not UTF-8"),
        (
            "a.txt.gz",
            gzip.compress(b"b\xff", mtime=0),
            "a.txt.gz: byte 1 of the uncompressed text is not UTF-8",
        ),
        ("a.txt.gz", b"plain", "a.txt.gz: damaged gzip file"),
        (
            "a.jsonl",
            b'{"text": "x"}\n\n{"text": \n',
            "a.jsonl: line 3: malformed JSON (Expecting value at column",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl: line 1: expected a JSON object, found list"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', "a.jsonl: line 1: no column 'text'; found 'body', 'id'"),
        ("a.jsonl", b'{"text": 1}\n', "a.jsonl: line 1: 'text' is int, not a text"),
        ("a.doc", b"x", "a.doc: expected .txt, .jsonl (or .gz of these)"),
    ],
)
def test_each_mistake_in_a_text_file_names_its_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        list(documents(path))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"", "a.csv: is empty; its first line should name the columns"),
        ("a.csv", b"text,label\n", "holds no records"),
        (
            "a.csv",
            b"text,label\na,b\n\nc\n",
            "a.csv: record 2 (line 4) has 1 fields, the header names 2: text, label",
        ),
        ("a.csv", b'text,label\n"a"b,c\n', "a.csv: line 2: "),
        ("a.csv", b"text,label\nb\xff,x\n", "a.csv: byte 12 is not UTF-8"),
        ("a.conll", b"a B\nb X B\n", "a.conll: line 2 has 3 columns, the lines before have 2"),
        ("a.conll", b"a\n", "a.conll: has one column"),
        ("a.parquet", b"x", "a.parquet: expected .csv, .tsv, .jsonl, .conll"),
    ],
)
def test_each_mistake_in_a_table_names_its_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        records(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_names_a_file_and_what_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_tfds("imdb_reviews_text") and is_tfds("tfds:x/y:test") and is_tfds("conll2003:test")
    assert not any(map(is_tfds, ("a.txt", "dir/*", "~/x", "*.jsonl.gz")))
    write(tmp_path / "plain", "x")
    assert not is_tfds("plain")
    assert parse_tfds("tfds:x/y:test") == ("x/y", "test") and parse_tfds("x", "dev") == ("x", "dev")
    with pytest.raises(DataError, match="no files match 'missing/\\*.txt'"):
        documents("missing/*.txt")
    with pytest.raises(DataError, match="names no TFDS data set"):
        documents("tfds:")
    with pytest.raises(DataError, match="only folders match"):
        documents(str(tmp_path))
    with pytest.raises(DataError, match="no input"):
        documents([])


def test_read_conll_gives_columns():
    assert list(read_conll(["-DOCSTART- X", "", "a 1", "b 2", "", "", "c 3"], "f")) == [
        (0, [["a", "b"], ["1", "2"]]),
        (1, [["c"], ["3"]]),
    ]


# Documents


def test_documents_round_trip(tmp_path):
    data = [np.array(d, np.uint16) for d in ([7, 8, 9], [65535], [10, 11])]
    with DocumentsWriter(tmp_path / "corpus") as writer:
        for chunk in (data[:2], data[2:]):
            writer.add(
                np.concatenate(chunk),
                np.array([len(d) for d in chunk]),
                np.arange(len(chunk), dtype=np.uint64) + np.uint64(2**63),
            )
        docs = writer.finish({"note": "x"})
    where = str(tmp_path / "corpus")
    assert docs.meta == {"format": 1, "documents": 3, "tokens": 6, "note": "x", "directory": where}
    for opened in (docs, Documents.load(tmp_path / "corpus")):
        assert [opened[i].tolist() for i in range(3)] == [d.tolist() for d in data]
        assert opened[0].dtype == np.int32 and opened.hash(1) == 2**63 + 1
    np.testing.assert_array_equal(np.load(tmp_path / "corpus" / "tokens.npy"), np.concatenate(data))
    assert os.listdir(tmp_path) == ["corpus"]
    (tmp_path / "corpus" / "hashes.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no prepared corpus .hashes.npy missing"):
        Documents.load(tmp_path / "corpus")


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), DocumentsWriter(tmp_path / "corpus") as writer:
        writer.add(np.zeros(1, np.uint16), np.ones(1), np.zeros(1, np.uint64))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_the_hash_forgets_case_space_and_unicode_form():
    assert text_hash("A  Caf\u00e9\n") == text_hash("a cafe\u0301") != text_hash("a cafe")
    # Fixed: published splits rest on it.
    expected = int.from_bytes(hashlib.blake2b(b"a b", digest_size=8).digest(), "big")
    assert text_hash(" A\tb ") == expected


def test_splits_by_hash_are_disjoint_and_keep_duplicates_together(tokenizer):
    texts = text(2000) + text(300)
    tokens, lengths, hashes = encode_chunk(tokenizer, texts)
    docs = Documents(
        tokens=tokens, starts=np.cumsum(lengths) - lengths, lengths=lengths, hashes=hashes, meta={}
    )
    train, held = docs.split(0.1)
    assert len(train) + len(held) == 2300 and not set(train.hashes) & set(held.hashes)
    assert 0.07 < len(held) / 2300 < 0.13
    # The views read their own documents.
    everything = sorted(d[i].tobytes() for d in (train, held) for i in range(len(d)))
    assert everything == sorted(docs[i].tobytes() for i in range(2300))
    larger = set(docs.split(0.2)[1].hashes)
    assert set(held.hashes) <= larger
    with pytest.raises(ValueError, match="one side empty"):
        docs.select(np.arange(2)).split(1e-9)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        docs.split(1.0)


# Prepare


@pytest.fixture
def corpus_file(tmp_path):
    return write(tmp_path / "in.txt", "\n\n".join(text(200)))


def test_prepare_tokenises_reuses_and_refuses(tokenizer, tmp_path, corpus_file, monkeypatch):
    tokenizer.save(tmp_path / "t.model")
    out = tmp_path / "out"
    docs = prepare(corpus_file, tokenizer=tmp_path / "t.model", out=out)
    assert [tokenizer.decode(docs[i]) for i in range(3)] == [t.lower() for t in text(3)]
    assert docs.meta["documents"] == len(docs) == 200 and docs.hash(5) == text_hash(text(6)[5])
    assert load_tokenizer(out / TOKENIZER_FILE).fingerprint == tokenizer.fingerprint == docs.meta["tokenizer"]
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_encode_all", lambda *_: pytest.fail("tokenised again"))
        prepare(corpus_file, tokenizer=tmp_path / "t.model", out=out)
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    write(tmp_path / "in.txt", "something else\n")
    with pytest.raises(FileExistsError, match="holds another corpus .input_fingerprint was .*: delete it"):
        prepare(corpus_file, tokenizer=tmp_path / "t.model", out=out)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="is no prepared corpus: choose another"):
        prepare(corpus_file, tokenizer=tmp_path / "t.model", out=tmp_path / "mine")


def test_prepare_trains_a_vocabulary_into_the_cache(tmp_path, corpus_file, monkeypatch, capsys):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "cache"))
    how = TrainTokenizer(vocab_size=60)
    docs = prepare(corpus_file, tokenizer=how)
    assert "training 60 unigram pieces on 200 sentences" in capsys.readouterr().err
    assert prepare(corpus_file, tokenizer=how).meta == docs.meta
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 1
    prepare(corpus_file, tokenizer=TrainTokenizer(vocab_size=61))
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 2


def test_the_number_of_workers_changes_nothing(tokenizer, tmp_path, corpus_file, monkeypatch):
    tokenizer.save(tmp_path / "t.model")
    monkeypatch.setattr(prepare_module, "_CHUNK", 1000)
    for workers in (1, 2):
        prepare(corpus_file, tokenizer=tmp_path / "t.model", out=tmp_path / f"{workers}", workers=workers)
    for name in ("tokens.npy", "offsets.npy", "hashes.npy"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_empty_documents_are_counted_and_empty_corpora_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.model")
    path = write(tmp_path / "a.txt", "cat\n\n\u200b\n\ndog\n")
    docs = prepare(path, tokenizer=tmp_path / "t.model", out=tmp_path / "o")
    assert len(docs) == 2 and docs.meta["empty"] == 1
    empty = write(tmp_path / "b.txt", "\n\n")
    with pytest.raises(DataError, match="b.txt: the corpus is empty"):
        prepare(empty, tokenizer=tmp_path / "t.model", out=tmp_path / "p")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt", "o", "t.model"]


def test_the_command_line(tmp_path, corpus_file):
    def run(*arguments):
        command = [sys.executable, "-m", "data.prepare", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)

    out = str(tmp_path / "out")
    done = run(corpus_file, "--vocab-size", "60", "--out", out)
    assert done.returncode == 0 and "200 documents" in done.stdout
    wrong = run(str(tmp_path / "nothing*.txt"), "--vocab-size", "60", "--out", out)
    assert wrong.returncode == 1 and wrong.stderr.strip().endswith("nothing*.txt'")
    assert "Traceback" not in wrong.stderr
    assert run(corpus_file, "--out", out).returncode == 2


def test_text_without_full_stops_still_teaches_a_vocabulary(tmp_path):
    rng = np.random.default_rng(0)
    endless = "".join(rng.choice(list("日本語文字列例"), 9000))
    tokenizer = train_sentencepiece([endless], vocab_size=40, lowercase=True, path=tmp_path / "t")
    assert tokenizer.unk_id not in tokenizer.encode(endless[:50])


def test_unbroken_text_is_bounded_and_a_long_training_is_heard(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    dna = ["".join(rng.choice(list("ACGT"), 600)) for _ in range(40)]
    monkeypatch.setattr(tokenizer_module, "MAX_UNBROKEN", 40 * 600)
    assert tokenizer_module._bounded(dna + WORDS) == dna + WORDS and not capsys.readouterr().err
    monkeypatch.setattr(tokenizer_module, "MAX_UNBROKEN", 6000)
    monkeypatch.setattr(tokenizer_module, "_HEARTBEAT", 0.01)
    kept = tokenizer_module._bounded([*WORDS, *dna])
    assert kept[: len(WORDS)] == WORDS and len(kept) == len(WORDS) + 10
    assert [text for text in dna if text in kept] == kept[len(WORDS) :] != dna[:10]
    train_sentencepiece(dna, vocab_size=30, lowercase=True, path=tmp_path / "t")
    said = capsys.readouterr().err
    assert (
        "24,000 characters of the text are in words of more than 256; a vocabulary is trained on 6,000"
        in said
    )
    assert "on 10 sentences" in said and "tokenizer: still training" in said
