"""JSON files of other people: read with a bound, and one clear error each. Must not know what they mean."""

import json
from pathlib import Path
from typing import Any

from data.files import read_file


def read_object(path: Path, largest: int) -> dict[str, Any]:
    """A file of at most so many bytes that holds an object; ValueError if it is damaged, larger or holds something else."""
    content = read_file(path, largest)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value
