"""What a run reads from outside, by digests: a run that goes on must read what it read before."""

from collections.abc import Mapping
from typing import Any

from train.restore import Source

INPUTS = "inputs"
"""Where config.json keeps them: the field of the experiment that names an input -> its digest, and how much it is."""
SHORT = 16
"""Digits of a digest that a message shows."""


def init_input(source: Source | None) -> dict[str, Any]:
    """The checkpoint that a run starts from, if it starts from one."""
    return {} if source is None else {"init": {"step": source.step, "sha256": source.digest}}


def unknown(stored: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Inputs of which an older version kept no digest."""
    return sorted(new.keys() - stored.keys())


def same(stored: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields of the experiment all of whose inputs are what they were, wherever they lie."""
    names = stored.keys() | new.keys()
    others = {
        _field(name) for name in names if name not in stored or name not in new or stored[name] != new[name]
    }
    return sorted({_field(name) for name in names} - others)


def changed(stored: Mapping[str, Any], new: Mapping[str, Any], description: Any) -> list[str]:
    """A line for each input that is another one now.

    Args:
      stored: what the run folder keeps.
      new: what was read now.
      description: of the run, to say what each input is called.
    """
    return [
        f"{name} ({_called(description, name)}) was {_said(stored[name])}, is now {_said(new[name])}"
        for name in sorted(new.keys() & stored.keys())
        if stored[name] != new[name]
    ]


def _field(name: str) -> str:
    """The field that names an input, which may be one of several."""
    return name.split("[")[0]


def _said(entry: Mapping[str, Any]) -> str:
    """As a message shows it.

    >>> _said({"records": 3000, "sha256": "0123456789abcdef0123"})
    '3,000 records with sha256 0123456789abcdef...'
    """
    counts = [
        f"step {value}" if name == "step" else f"{value:,} {name}"
        for name, value in entry.items()
        if name != "sha256"
    ]
    return f"{' and '.join(counts)} with sha256 {entry['sha256'][:SHORT]}..."


def _called(description: Any, name: str) -> str:
    """The value of a field of the experiment, such as data.train."""
    value = description
    for part in f"experiment.{_field(name)}".split("."):
        if not isinstance(value, Mapping) or part not in value:
            return "given"
        value = value[part]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
