"""JSON files of other people: read with a bound, and one clear error each. Who asks says what it means."""

import json
from pathlib import Path
from typing import Any


def read_object(path: Path, largest: int) -> dict[str, Any]:
    """A file of at most so many bytes that holds an object; ValueError if it is damaged, larger or holds something else."""
    if path.stat().st_size > largest:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, at most {largest:,} are read")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value
