"""User files to texts and records: .txt, .jsonl, .csv, .tsv, .conll, each plain or .gz.

Every mistake in a file is one line that names the file and the line, record or byte.
"""

import csv
import dataclasses
import glob
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from data.paths import local_path

TEXT_SUFFIXES = (".txt", ".jsonl")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".conll")
_MARK = b"\xef\xbb\xbf"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")
_WHITE = " \t\r\n"
_BLANKS, _TABS = re.compile(r"[ \t]+"), re.compile(r" *\t[ \t]*")
_CONLL_KEYS = ("id", "sent_id", "text", "newdoc", "newpar")
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Something in the user's data is wrong; the message names the place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a table, and where it stood."""

    values: dict[str, Any]
    where: str


def expand(patterns: Sequence[str]) -> list[list[Path]]:
    """For each glob the files that match it, sorted; DataError for a file that would be read twice."""
    expanded: list[list[Path]] = []
    seen: dict[Path, tuple[Path, str]] = {}
    for pattern in patterns:
        path = local_path(pattern)
        # A name with brackets in it is a name, where there is such a file.
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise DataError(f"no files match {pattern!r}")
        # A recursive pattern may give one path several times.
        files = list(dict.fromkeys(Path(match) for match in matches if Path(match).is_file()))
        if not files:
            raise DataError(f"only folders match {pattern!r}")
        for path in files:
            if path.resolve() in seen:
                first, by = seen[path.resolve()]
                also = "" if first == path else f" as {path}, which is the same file"
                raise DataError(
                    f"{first} is matched by {by!r} and again by {pattern!r}{also}: it would be read twice; name it once"
                )
            seen[path.resolve()] = (path, pattern)
        expanded.append(files)
    return expanded


def a_few(items: Iterable[object], most: int = 8) -> str:
    """The first of many, as a message may show them, and how many more there are.

    >>> a_few(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = [text if len(text := str(item)) <= 60 else f"{text[:57]}..." for item in items]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more:,} more" if more > 0 else "")


def check_unicode(text: str, what: str) -> None:
    """DataError where a text holds half of a surrogate pair, which is no character and no tokenizer can read."""
    if found := _SURROGATE.search(text):
        raise DataError(
            f"{what} holds \\u{ord(found[0]):04x} at character {found.start() + 1}, half of a surrogate pair and no "
            "character: mend or leave out that text"
        )


def kind(path: Path, allowed: Sequence[str]) -> str:
    """The suffix that says how a file is read, without .gz."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in allowed:
        raise DataError(f"{path}: expected {', '.join(allowed)} (or .gz of these)")
    return suffix


def lines(path: Path, raw: IO[bytes] | None = None) -> Iterator[str]:
    """Lines with their ends, decoded as UTF-8; `raw` lets the caller watch the position in the file.

    A byte-order mark in front of a line is no part of it: files that have one may have been put together.
    """
    with raw or open(path, "rb") as file:
        stream: Iterable[bytes] = gzip.open(file, "rb") if path.suffix == ".gz" else file
        offset = 0
        try:
            for number, line in enumerate(stream, 1):
                yield _decoded(path, number, line, offset)
                offset += len(line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file after {offset} bytes ({error})") from error


def _decoded(path: Path, number: int, line: bytes, offset: int) -> str:
    """One line of a file, which begins at that byte."""
    inside = " of the uncompressed text" if path.suffix == ".gz" else ""
    if offset == 0 and line.startswith(_OTHER_UNICODE):
        raise DataError(f"{path}: byte 0{inside} begins UTF-16 or UTF-32: write the file as UTF-8")
    if b"\0" in line:
        raise DataError(
            f"{path}: byte {offset + line.index(0)}{inside} is NUL, in line {number}: this is no text, or UTF-16 or "
            "UTF-32 in place of UTF-8"
        )
    body = line.removeprefix(_MARK)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        at = offset + len(line) - len(body) + error.start
        raise DataError(
            f"{path}: byte {at}{inside} is not UTF-8 ({error.reason}), in line {number}"
        ) from error


DocumentEnd = Literal["blank line", "line"]
"""What ends a document of a .txt file."""


def read_documents(
    path: Path, column: str = "text", raw: IO[bytes] | None = None, end: DocumentEnd = "blank line"
) -> Iterator[str]:
    """Texts of a .txt file, parted as `end` says, or of a .jsonl file's `column`."""
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
        if document and (end == "line" or not line.strip()):
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
    yield from _csv_records(path, suffix)


def _csv_records(path: Path, suffix: str) -> Iterator[Record]:
    # The default limit of 131,072 characters is shorter than a long article.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    if suffix == ".csv":
        rows = csv.reader(lines(path), strict=True)
    else:
        rows = csv.reader(lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    begins = 1
    try:
        header = next(rows, None)
        if header is None:
            raise DataError(f"{path}: is empty; its first line should name the columns")
        _check_header(path, header)
        names = sorted(map(_plain, header))
        number = 0
        begins = rows.line_num + 1
        for row in rows:
            # A field may hold line breaks.
            line, begins = begins, rows.line_num + 1
            if not row:
                continue
            number += 1
            where = f"{path}: record {number} (line {line})"
            if len(row) != len(header):
                raise DataError(
                    f"{where} has {len(row)} fields, the header names {len(header)}: {a_few(header)}"
                )
            if sorted(map(_plain, row)) == names:
                raise DataError(
                    f"{where} names the columns again: were two files put together? Delete that line, or keep them apart"
                )
            yield Record(values=dict(zip(header, row, strict=True)), where=where)
    except csv.Error as error:
        hint = (
            f" (is a quote left open in the record that begins at line {begins}?)" if suffix == ".csv" else ""
        )
        raise DataError(f"{path}: line {rows.line_num}: {error}{hint}") from error


def _plain(name: str) -> str:
    return name.strip().casefold()


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = [name for i, name in enumerate(header) if name and name in header[:i]]
    if twice:
        raise DataError(f"{path}: line 1 names the column {twice[0]!r} twice: rename or delete one of them")


def required(record: Record, column: str) -> Any:
    """A column's value, or an error that names the columns there are."""
    if column not in record.values:
        raise DataError(f"{record.where}: no column {column!r}; found {a_few(map(repr, record.values))}")
    return record.values[column]


def read_conll(source: Iterable[str], name: str) -> Iterator[tuple[int, list[list[str]]]]:
    """(number, columns) of sentences in CoNLL form: one word per line, a blank line between sentences.

    Columns are parted by tabs alone where the first word's line has no space, else by spaces and tabs; a no-break space is
    part of a word. `-DOCSTART-` lines and comments (`# id 7 domain=en`) are left out, as the format has them. All others
    must have the same number of columns.
    """
    blocks = list(_conll_blocks(source))
    # Words may begin with #, so the columns are counted where there can be no comment.
    every = [line for block in blocks for _, line in block]
    first = next((line for line in every if not line.startswith("#")), "") or next(
        (line for line in every if not _has_key(line.split())), ""
    )
    parting = _TABS if "\t" in first and " " not in first else _BLANKS
    width = len(parting.split(first)) if first else 0
    number = 0
    for block in blocks:
        words = [parting.split(line) for _, line in block if not line.startswith("#")]
        # Where columns hold keys and values themselves, these tell no comment.
        keyed = not any("=" in column for columns in words for column in columns[1:])
        sentence: list[list[str]] = []
        for at, line in block:
            fields = parting.split(line)
            other = len(fields) != width and (not sentence or len(fields) > width)
            if line.startswith("#") and (other or (keyed and _has_key(line.split()))):
                continue
            if len(fields) != width:
                raise DataError(f"{name}: line {at} has {len(fields)} columns, the lines before have {width}")
            sentence.append(fields)
        if sentence:
            yield number, [list(column) for column in zip(*sentence, strict=True)]
            number += 1


def _conll_blocks(source: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each sentence, without white space around them."""
    block: list[tuple[int, str]] = []
    for at, line in enumerate(source, 1):
        if line.strip() and not line.lstrip().startswith("-DOCSTART-"):
            block.append((at, line.strip(_WHITE)))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _has_key(parts: Sequence[str]) -> bool:
    """Whether a line that begins with # has a key, as comments have: `# id 7`, `# text = a`, `#a=b`, `# x domain=en`."""
    if parts[0] != "#":
        return "=" in parts[0] or parts[1:2] == ["="]
    named = len(parts) > 2 and parts[1] in _CONLL_KEYS
    return named or parts[2:3] == ["="] or any("=" in part.strip("=") for part in parts[1:])


def _json_records(path: Path, raw: IO[bytes] | None) -> Iterator[Record]:
    for number, line in enumerate(lines(path, raw), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_once_each)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: malformed JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise DataError(f"{where}: JSON that is nested too deep") from error
        except ValueError as error:
            # A key that stands twice, or a number of thousands of digits.
            raise DataError(f"{where}: {error}".split("; use sys.")[0]) from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected a JSON object, found {type(values).__name__}")
        # Read from UTF-8, only an escape can give one.
        if "\\ud" in line.lower():
            for text in _texts(values):
                check_unicode(text, f"{where}: {text[:20]!r}")
        yield Record(values=values, where=where)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these keys and values; ValueError for a key that stands twice, of which one would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {twice!r} stands twice in one record: rename or delete one of them")
    return values


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
