"""One rule that gives a weight its values from its name, so that golden files hold outputs only.

Used by benchmarks/make_goldens.py (PyTorch) and by tests/test_model_published.py (JAX). RandomState, because
numpy promises that its stream never changes.
"""

import zlib

import numpy as np

SHAPE = {"vocab_size": 97, "layers": 2, "width": 32, "heads": 4, "mlp_width": 64, "max_positions": 40}
PADDING = 1
"""Token id under padding: RoBERTa derives positions from it."""


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the weight of this name ("layers/mlp/up/kernel/0" in layer 0); norm scales lie around 1."""
    values = np.random.RandomState(zlib.crc32(name.encode())).normal(0.0, 0.1, shape)
    return (values + ("/scale" in name)).astype(np.float32)


def inputs() -> dict[str, np.ndarray]:
    """Three rows of 12 tokens: full, padded by 5, padded by 9; two sentences in each."""
    random = np.random.RandomState(0)
    real = np.arange(12)[None] < np.array([[12], [7], [3]])
    tokens = np.where(real, random.randint(2, SHAPE["vocab_size"], (3, 12)), PADDING)
    types = np.where(real, np.arange(12)[None] >= np.array([[6], [4], [2]]), 0)
    positions = np.broadcast_to(np.arange(12)[None], (3, 12))
    return {
        "tokens": tokens.astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "positions": positions.astype(np.int32),
        "type_ids": types.astype(np.int32),
    }
