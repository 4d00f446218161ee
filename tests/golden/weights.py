"""One rule that gives a weight its values from its name, so that golden files hold outputs only.

Used by benchmarks/make_goldens.py (PyTorch) and by tests/published.py (JAX). RandomState, because
numpy promises that its stream never changes.
"""

import zlib

import numpy as np

SHAPE = {"vocab_size": 97, "layers": 2, "width": 32, "heads": 4, "mlp_width": 64, "max_positions": 40}
T5_HEAD_DIM = 16  # 4 heads of 16 are wider than the model
KV_HEADS = 2
LLAMA_STRETCH = {"rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 32}
"""With 4 rates: one is kept, one lies between, two are slowed."""
MODERN_BERT = {"layers": 5, "window": 8}
"""Global, local, local, global, local."""
PADDING = 1
"""Token id under padding: RoBERTa derives positions from it."""


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the weight of this name ("layers/mlp/up/kernel/0" in layer 0); norm scales lie around 1."""
    values = np.random.RandomState(zlib.crc32(name.encode())).normal(0.0, 0.1, shape)
    return (values + ("/scale" in name)).astype(np.float32)


def inputs(length: int = 12) -> dict[str, np.ndarray]:
    """Three rows of tokens: full, padded by 5 of 12, padded by 9 of 12; two sentences in each."""
    random = np.random.RandomState(0)
    fill = np.array([[length], [length * 7 // 12], [length // 4]])
    real = np.arange(length)[None] < fill
    tokens = np.where(real, random.randint(2, SHAPE["vocab_size"], (3, length)), PADDING)
    types = np.where(real, np.arange(length)[None] >= (fill + 1) // 2, 0)
    positions = np.broadcast_to(np.arange(length)[None], (3, length))
    return {
        "tokens": tokens.astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "positions": positions.astype(np.int32),
        "type_ids": types.astype(np.int32),
    }


def seq2seq_inputs() -> dict[str, np.ndarray]:
    """Rows of 36 tokens with targets of 12: far enough apart for buckets of several distances."""
    targets = {f"target_{name}": x for name, x in inputs().items()}
    return inputs(36) | {
        name: targets[name] for name in ("target_tokens", "target_segment_ids", "target_positions")
    }
