"""Paths of parameter trees as plain names, and what they say."""

from typing import Any

import jax


def path_names(path: Any) -> tuple[str, ...]:
    """A jax key path as names: dict keys, attribute names and indices alike."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def is_embedding(names: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to a backbone's embeddings or their norm; a head's are its own affair."""
    return "heads" not in names and any(name.startswith("embed") for name in names)


def nest(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Leaves by path as nested dicts: the inverse of `checkpoint.flat` for trees of dicts."""
    root: dict[str, Any] = {}
    for (*parents, last), leaf in leaves.items():
        node = root
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return root
