"""JSON files of other people: read with a bound, and one clear error each."""

import json
from pathlib import Path
from typing import Any

from data.files import read_file
from data.stand_ins import check_beginning


def read_object(path: Path, largest: int) -> dict[str, Any]:
    """A file of at most so many bytes that holds an object, in any encoding of JSON, with or without a byte-order mark.

    Raises:
      ValueError: it is damaged, larger, holds something else or stands for another file, or one name of it has two values.
    """
    content = read_file(path, largest)
    check_beginning(path, content)
    try:
        value = json.loads(content, object_pairs_hook=_of_pairs)
    except (ValueError, RecursionError) as error:
        # Also a number of thousands of digits, for which Python names a function to call.
        raise ValueError(f"{path} is damaged: {str(error).partition('; use sys.')[0]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError if a name has two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if repr(found[name]) != repr(value):
                raise ValueError(f"it has {name!r} twice, with different values")
    return found
