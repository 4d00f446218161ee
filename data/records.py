"""User files to texts and records: .txt, .jsonl, .csv, .tsv, .conll, each plain or .gz.

Every mistake in a file is one line that names the file and the line, record or byte.
"""

import csv
import dataclasses
import glob
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

TEXT_SUFFIXES = (".txt", ".jsonl")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".conll")


class DataError(ValueError):
    """Something in the user's data is wrong; the message names the place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a table, and where it stood."""

    values: dict[str, Any]
    where: str


def expand(patterns: Sequence[str]) -> list[Path]:
    """Files that match the globs, sorted, each once."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if not matches:
            raise DataError(f"no files match {pattern!r}")
        files.update((Path(match), None) for match in matches if Path(match).is_file())
    if not files:
        raise DataError(f"only folders match {', '.join(map(repr, patterns))}")
    return list(files)


def kind(path: Path, allowed: Sequence[str]) -> str:
    """The suffix that says how a file is read, without .gz."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in allowed:
        raise DataError(f"{path}: expected {', '.join(allowed)} (or .gz of these)")
    return suffix


def lines(path: Path, raw: IO[bytes] | None = None) -> Iterator[str]:
    """Lines with their ends, decoded as UTF-8; `raw` lets the caller watch the position in the file."""
    with raw or open(path, "rb") as file:
        stream: Iterable[bytes] = gzip.open(file, "rb") if path.suffix == ".gz" else file
        offset = 0
        try:
            for line in stream:
                body = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
                try:
                    yield body.decode()
                except UnicodeDecodeError as error:
                    at = offset + len(line) - len(body) + error.start
                    inside = " of the uncompressed text" if path.suffix == ".gz" else ""
                    raise DataError(f"{path}: byte {at}{inside} is not UTF-8 ({error.reason})") from error
                offset += len(line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file after {offset} bytes ({error})") from error


def read_documents(path: Path, column: str = "text", raw: IO[bytes] | None = None) -> Iterator[str]:
    """Texts of a .txt file, where a blank line ends a document, or of a .jsonl file's `column`."""
    if kind(path, TEXT_SUFFIXES) == ".jsonl":
        for record in _json_records(path, raw):
            text = required(record, column)
            if not isinstance(text, str):
                raise DataError(f"{record.where}: {column!r} is {type(text).__name__}, not a text")
            if text.strip():
                yield text
        return
    document: list[str] = []
    for line in lines(path, raw):
        if line.strip():
            document.append(line.rstrip("\r\n"))
        elif document:
            yield "\n".join(document)
            document = []
    if document:
        yield "\n".join(document)


def read_table(path: Path) -> Iterator[Record]:
    """Records of a .csv (quoted as usual), .tsv (no quoting) or .jsonl file, with named columns.

    A .conll file gives `tokens`, its first column, and `tags`, its last.
    """
    suffix = kind(path, TABLE_SUFFIXES)
    if suffix == ".jsonl":
        yield from _json_records(path, None)
        return
    if suffix == ".conll":
        for number, columns in read_conll(lines(path), str(path)):
            if len(columns) < 2:
                raise DataError(f"{path}: has one column; a .conll line is a word, ..., its tag")
            values = {"tokens": columns[0], "tags": columns[-1]}
            yield Record(values=values, where=f"{path}: sentence {number + 1}")
        return
    # The default limit of 131,072 characters is shorter than a long article.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    if suffix == ".csv":
        rows = csv.reader(lines(path), strict=True)
    else:
        rows = csv.reader(lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = next(rows, None)
        if header is None:
            raise DataError(f"{path}: is empty; its first line should name the columns")
        for number, row in enumerate((row for row in rows if row), 1):
            where = f"{path}: record {number} (line {rows.line_num})"
            if len(row) != len(header):
                raise DataError(
                    f"{where} has {len(row)} fields, the header names {len(header)}: {', '.join(header)}"
                )
            yield Record(values=dict(zip(header, row, strict=True)), where=where)
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}") from error


def required(record: Record, column: str) -> Any:
    """A column's value, or an error that names the columns there are."""
    if column not in record.values:
        raise DataError(f"{record.where}: no column {column!r}; found {', '.join(map(repr, record.values))}")
    return record.values[column]


def read_conll(source: Iterable[str], name: str) -> Iterator[tuple[int, list[list[str]]]]:
    """(number, columns) of sentences in CoNLL form: one word per line, a blank line between sentences.

    `-DOCSTART-` lines are left out. Every line of the file must have the same number of columns.
    """
    sentence: list[list[str]] = []
    number, width = 0, 0
    for at, line in enumerate(source, 1):
        fields = line.split()
        if fields and fields[0] != "-DOCSTART-":
            if width and len(fields) != width:
                raise DataError(f"{name}: line {at} has {len(fields)} columns, the lines before have {width}")
            width = len(fields)
            sentence.append(fields)
        elif sentence:
            yield number, [list(column) for column in zip(*sentence, strict=True)]
            number, sentence = number + 1, []
    if sentence:
        yield number, [list(column) for column in zip(*sentence, strict=True)]


def _json_records(path: Path, raw: IO[bytes] | None) -> Iterator[Record]:
    for number, line in enumerate(lines(path, raw), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: malformed JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected a JSON object, found {type(values).__name__}")
        yield Record(values=values, where=where)
