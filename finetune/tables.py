"""The labelled tables of a run: read, held against one another, and told from others by digests."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from data.digests import records_digest
from data.records import Record
from data.sources import is_tfds, records
from finetune.experiment import FineTune
from finetune.tasks.base import Columns, Example

SPLITS = {"train": "train", "eval": "validation", "test": "test"}
"""The split of a TFDS data set that is meant where its name gives none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """All labelled examples of a run."""

    experiment: FineTune
    """As given, but with its columns resolved."""
    examples: dict[str, list[Example]]
    """By split."""
    inputs: dict[str, Any]
    """A digest of each table, by the field of the experiment that names it."""
    reports: tuple[str, ...]
    """What is odd about them, a line each."""


def read_records(spec: str, name: str) -> list[Record]:
    """Records of files or a TFDS split; `name` says which split a plain TFDS name means."""
    # A split of a named version never changes, and a study reads the same few many times; files may change.
    return (_read_split if is_tfds(spec) else records)(spec, split=SPLITS[name])


_read_split = functools.lru_cache(maxsize=6)(records)


def columns_of(some: Sequence[Record]) -> set[str]:
    """Columns that any of the records has: files of JSON need not have the same in each."""
    return set().union(*(record.values for record in some))


def read_tables(experiment: FineTune) -> Tables:
    """Read every table that the experiment names.

    Raises:
      ValueError: a record is not as the task wants it; it is named.
    """
    task, data = experiment.task, experiment.data
    # The test split is scored after training, but a mistake in it should show before.
    splits = ("train", "eval", "test") if data.test else ("train", "eval")
    found = {name: read_records(getattr(data, name), name) for name in splits}
    # A second text in any table is one in all: else the others would lose theirs in silence.
    columns = task.columns(data.columns, set().union(*map(columns_of, found.values())))
    examples = {name: task.examples(some, columns) for name, some in found.items()}
    data = dataclasses.replace(data, **dataclasses.asdict(columns))
    return Tables(
        experiment=dataclasses.replace(experiment, data=data),
        examples=examples,
        inputs={f"data.{name}": records_digest(some) for name, some in found.items()},
        reports=(*task.about(examples["train"]), *_shared(found, columns)),
    )


def _shared(found: Mapping[str, Sequence[Record]], columns: Columns) -> list[str]:
    """A line for each table that has texts of another."""
    answers = {name: _answers(some, columns) for name, some in found.items()}
    lines = []
    for name, other in (("eval", "train"), ("test", "train"), ("test", "eval")):
        if name not in answers:
            continue
        own, seen = answers[name], answers[other]
        both = own.keys() & seen.keys()
        if not both:
            continue
        differ = sum(own[text] != seen[text] for text in both)
        labels = f", {differ:,} of them with other labels" if differ else ""
        if len(both) == len(own):
            said = f"every text is also in data.{other}{labels}: scores on it"
        else:
            said = f"{len(both):,} of its {len(own):,} different texts are also in data.{other}{labels}: scores on these"
        lines.append(f"data.{name}: {said} say little of new texts")
    return lines


def _answers(some: Sequence[Record], columns: Columns) -> dict[str, set[str]]:
    """Each text, or pair, and the labels that it has."""
    inputs = [name for name in (columns.text, columns.text_pair) if name]
    out: dict[str, set[str]] = {}
    for record in some:
        if all(name in record.values for name in inputs):
            key = json.dumps([record.values[name] for name in inputs], default=str)
            label = record.values[columns.label] if columns.label in record.values else None
            out.setdefault(key, set()).add(json.dumps(label, default=str))
    return out
