"""Odd tables: what cannot be meant is refused in one line that names the file and the place, the rest is read as meant."""

import gzip
import io
import time

import pytest

from data.classes import ClassIds, about_classes, in_order
from data.frame import Frame
from data.json_objects import read_object
from data.labelled import (
    SequenceExample,
    TokenExample,
    class_names,
    sequence_examples,
    sequence_rows,
    token_examples,
    token_rows,
)
from data.records import DataError, Record, a_few, lines, read_conll
from data.sources import documents, records
from tests.test_data_labelled import Letters


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refused(call):
    with pytest.raises(DataError) as error:
        list(call())
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


DIGITS = "1" * 5000
SURROGATE = b'{"text": "a", "label": "x"}\n{"text": "b \\ud83d", "label": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label,label\na,b,c\n", "a.csv: line 1 names the column 'label' twice: rename"),
        ("a.tsv", "text\ttext\tlabel\na\tb\tc\n", "a.tsv: line 1 names the column 'text' twice: rename"),
        ("a.csv", "text,label\na,b\ntext,label\nc,d\n", "a.csv: record 2 (line 3) names the columns again"),
        (
            "a.csv",
            b"text,label\na,b\n\xef\xbb\xbfText,label\nc,d\n",
            "record 2 (line 3) names the columns again",
        ),
        (
            "a.tsv",
            "text\tlabel\na\tb\nlabel\ttext\nc\td\n",
            "a.tsv: record 2 (line 3) names the columns again",
        ),
        (
            "a.csv",
            'text,label\na,b\n"c,d\ne,f\n',
            "a.csv: line 4: unexpected end of data (is a quote left open in the "
            "record that begins at line 3?)",
        ),
        ("a.csv", b"text,label\na\0,b\n", "a.csv: byte 12 is NUL, in line 2"),
        (
            "a.csv",
            "text,label\n".encode("utf-16"),
            "a.csv: byte 0 begins UTF-16 or UTF-32: write the file as UTF-8",
        ),
        ("a.tsv", "text\tlabel\n".encode("utf-16-le"), "a.tsv: byte 1 is NUL, in line 1"),
        (
            "a.csv.gz",
            gzip.compress("text,label\n".encode("utf-16-be"), mtime=0),
            "byte 0 of the uncompressed text is NUL",
        ),
        (
            "a.csv",
            b"text,label\na,b\nc\xff,d\n",
            "a.csv: byte 16 is not UTF-8 (invalid start byte), in line 3",
        ),
        (
            "a.jsonl",
            SURROGATE,
            "a.jsonl: line 2: 'b \\ud83d' holds \\ud83d at character 3, half of a surrogate pair",
        ),
        ("a.jsonl", b'{"tokens": ["a", "\\uDE00"], "tags": ["O", "O"]}', "a.jsonl: line 1: '\\ude00' holds"),
        ("a.jsonl", b'{"text": "a", "label": "\\ud83d"}', "a.jsonl: line 1: '\\ud83d' holds"),
        (
            "a.jsonl",
            b'{"text": "a", "text_pair": "\\ud83d", "label": "b"}',
            "a.jsonl: line 1: '\\ud83d' holds",
        ),
        ("a.jsonl", b'{"\\ud83d": 1}', "a.jsonl: line 1: '\\ud83d' holds"),
        ("a.jsonl", "\n" + "[" * 10_000 + "]" * 10_000, "a.jsonl: line 2: JSON that is nested too deep"),
        (
            "a.jsonl",
            '{"text": "a", "label": ' + DIGITS + "}",
            "a.jsonl: line 1: Exceeds the limit (4300 digits)",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": "x", "text": "b"}',
            "a.jsonl: line 1: the key 'text' stands twice",
        ),
        ("a.jsonl", '{"a": {"b": 1, "b": 2}}', "a.jsonl: line 1: the key 'b' stands twice"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_by_place(tmp_path, name, content, message):
    assert message in refused(lambda: records(write(tmp_path / name, content)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", SURROGATE, "a.jsonl: line 2: 'b \\ud83d' holds \\ud83d at character 3"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "a", "n": ' + DIGITS + "}",
            "a.jsonl: line 2: Exceeds the limit",
        ),
        (
            "a.jsonl",
            '{"text": ' + "[" * 10_000 + "]" * 10_000 + "}",
            "a.jsonl: line 1: JSON that is nested too deep",
        ),
        ("a.txt", "a b\n".encode("utf-16"), "a.txt: byte 0 begins UTF-16"),
        ("a.txt", b"a\nb\0\n", "a.txt: byte 3 is NUL, in line 2"),
        (
            "a.txt.gz",
            gzip.compress(b"ab\0", mtime=0),
            "a.txt.gz: byte 2 of the uncompressed text is NUL, in line 1",
        ),
    ],
)
def test_a_corpus_that_cannot_be_meant_is_refused_by_place(tmp_path, name, content, message):
    assert message in refused(lambda: documents(write(tmp_path / name, content)))


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "\\ud83d\\ude00", "label": 1}')
    assert records(path)[0].values["text"] == "\U0001f600"


def test_byte_order_marks_belong_to_no_text(tmp_path):
    mark = "\ufeff"
    path = write(tmp_path / "a.txt", f"{mark}one\n\n{mark}two\n")
    assert list(documents(path)) == ["one", "two"]
    given = io.BytesIO(f"{mark}one\ntwo\n".encode())
    assert list(lines(tmp_path / "standard input", given)) == ["one\n", "two\n"]
    path = write(tmp_path / "a.jsonl", f'{mark}{{"text": "a"}}\n{mark}{{"text": "b"}}\n')
    assert [record.values["text"] for record in records(path)] == ["a", "b"]


def test_a_file_is_read_once(tmp_path):
    first, second = write(tmp_path / "a.txt", "one"), write(tmp_path / "b.txt", "two")
    pattern = str(tmp_path / "*.txt")
    assert "a.txt is matched by" in refused(lambda: documents([first, pattern]))
    assert "name it once" in refused(lambda: documents([second, second]))
    (tmp_path / "c.txt").symlink_to(first)
    assert f"again by {pattern!r} as {tmp_path}/c.txt, which is the same file" in refused(
        lambda: documents(pattern)
    )
    assert list(documents([first, second])) == ["one", "two"]
    table = write(tmp_path / "a.csv", "text,label\na,b\n")
    assert "read twice" in refused(lambda: records([table, str(tmp_path / "*.csv")]))
    assert "tfds:x:train is named twice" in refused(lambda: documents(["tfds:x", "tfds:x:train"]))


# CoNLL


def sentences(text):
    return [columns for _, columns in read_conll(io.StringIO(text), "f.conll")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Comments with as many columns as the words, with more, and in front of the first sentence.
        ("# id 7-a\tdomain=en\nParis _ _ B\n\n# id 8 domain=en\nis _ _ O\n", [["Paris"], ["is"]]),
        ("# sent_id = 3\na X O\n\n# text = a b c\nb X O\n", [["a"], ["b"]]),
        ("# made by hand, for a test\n\na B\n", [["a"]]),
        ("#\n# two lines\na B\n# key = value\nb O\n", [["a", "b"]]),
        ("#sent_id=1 x\na O\n", [["a"]]),
        ("a\tO\n# text = a b\nb c\tO\n", [["a", "b c"]]),
        # Words.
        ("# O\nfoo B\n", [["#", "foo"]]),
        ("# O\n# B\n", [["#", "#"]]),
        ("foo B\n# O\n#1 O\n", [["foo", "#", "#1"]]),
        ("# = O\nx SYM O\n", [["#", "x"]]),
        ("a Num=1 O\n# Type=Sym O\n", [["a", "#"]]),
        # Document starts, as any version of the format writes them.
        ("-DOCSTART- -X- O O\n\na X X B\n\n-DOCSTART-\n\nb X X O\n", [["a"], ["b"]]),
        ("a B\n-DOCSTART-(2 testa) O\nb O\n", [["a"], ["b"]]),
        # White space that is part of a word.
        ("10\u00a0000 NUM\nNew\u3000York LOC\n", [["10\u00a0000", "New\u3000York"]]),
        ("a\u2028b O\n \t\n\u00a0\nc O\n", [["a\u2028b"], ["c"]]),
        ("a  X \t O \nb X O\n", [["a", "b"]]),
    ],
)
def test_conll_lines_are_words_or_comments_by_the_format(text, expected):
    assert [columns[0] for columns in sentences(text)] == expected


@pytest.mark.parametrize("text", ["foo B\n#\n", "foo B\nbar\n", "# O\na X B\n# _ X Y Z\nb X\n"])
def test_conll_words_of_other_columns_are_refused(text):
    assert "columns, the lines before have" in refused(lambda: sentences(text))


# Classes


def labelled(*labels, text="a"):
    return [SequenceExample(text=f"{text}{i}", label=label) for i, label in enumerate(labels)]


def test_class_names_are_tidied_wherever_labels_are_read(capsys):
    def record(**values):
        return Record(values=values, where="f: 1")

    composed, decomposed = "caf\u00e9", "cafe\u0301"
    read = sequence_examples(
        [record(text="a", label=label) for label in (composed, f" {decomposed}\u00a0", "bad\t")]
    )
    assert [example.label for example in read] == [composed, composed, "bad"]
    assert (
        "2 labels are read without the white space around them and in composed form"
        in capsys.readouterr().err
    )
    assert token_examples([record(tokens=["a"], tags=[" O"])])[0].tags == ("O",)
    assert "1 labels are read" in capsys.readouterr().err
    assert sequence_examples([record(text="a", label=1)])[0].label == "1" and not capsys.readouterr().err
    with pytest.raises(DataError, match="f: 1: 'label' is ' '; a label is a word"):
        sequence_examples([record(text="a", label=" ")])


def test_equal_numbers_have_one_order():
    assert in_order({"01", "1", "2", "001"}) == ("001", "01", "1", "2") == in_order(["2", "1", "001", "01"])
    assert in_order({"9" * 4500, "1"}) == ("1", "9" * 4500)


def test_classes_of_older_and_published_runs_are_found_by_tidy_names():
    ids = ClassIds(("bad ", "cafe\u0301", "a", "a "))
    assert [ids.of(label, "") for label in ("bad", "caf\u00e9", "a", "bad ", None)] == [0, 1, 2, 0, -1]
    assert ClassIds(("x", "x")).of("x", "") == 0
    assert "f: label 'y' is not among the 2 known: x ,  x" in refused(
        lambda: [ClassIds(("x ", " x")).of("y", "f")]
    )


def test_classes_are_counted_and_oddities_said():
    (line,) = about_classes(["good"] * 3 + ["bad"] * 2)
    assert line == "classes: 2 in 5 training labels: good 3, bad 2"
    alike = about_classes(["bad", "bad", "Bad", "good", "good", "\ufb01ne", "fine", "fine", "fi\u200bne"])[1]
    assert (
        "'Bad' (1) and 'bad' (2), 'fine' (2) and 'fi\\u200bne' (1) and '\ufb01ne' (1): if they are one"
        in alike
    )
    single = about_classes([f"{i / 10}" for i in range(79)])[-1]
    assert single.startswith(
        "79 of 79 classes have one training label: numbers to be estimated are no classes"
    )
    assert "are the columns the right ones?" in about_classes([f"class {i}" for i in range(30)])[-1]


def test_columns_the_wrong_way_round_are_refused():
    swapped = [SequenceExample(text=("good", "bad")[i % 2], label=f"text {i}") for i in range(80)]
    with pytest.raises(
        DataError, match="80 training labels are 80 different ones, their texts only 2: are the columns"
    ):
        class_names(swapped)
    assert len(class_names(labelled(*(f"c{i}" for i in range(80))))) == 80
    with pytest.raises(
        DataError, match="one column is read twice .text is 'text' and label is 'text'.: name another"
    ):
        sequence_examples([], label="text")


def test_thousands_of_classes_are_read_and_named_in_short():
    examples = labelled(*(f"c{i % 12_000:05}" for i in range(24_000)))
    started = time.monotonic()
    classes = class_names(examples)
    ids = ClassIds(classes)
    assert [ids.of(example.label, "") for example in examples] == [i % 12_000 for i in range(24_000)]
    # A search through all classes for each label took 10 s and more.
    assert time.monotonic() - started < 4
    unknown = [SequenceExample(text="a", label="x" * 5000, where="f: 1")]
    message = refused(lambda: sequence_rows(unknown, tokenizer=Letters(), classes=classes, length=16))
    assert message.endswith("c00007 and 11,992 more")
    wide = Record(values={f"column{i}": 1 for i in range(5000)}, where="f: 1")
    assert "and 4,992 more" in refused(lambda: sequence_examples([wide]))
    assert a_few("abc", most=2) == "a, b and 1 more" and a_few("ab", most=2) == "a, b"


# Texts without words


class Unframed(Letters):
    eos_id = 1

    def frame(self, pair):
        return Frame()


def test_an_empty_text_has_a_place_where_nothing_stands_around_it():
    examples = [
        SequenceExample(text="ab", label="x"),
        SequenceExample(text=" ", label="y"),
        SequenceExample(text=""),
    ]
    rows = sequence_rows(examples, tokenizer=Unframed(), classes=("x", "y"), length=8)
    batch, owners = rows.take(range(len(rows))), rows.examples(range(len(rows)))
    assert sorted(owners[owners >= 0]) == [0, 1, 2] and (batch["tokens"] == 1).sum() == 2
    pair = [SequenceExample(text="", text_pair="")]
    assert (
        sequence_rows(pair, tokenizer=Unframed(), classes=("x", "y"), length=8).take([0])["type_ids"].sum()
        == 0
    )


def test_half_a_surrogate_pair_is_refused_wherever_texts_come_from():
    for texts in (("a\ud83d", "b"), ("a", "\ud83d")):
        examples = [SequenceExample(text=a, text_pair=b) for a, b in (("fine", "b"), texts)]
        with pytest.raises(DataError, match="text 2 holds .ud83d"):
            sequence_rows(examples, tokenizer=Letters(), classes=("x",), length=8)
    words = [TokenExample(words=("a", "\ud83d"), where="f: 3")]
    assert refused(lambda: token_rows(words, tokenizer=Letters(), classes=("x",), length=8)).startswith(
        "f: 3 holds"
    )


def test_published_json_with_a_number_of_thousands_of_digits_is_named(tmp_path):
    path = tmp_path / "config.json"
    for content in ('{"a": ' + DIGITS + "}", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(ValueError, match="config.json is damaged: "):
            read_object(path, 10**6)
