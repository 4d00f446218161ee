"""What the user names as input, files or a TFDS data set, as one stream of texts or sequence of records.

Must not know tokens.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data import packages
from data.files import said
from data.records import DataError, Record, expand, read_documents, read_table


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

    import data.tfds_builders  # noqa: F401  registers our builders

    directory = packages.cache_dir() / "tfds"
    try:
        # TFDS writes TFRecord unless told otherwise, which needs TensorFlow and has no random access.
        source: Sequence[dict[str, Any]] = tfds.data_source(
            name, split=split, data_dir=directory, builder_kwargs={"file_format": "array_record"}
        )
    except OSError as error:
        # Also what its library for the network raises.
        raise DataError(
            f"the TFDS data set {name} cannot be fetched or kept in {directory}: {said(error)}"
        ) from error
    return source


class TextSource:
    """Texts of files or of a TFDS split, in a fixed order, iterated as often as wanted."""

    def __init__(self, specs: str | Sequence[str], *, column: str = "text"):
        self.specs = [specs] if isinstance(specs, str) else list(specs)
        self.column = column
        self.done = 0.0
        """Share of the input read by the newest iteration, for a progress bar."""
        if not self.specs:
            raise DataError("no input: name files or a TFDS data set")
        self._parts = [self._tfds(spec) if is_tfds(spec) else expand([spec]) for spec in self.specs]

    def _tfds(self, spec: str) -> tuple[str, Sequence[dict[str, Any]]]:
        name, split = parse_tfds(spec)
        return f"tfds:{name}:{split}", tfds_source(name, split)

    @property
    def size(self) -> int:
        """Bytes of the files, and a thousand for each TFDS example: how much work there is."""
        return sum(
            len(part[1]) * 1000 if isinstance(part, tuple) else sum(p.stat().st_size for p in part)
            for part in self._parts
        )

    @property
    def fingerprint(self) -> str:
        """Digest of what would be read: names, sizes and times of files; name, length and ends of a split."""
        parts: list[str] = [self.column]
        for part in self._parts:
            if isinstance(part, tuple):
                name, source = part
                parts += [name, str(len(source)), repr(source[0]), repr(source[len(source) - 1])]
            else:
                stats = [(str(path.resolve()), path.stat()) for path in part]
                parts += [f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats]
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
                        for text in read_documents(path, self.column, raw):
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
            yield value.decode() if isinstance(value, bytes) else value


def documents(specs: str | Sequence[str], *, column: str = "text") -> TextSource:
    """Texts named by globs of .txt/.jsonl(.gz) files, `tfds:NAME[/config][:split]` or a plain TFDS name."""
    return TextSource(specs, column=column)


def records(specs: str | Sequence[str], *, split: str = "train") -> list[Record]:
    """Records of globs of .csv/.tsv/.jsonl/.conll(.gz) files or of a TFDS split, classes by their names."""
    out: list[Record] = []
    for spec in [specs] if isinstance(specs, str) else specs:
        if is_tfds(spec):
            out += _tfds_records(*parse_tfds(spec, split))
        else:
            out += [record for path in expand([spec]) for record in read_table(path)]
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
        values = {key: _plain(features[key], value) for key, value in source[number].items()}
        yield Record(values=values, where=f"tfds:{name}:{split}: record {number}")


def _plain(feature: Any, value: Any) -> Any:
    """Bytes to text, class numbers to class names, arrays and sequences to lists."""
    inner = getattr(feature, "feature", feature)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [_plain(inner, item) for item in value]
    # Some data sets mark a hidden label by -1, which has no name.
    named = isinstance(value, int) and value >= 0 and hasattr(inner, "int2str")
    return inner.int2str(value) if named else value
