"""flax_model.msgpack, as version 4 of transformers wrote it: its arrays by the names that model.safetensors has for them.

Flax reads the format, in which there is no pickle; a whole file is held at once.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

FLAX, FLAX_INDEX = "flax_model.msgpack", "flax_model.msgpack.index.json"
KERNEL = "kernel"
_LEAVES = {KERNEL: "weight", "scale": "weight", "embedding": "weight"}


def tensor_name(path: Sequence[str]) -> str:
    """What PyTorch calls the leaf of this path.

    Example:
      >>> tensor_name(["bert", "pooler", "dense", "kernel"]), tensor_name(["lm_head", "bias"])
      ('bert.pooler.dense.weight', 'lm_head.bias')
    """
    *within, leaf = path
    return ".".join((*within, _LEAVES[leaf] if leaf in _LEAVES else leaf))


def flax_tensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by PyTorch's names, kernels [inputs, outputs] as its weights [outputs, inputs].

    Raises:
      ValueError: the file is damaged, or holds something else.
    """
    try:
        tree = msgpack_restore(path.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or no msgpack of Flax: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} is no msgpack of Flax: it holds a {type(tree).__name__}, not parameters by name"
        )
    found: dict[str, np.ndarray] = {}
    for keys, leaf in flatten_dict(tree).items():
        if not isinstance(leaf, np.ndarray) or not all(isinstance(key, str) for key in keys):
            raise ValueError(
                f"{path} holds {type(leaf).__name__} at {'/'.join(map(str, keys))}, which is no array"
            )
        found[tensor_name(keys)] = leaf.T if keys[-1] == KERNEL else leaf
    return found
