"""Frozen dataclasses <-> JSON, so that a run folder says what it is and a hand-off can rebuild the model from it.

Decoding only ever builds dataclasses of this project's own rooms, or of files that the reader named (own_code.py): a
checkpoint is data, and must not be able to name arbitrary code.
"""

import contextlib
import dataclasses
import importlib
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import LARGEST_JSON, read_file, writing
from data.seals import SEAL, check_seal, sealed
from train.own_code import ROOMS, OwnCode

NO_CODE = OwnCode()


def encode(value: Any) -> Any:
    """Nested dataclasses, tuples and scalars as JSON values; a dataclass carries `type`: "module:Class"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"type": f"{kind.__module__}:{kind.__qualname__}", **fields}
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(
        f"a configuration holds {value!r} of type {type(value).__name__}, which JSON cannot carry"
    )


def decode(value: Any, code: OwnCode = NO_CODE) -> Any:
    """The inverse of `encode`; lists come back as tuples.

    Args:
      value: JSON values.
      code: where types come from that are in none of our rooms.

    Raises:
      ValueError: the JSON names a type that may not be read, or does not exist, or has other fields.
    """
    if isinstance(value, list):
        return tuple(decode(v, code) for v in value)
    if not isinstance(value, dict):
        return value
    if "type" not in value:
        return {k: decode(v, code) for k, v in value.items()}
    if not isinstance(value["type"], str):
        raise ValueError(f"the stored configuration names the type {value['type']!r}, which is no name")
    build: Any = _dataclass_named(value["type"], code)
    fields = {k: decode(v, code) for k, v in value.items() if k != "type"}
    known = {f.name for f in dataclasses.fields(build) if f.init}
    if fields.keys() != known:
        raise ValueError(
            f"{value['type']} was stored with fields {sorted(fields)} but this version has {sorted(known)}: "
            f"differing are {sorted(fields.keys() ^ known)}"
        )
    # A user's own annotations may say less, or other, than the values.
    hints = typing.get_type_hints(build) if build.__module__.split(".")[0] in ROOMS else {}
    for name in fields.keys() & hints.keys():
        if not _fits(fields[name], hints[name]):
            raise ValueError(
                f"{value['type']} was stored with {name} {fields[name]!r}, which is no {hints[name]}"
            )
    try:
        return build(**fields)
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{value['type']} cannot be made of what is stored: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a decoded value is one of a field's type, as far as JSON can tell them apart."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is typing.Annotated:
        return _fits(value, inner[0])
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple) or (inner[-1] is not ... and len(value) != len(inner)):
            return False
        wanted = inner[:1] * len(value) if inner[-1] is ... else inner
        return all(_fits(one, kind) for one, kind in zip(value, wanted, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        # Python takes 1e3 for a number of steps, and has stored it so.
        return not isinstance(value, bool) and (isinstance(value, int) or value == _whole(value))
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _dataclass_named(stored: str, code: OwnCode) -> type:
    """The class of a stored type name, "module:Class"."""
    module_name, _, name = stored.partition(":")
    ours = module_name.split(".")[0] in ROOMS
    try:
        module = importlib.import_module(module_name) if ours else code.module(stored)
        kind = getattr(module, name)
    except (ImportError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the stored configuration names {stored!r}, which this version lacks: {error}"
        ) from error
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ValueError(f"the stored configuration names {stored!r}, which is no dataclass")
    # A user's file may import other people's dataclasses, which its reader did not name.
    if not ours and kind.__module__ != module_name:
        raise ValueError(
            f"the stored configuration names {stored!r}, which {module_name} imports from {kind.__module__}"
        )
    return kind


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two encoded values differ, one line each: `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                lines.append(f"{path}{key}: only in the {'stored' if key in old else 'new'} one")
            else:
                lines += differences(old[key], new[key], f"{path}{key}.")
        return lines
    return [] if old == new else [f"{path.rstrip('.')}: {_shortened(old)} -> {_shortened(new)}"]


def _shortened(value: Any) -> str:
    """As a message shows it: thousands of classes would hide the rest."""
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text):,} characters)"


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it; a digest in it is made anew."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        written = sealed(value) if isinstance(value, dict) and SEAL in value else value
        temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder, naming it if it is missing or damaged."""
    try:
        return json.loads(read_file(path, LARGEST_JSON).decode("utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: {path.parent} is not a run folder, or not a whole one"
        ) from error
    except NotADirectoryError as error:
        raise ValueError(f"{path.parent} is a file, not a folder of a run") from error
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(str(error) if str(path) in str(error) else f"{path} is damaged: {why}") from error


def read_description(path: Path) -> dict[str, Any]:
    """What a config.json says, without the digest that it was written with.

    Raises:
      FileNotFoundError, ValueError: it is missing, damaged, or was changed since.
    """
    with taken_from(path):
        return check_seal(path, read_json(path))


@contextlib.contextmanager
def taken_from(path: Path) -> Iterator[None]:
    """What goes wrong with values that a file holds names the file, in one line."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(damage_in(path, error)) from error


def damage_in(path: Path, error: Exception) -> str:
    """One line for what a damaged file led to; a line that names the file already is enough."""
    if str(path) in str(error):
        return str(error)
    if isinstance(error, RecursionError):
        return f"{path} is damaged: it is nested too deeply"
    if type(error) is ValueError:
        return f"{path}: {error}"
    # Of an error that is not ours the words alone say little.
    return f"{path} is damaged: {type(error).__name__}: {error}"
