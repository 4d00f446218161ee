"""What a user's words name: a file on this machine, several, a data set; and what names nothing here."""

from pathlib import Path

import pytest

from data.packages import cache_dir
from data.paths import local_path
from data.prepare import prepare
from data.records import DataError
from data.sources import documents, records
from data.tokenizer import load_tokenizer


def write(path, content):
    path.write_text(content)
    return str(path)


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path):
    (tmp_path / "run[1]").mkdir()
    path = write(tmp_path / "run[1]" / "a[bc]?.jsonl", '{"text": "a"}\n')
    other = write(tmp_path / "ab.jsonl", '{"text": "b"}\n')
    assert [record.values["text"] for record in records(path)] == ["a"]
    assert list(documents(path)) == ["a"]
    assert [record.values["text"] for record in records(f"{tmp_path}/a[bc].jsonl")] == ["b"] and other


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "a path is empty"),
        ("  ", "a path is empty"),
        ("gs://bucket/a.txt", "gs://bucket/a.txt is a remote address"),
        (Path("s3://bucket/a"), "s3:/bucket/a is a remote address"),
        ("file:///a.txt", "is a remote address"),
        ("~nobody-of-this-name/a.txt", "~nobody-of-this-name/a.txt: "),
    ],
)
def test_a_path_that_names_no_place_here_is_refused(written, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        local_path(written)
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/a") == Path("/home/me/a") and local_path("c:x") == Path("c:x")


def test_every_reader_takes_the_home_folder_and_no_remote_address(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", '{"text": "a"}\n')
    assert list(documents("~/a.jsonl")) == ["a"]
    monkeypatch.setenv("HANDOFF_CACHE", "~/kept")
    assert cache_dir() == tmp_path / "kept"
    remote = "s3://bucket/x"
    for read in (records, documents, load_tokenizer, lambda x: prepare("~/a.jsonl", tokenizer=x, out=x)):
        with pytest.raises(ValueError, match="remote address"):
            read(remote)


def test_a_mistyped_data_set_is_met_with_the_nearest_names():
    with pytest.raises(DataError) as error:
        records("rotten_tomato")
    assert str(error.value).startswith("rotten_tomato is neither a file nor a TFDS data set; the nearest of")
    assert "rotten_tomatoes, " in str(error.value) and len(str(error.value)) < 200
