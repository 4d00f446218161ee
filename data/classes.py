"""Classes by the names that a table gives them: tidied, numbered, counted, and what looks like a mistake said."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data.records import DataError, a_few

NO_LABEL = -1
LONGEST_NUMBER = 4000
"""Digits of a label that is still ordered as a number; Python reads no more than 4,300."""
SWAPPED = 8
"""So many labels, and four times as many as there are different texts, are texts."""


def tidy(label: str) -> str:
    r"""Without white space around it and in composed form (NFC): names that look the same are one class.

    >>> tidy(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", label).strip()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted, as numbers where all are numbers; of equal numbers by their digits."""
    names = set(names)
    if all(name.removeprefix("-").isdecimal() and len(name) <= LONGEST_NUMBER for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


class ClassIds:
    """The number of each class, by its name."""

    def __init__(self, classes: Sequence[str]):
        self._classes = classes
        # Of two classes with one name the first.
        self._ids = {name: number for number, name in reversed(list(enumerate(classes)))}
        self._tidied: dict[str, int | None] = {}
        for number, name in enumerate(classes):
            # Runs of older versions, and published ones, have names that are not tidy.
            self._tidied[tidy(name)] = None if tidy(name) in self._tidied else number

    def of(self, label: str | None, where: str) -> int:
        """The number, NO_LABEL for no label; DataError that begins with `where` for one that is no class."""
        if label is None:
            return NO_LABEL
        if label in self._ids:
            return self._ids[label]
        found = self._tidied[label] if label in self._tidied else None
        if found is None:
            raise DataError(
                f"{where}: label {a_few([repr(label)])} is not among the {len(self._classes):,} known: "
                f"{a_few(self._classes)}"
            )
        return found


def check_sides(labels: Sequence[str], texts: Iterable[object]) -> None:
    """DataError where there are far fewer texts (or words) than labels: then the one is read for the other."""
    different, inputs = len(set(labels)), len(set(texts))
    if different >= max(SWAPPED, 4 * inputs):
        raise DataError(
            f"the {len(labels):,} training labels are {different:,} different ones, their texts only {inputs:,}: are the "
            "columns the wrong way round? Name them with --data.text and --data.label"
        )


def about_classes(labels: Sequence[str]) -> list[str]:
    """Lines for the log: how many examples (or words) each class has, and what looks like a mistake."""
    counts = Counter(labels)
    shown = a_few(f"{name} {count:,}" for name, count in counts.most_common())
    lines = [f"classes: {len(counts):,} in {len(labels):,} training labels: {shown}"]
    alike: dict[str, list[str]] = defaultdict(list)
    for name in in_order(counts):
        alike[_folded(name)].append(name)
    if groups := [names for names in alike.values() if len(names) > 1]:
        said = a_few((" and ".join(f"{name!r} ({counts[name]:,})" for name in names) for names in groups), 4)
        lines.append(f"classes that differ in case or form only: {said}: if they are one, write them alike")
    single = sum(count == 1 for count in counts.values())
    if len(counts) > 2 and 2 * single > len(counts):
        hint = "are the columns the right ones?"
        if all(_is_number(name) for name in counts):
            hint = (
                "numbers to be estimated are no classes, and no task here estimates them: put them into a few ranges, or "
                "write a task (finetune/tasks/base.py)"
            )
        lines.append(f"{single:,} of {len(counts):,} classes have one training label: {hint}")
    return lines


def _folded(name: str) -> str:
    """Without what nobody sees or hears: case, form, white space and invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")


def _is_number(name: str) -> bool:
    try:
        float(name.replace(",", "."))
    except ValueError:
        return False
    return True
