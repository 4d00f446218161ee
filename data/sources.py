"""What the user names as input, files or a TFDS data set, as one stream of texts or sequence of records."""

import difflib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import packages
from data.digests import file_digest
from data.files import said
from data.records import DataError, DocumentEnd, Record, expand, read_documents, read_table


def is_tfds(spec: str) -> bool:
    """Whether a spec names a TFDS data set: `tfds:...`, or a plain name that could be no file."""
    return spec.startswith("tfds:") or not (set(spec) & set("*?[./\\~") or os.path.exists(spec))


def parse_tfds(spec: str, split: str = "train") -> tuple[str, str]:
    """`tfds:NAME[/config][:split]` or `NAME[:split]` as (name, split)."""
    name, _, own = spec.removeprefix("tfds:").partition(":")
    if not name:
        raise DataError(f"{spec!r} names no TFDS data set: write tfds:NAME[/config][:split]")
    return name, own or split


def tfds_source(name: str, split: str) -> Sequence[dict[str, Any]]:
    """Random access to one split, built on first use under the cache; any TFDS name works."""
    # TFDS takes a second to import; worker processes and users of plain files need none of it.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    import data.tfds_builders  # noqa: F401  registers our builders

    directory = packages.cache_dir() / "tfds"
    # TFDS writes TFRecord unless told otherwise, which needs TensorFlow and has no random access.
    try:
        source: Sequence[dict[str, Any]] = tfds.data_source(
            name, split=split, data_dir=directory, builder_kwargs={"file_format": "array_record"}
        )
    except DatasetNotFoundError as error:
        raise DataError(_no_data_set(name, tfds.list_builders(with_community_datasets=False))) from error
    except OSError as error:
        # Also what its library for the network raises.
        raise DataError(
            f"the TFDS data set {name} cannot be fetched or kept in {directory}: {said(error)}"
        ) from error
    return source


def _named(specs: Sequence[str], split: str) -> list[tuple[str, str] | list[Path]]:
    """For each spec the (name, split) of a TFDS data set or its files, none of them twice."""
    files = iter(expand([spec for spec in specs if not is_tfds(spec)]))
    parts = [parse_tfds(spec, split) if is_tfds(spec) else next(files) for spec in specs]
    if twice := [part for i, part in enumerate(parts) if isinstance(part, tuple) and part in parts[:i]]:
        raise DataError(f"tfds:{':'.join(twice[0])} is named twice: it would be read twice; name it once")
    return parts


def _split_files(source: Any) -> list[Path]:
    """The files that hold a split, or the part of it that is read; none of a source that is in no files."""
    if not source.dataset_info.splits:
        return []
    instructions = source.dataset_info.splits[source.split].file_instructions
    return [Path(instruction.filename) for instruction in instructions]


def _no_data_set(name: str, known: Sequence[str]) -> str:
    """What to say where no data set has that name, which may also have been meant as a file."""
    near = difflib.get_close_matches(name.partition("/")[0].lower(), known, n=3, cutoff=0.0)
    return f"{name} is neither a file nor a TFDS data set; the nearest of these are {', '.join(near)}"


class TextSource:
    """Texts of files or of a TFDS split, in a fixed order, iterated as often as wanted."""

    def __init__(self, specs: str | Sequence[str], *, column: str = "text", end: DocumentEnd = "blank line"):
        self.specs = [specs] if isinstance(specs, str) else list(specs)
        self.column = column
        self.end: DocumentEnd = end
        self.done = 0.0
        """Share of the input read by the newest iteration, for a progress bar."""
        if not self.specs:
            raise DataError("no input: name files or a TFDS data set")
        self._parts = [
            (f"tfds:{part[0]}:{part[1]}", tfds_source(*part)) if isinstance(part, tuple) else part
            for part in _named(self.specs, "train")
        ]

    @property
    def size(self) -> int:
        """Bytes of the files, and a thousand for each TFDS example: how much work there is."""
        return sum(
            len(part[1]) * 1000 if isinstance(part, tuple) else sum(p.stat().st_size for p in part)
            for part in self._parts
        )

    @property
    def fingerprint(self) -> str:
        """Digest of what would be read: names and contents of files; name, length, ends and files of a split."""
        # What corpora were prepared with before there was a choice stays their fingerprint.
        parts: list[str] = [self.column, *([] if self.end == "blank line" else [self.end])]
        for part in self._parts:
            if isinstance(part, tuple):
                name, source = part
                ends = [repr(source[0]), repr(source[len(source) - 1])]
                parts += [name, str(len(source)), *ends, *map(file_digest, _split_files(source))]
            else:
                parts += [f"{path.name}:{file_digest(path)}" for path in part]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __iter__(self) -> Iterator[str]:
        total, read = max(1, self.size), 0
        for part in self._parts:
            if isinstance(part, tuple):
                for text in self._split_texts(*part):
                    yield text
                    read += 1000
                    self.done = read / total
            else:
                for path in part:
                    with open(path, "rb") as raw:
                        for text in read_documents(path, self.column, raw, self.end):
                            if not raw.closed:
                                self.done = (read + raw.tell()) / total
                            yield text
                    read += path.stat().st_size
        self.done = 1.0

    def _split_texts(self, name: str, source: Sequence[dict[str, Any]]) -> Iterator[str]:
        for number in range(len(source)):
            example = source[number]
            if self.column not in example:
                raise DataError(f"{name}: no column {self.column!r}; found {', '.join(map(repr, example))}")
            value = example[self.column]
            if not isinstance(value, bytes | str):
                raise DataError(
                    f"{name}: record {number}: {self.column!r} is no text but {type(value).__name__}"
                )
            yield _text(value, f"{name}: record {number}") if isinstance(value, bytes) else value


def documents(
    specs: str | Sequence[str], *, column: str = "text", end: DocumentEnd = "blank line"
) -> TextSource:
    """Texts named by globs of .txt/.jsonl(.gz) files, `tfds:NAME[/config][:split]` or a plain TFDS name."""
    return TextSource(specs, column=column, end=end)


def records(specs: str | Sequence[str], *, split: str = "train") -> list[Record]:
    """Records of globs of .csv/.tsv/.jsonl/.conll(.gz) files or of a TFDS split, classes by their names."""
    out: list[Record] = []
    for part in _named([specs] if isinstance(specs, str) else specs, split):
        if isinstance(part, tuple):
            out += _tfds_records(*part)
        else:
            out += [record for path in part for record in read_table(path)]
    if not out:
        raise DataError(f"{specs}: holds no records")
    return out


def _tfds_records(name: str, split: str) -> Iterator[Record]:
    import tensorflow_datasets as tfds

    source = tfds_source(name, split)
    features = tfds.builder(
        name, data_dir=packages.cache_dir() / "tfds", file_format="array_record"
    ).info.features
    for number in range(len(source)):
        where = f"tfds:{name}:{split}: record {number}"
        values = {key: _plain(features[key], value, where) for key, value in source[number].items()}
        yield Record(values=values, where=where)


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} of a text is not UTF-8 ({error.reason})") from error


def _plain(feature: Any, value: Any, where: str) -> Any:
    """Bytes to text, class numbers to class names, arrays and sequences to lists."""
    inner = getattr(feature, "feature", feature)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return _text(value, where)
    if isinstance(value, list | tuple):
        return [_plain(inner, item, where) for item in value]
    # Some data sets mark a hidden label by -1, which has no name.
    named = isinstance(value, int) and value >= 0 and hasattr(inner, "int2str")
    return inner.int2str(value) if named else value
