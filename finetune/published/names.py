"""Names of the tensors in a file as its family has them today: without what a training wrapped the model in."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_OLD = ((".gamma", ".weight"), (".beta", ".bias"))
"""How norms were written before 2019; some files still have it."""
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What data parallelism, compilation and the like put between names, of whole models or of their parts."""
_ADAPTERS = re.compile(r".*\.(lora_[A-Za-z_]+|base_layer|modules_to_save|original_module)\b.*")
_SHOWN = 4


class Names(NamedTuple):
    """Names of a file's tensors."""

    spelled: dict[str, str]
    """Name as the family has it -> name in the file."""
    prefix: str
    """What stands before the names of the backbone, of those that the family's classes put there."""
    left_out: tuple[str, ...]
    """What else stood before or between names."""


def tensor_names(stored: Iterable[str], anchor: str, prefixes: tuple[str, ...], folder: object) -> Names:
    """Names as the family has them.

    Args:
      stored: names in the file.
      anchor: one of the backbone, without a prefix, that stands in every file of the family.
      prefixes: what the family's classes put before it.
      folder: of the file, for errors.

    Raises:
      ValueError: there are several models, an adapter that is not merged, or two names for one tensor.
    """
    given = list(stored)
    adapted = next((name for name in given if _ADAPTERS.fullmatch(name)), None)
    if adapted is not None:
        raise ValueError(
            f"{folder} holds an adapter beside the model ({adapted}): merge the two there with model.merge_and_unload() "
            "and save the result"
        )
    plain = {name: _unwrapped(_today(name)) for name in given}
    fronts = sorted({n.removesuffix(anchor) for n in plain.values() if f".{n}".endswith(f".{anchor}")})
    if len(fronts) > 1:
        raise ValueError(
            f"{folder} holds {len(fronts)} models, with names under {' and '.join(map(repr, fronts[:_SHOWN]))}: save the "
            "one that you mean by itself"
        )
    front = fronts[0] if fronts else ""
    known = sorted(prefixes, key=len, reverse=True)
    if fronts:
        prefix = next((p for p in known if p and f".{front}".endswith(f".{p}")), "")
    else:
        prefix = next((p for p in prefixes if any(name.startswith(p) for name in plain.values())), "")
    outer = front.removesuffix(prefix)
    spelled: dict[str, str] = {}
    for name, unwrapped in plain.items():
        own = unwrapped.removeprefix(outer)
        if own in spelled:
            raise ValueError(f"{folder} has {spelled[own]} and {name}, which are both {own}")
        spelled[own] = name
    between = [f"{part}." for part in _WRAPPERS if any(part in name.split(".") for name in given)]
    return Names(spelled, prefix, (*between, *([outer] if outer else [])))


def _today(name: str) -> str:
    for old, new in _OLD:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
