"""How a config.json that an older version wrote becomes what this one would write: three tables, and what applies them.

To add an entry: `ADDED` for a new field whose value can say "as before"; `CHANGED` for a type that was renamed, or whose
fields were; `WHOLE` for what concerns more than one type. tests/test_train_migrations.py opens the runs of every released
format with them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from data.tokenizer import Tokenizer

Encoded = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one type."""

    kind: str
    """The type as it was stored, "module:Class"."""
    to: Callable[[Encoded], Encoded]
    """From the old encoded value to the new one; the values in it are new already. What is new is returned as it is."""
    account: str
    """For whoever opens the run: what changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeChange:
    """What became of the description as a whole."""

    to: Callable[[Encoded, Callable[[], Tokenizer]], Encoded]
    """From the old description, every type as stored, and what reads the run's tokenizer. What is new is returned as it is.
    """
    account: str
    """For whoever opens the run: what changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """All that a description may need. Earlier entries apply first, so a type can change more than once."""

    added: Mapping[str, Mapping[str, Any]]
    """Type (as it is called now) -> field that was added since -> the encoded value that means as before."""
    changed: tuple[Change, ...]
    whole: tuple[WholeChange, ...]


def renamed(kind: str, new: str) -> Change:
    """A type that is called otherwise, or lies elsewhere, with the same fields."""
    return Change(kind=kind, to=lambda value: {**value, "type": new}, account=f"is {new} now")


def without(kind: str, *fields: str) -> Change:
    """A type that lost fields whose values say nothing any more."""

    def to(value: Encoded) -> Encoded:
        return {name: inner for name, inner in value.items() if name not in fields}

    return Change(kind=kind, to=to, account=f"no longer holds {', '.join(fields)}")


def _companion_checkpoints(description: Encoded, _: Callable[[], Tokenizer]) -> Encoded:
    if "corpora" not in description or "companion_checkpoints" in description:
        return description
    return {**description, "companion_checkpoints": {}}


TABLES = Tables(
    added={
        "train.experiment:Experiment": {"table": "random", "companions": []},
        "objectives.masked_lm:MaskedLM": {"final_rate": None, "rate_examples": 0},
    },
    changed=(),
    whole=(WholeChange(to=_companion_checkpoints, account="companion_checkpoints is {}, as before"),),
)


def migrate(
    description: Encoded, tokenizer: Callable[[], Tokenizer], tables: Tables = TABLES
) -> tuple[Encoded, tuple[str, ...]]:
    """A stored description as this version would have written it, and one line for each thing that changed.

    Args:
      description: what config.json says.
      tokenizer: reads the run's tokenizer; called only if an entry needs it.
      tables: the changes to apply.
    """
    notices: list[str] = []
    for change in tables.whole:
        changed = change.to(description, tokenizer)
        if changed != description:
            notices.append(change.account)
        description = changed
    migrated = {name: _migrate(value, tables, notices) for name, value in description.items()}
    # The objective is stored twice, by itself and in its experiment.
    return migrated, tuple(dict.fromkeys(notices))


def _migrate(value: Any, tables: Tables, notices: list[str]) -> Any:
    if isinstance(value, list):
        return [_migrate(one, tables, notices) for one in value]
    if not isinstance(value, dict):
        return value
    value = {name: _migrate(inner, tables, notices) for name, inner in value.items()}
    # A published checkpoint's own configuration, stored beside ours, may call something else its type.
    if "type" not in value or not isinstance(value["type"], str):
        return value
    for change in tables.changed:
        if change.kind == value["type"] and (changed := change.to(value)) != value:
            notices.append(f"{change.kind} {change.account}")
            # It may hold values of types that have changed since the entry was written.
            value = {name: _migrate(inner, tables, notices) for name, inner in changed.items()}
    kind = value["type"]
    for name, as_before in tables.added[kind].items() if kind in tables.added else ():
        if name not in value:
            notices.append(f"{kind} has {name} {as_before!r}, as before")
            value = {**value, name: as_before}
    return value
