"""Paths of parameter trees as plain names. Knows nothing of what the trees hold."""

from typing import Any


def path_names(path: Any) -> tuple[str, ...]:
    """A jax key path as names: dict keys, attribute names and indices alike."""
    names = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                names.append(str(getattr(key, attribute)))
                break
    return tuple(names)
