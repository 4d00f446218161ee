"""Digests of what we wrote, to be checked when it is read again: of a JSON object in itself, of files in a list.

A file of more than `LARGE` bytes is hashed again only when the system says that it was touched (size, times, inode): to
hash all of a large corpus at every start would take longer than the start.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.files import LARGE, check_regular, keep_json, said, sha256, touched

SEAL = "digest"
_CHECKED = "checked.json"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with a digest of all its other entries."""
    return {**_unsealed(value), SEAL: _digest(_unsealed(value))}


def check_seal(path: Path, value: Any) -> dict[str, Any]:
    """The object without its digest.

    Raises:
      ValueError: it is no object, or not what was written. One without a digest is of an older version.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, not an object")
    if SEAL in value and value[SEAL] != _digest(_unsealed(value)):
        raise ValueError(
            f"{path} is damaged: it is not as it was written; put the old one back or, if the change is yours, remove its "
            f'entry "{SEAL}"'
        )
    return _unsealed(value)


def _unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name != SEAL}


def _digest(value: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a folder by their names; the large ones are noted as checked."""
    digests = {name: sha256(folder / name) for name in names}
    _note(folder, digests)
    return digests


def check_files(folder: Path, digests: Any, names: Iterable[str]) -> None:
    """Raise ValueError, which names the file, if one is not as `file_digests` found it."""
    if not isinstance(digests, dict) or set(digests) != set(names):
        raise ValueError(f"{folder} is damaged: its hashes are not those of {', '.join(names)}")
    noted = _noted(folder)
    for name, digest in digests.items():
        path = folder / name
        try:
            if name in noted and noted[name] == [digest, *touched(path)]:
                continue
            if sha256(path) != digest:
                raise ValueError(f"{path} is damaged: its hash differs")
        except OSError as error:
            raise ValueError(f"{path} is damaged: {said(error)}") from error
    _note(folder, digests)


def _note(folder: Path, digests: Mapping[str, str]) -> None:
    """Keep what the large files are now; where nothing can be written, they are hashed every time."""
    now = {name: [digest, *touched(folder / name)] for name, digest in digests.items()}
    large = {name: state for name, state in now.items() if state[1] > LARGE}
    if large and large != _noted(folder):
        keep_json(folder / _CHECKED, large)


def _noted(folder: Path) -> dict[str, Any]:
    try:
        check_regular(folder / _CHECKED)
        noted = json.loads((folder / _CHECKED).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}
