"""Which of a family's classes a file is of, and what its classifier's classes are called."""

from collections.abc import Mapping
from typing import Any

from finetune.published.family import Family, Heads, head_rules

_MOST_CLASSES = 1_000_000
_SHOWN = 8


def choose_architecture(
    family: Family, config: Mapping[str, Any], file: str, prefix: str, spelled: Mapping[str, str], tied: bool
) -> str:
    """The class that config.json (at `file`) names, or one with more heads where the tensors have them.

    Files often hold more than the class that they name: bert-base-uncased names BertForMaskedLM and has all heads of
    BertForPreTraining. Where no class is named, the tensors say which it is.

    Args:
      family: the file's.
      config: its config.json.
      file: where that is, for errors.
      prefix: before the names of the backbone.
      spelled: has the names of all tensors.
      tied: whether the token table also makes the logits, as config.json says.

    Raises:
      ValueError: `architectures` is no list of names, or there is none and the tensors fit several classes.
    """
    names = config["architectures"] if "architectures" in config else None
    if names is None or names == []:
        return _unnamed(family, file, prefix, spelled, tied)
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise ValueError(f"{file}: architectures is {names!r}, which is no list of names")
    named = names[0]
    own = family.architectures[named] if named in family.architectures else {}
    if not own or named == family.bare_architecture:
        return named
    whole = {
        name: len(heads)
        for name, heads in family.architectures.items()
        if own.keys() <= heads.keys()
        and all(heads[head] is rules for head, rules in own.items())
        and _has(heads, prefix, spelled)
    }
    return max(whole, key=lambda name: (whole[name], name == named), default=named)


def _has(heads: Heads, prefix: str, spelled: Mapping[str, str]) -> bool:
    return all(rule.theirs in spelled for rule in head_rules(heads, prefix))


def _unnamed(family: Family, file: str, prefix: str, spelled: Mapping[str, str], tied: bool) -> str:
    """The class that leaves the fewest tensors behind."""
    taken = {
        name: len(head_rules(heads, prefix))
        for name, heads in family.architectures.items()
        if _has(heads, prefix, spelled) or (name == family.bare_architecture)
    }
    bare = family.bare_architecture
    if not _has(family.architectures[bare], prefix, spelled):
        taken[bare] = 0
    most = max(taken.values())
    fitting = [name for name, count in taken.items() if count == most]
    if most == 0:
        # Where a bare model and one with tied logits are the same numbers, the latter says more.
        table = tied or any(copy in spelled for copy in family.copies)
        return fitting[-1] if len(fitting) > 1 and table else bare
    if len(fitting) > 1:
        raise ValueError(
            f"{file} names no architectures, and the tensors fit {' and '.join(fitting)}: name one with --architecture"
        )
    return fitting[0]


def class_names(config: Mapping[str, Any], file: str) -> tuple[str, ...]:
    """Names in the order of their numbers; their library calls two of them LABEL_0 and LABEL_1 where nothing is said.

    Raises:
      ValueError: config.json (at `file`) does not number its classes from 0, or one has no name of its own.
    """
    names = config["id2label"] if "id2label" in config else None
    if names is None:
        count = config["num_labels"] if "num_labels" in config else 2
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MOST_CLASSES:
            raise ValueError(f"{file}: num_labels is {count!r}, which is no number of classes")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{file}: id2label is {str(names)[:80]}, which does not name classes by number")
    numbered: dict[int, str] = {}
    for key, name in names.items():
        number = int(key) if key.isdecimal() and len(key) < 10 else -1
        if not 0 <= number < len(names) or number in numbered:
            some = sorted(names)[:_SHOWN]
            raise ValueError(
                f"{file}: id2label numbers its classes {some}{'...' if len(names) > _SHOWN else ''}, not 0 to "
                f"{len(names) - 1}: {key!r} is wrong"
            )
        numbered[number] = _label(name, f"{file}: id2label names class {key}")
    ordered = tuple(numbered[i] for i in range(len(names)))
    first: dict[str, int] = {}
    for number, name in enumerate(ordered):
        if first.setdefault(name, number) != number:
            raise ValueError(
                f"{file}: id2label calls both class {first[name]} and class {number} {name!r}: give each a name of its "
                "own, or leave the classifier behind with --architecture"
            )
    return ordered


def _label(name: Any, where: str) -> str:
    """A class's name as text."""
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise ValueError(f"{where} {name!r}, which is no text")
    text = str(name)
    if "\n" in text or "\r" in text or any("\ud800" <= mark <= "\udfff" for mark in text):
        raise ValueError(f"{where} {text!r}, which cannot be written as one line of text")
    return text
