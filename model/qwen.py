"""Qwen 2 (arXiv 2407.10671) and Qwen 3 (arXiv 2505.09388), dense, as published.

Both are Llama but for one thing: queries, keys and values of Qwen 2 have biases; Qwen 3 normalises each head of queries
and keys, and has a head size of its own.
"""

import dataclasses
from typing import ClassVar

from model.llama import LlamaConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config(LlamaConfig):
    """Qwen 2 and 2.5 of any size."""

    vocab_size: int = 151936
    max_positions: int = 32768
    norm_eps: float = 1e-6
    rotary_base: float = 1_000_000.0

    @property
    def query_bias(self) -> bool:
        """As published."""
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """Qwen 3 of any size."""

    vocab_size: int = 151936
    max_positions: int = 40960
    norm_eps: float = 1e-6
    rotary_base: float = 1_000_000.0
    head_dim: int = 128
    """Width of one attention head (K); heads x head_dim need not be the model's width."""

    query_norm: ClassVar[bool] = True

    def check_heads(self) -> None:
        """Heads and width are independent here."""
        if self.head_dim < 1:
            raise ValueError(f"head_dim {self.head_dim} is below 1")
        self.check_kv_heads()


def qwen2_0_5b() -> Qwen2Config:
    """494.0M parameters."""
    return Qwen2Config(layers=24, width=896, heads=14, kv_heads=2, mlp_width=4864, tied=True)


def qwen3_0_6b() -> Qwen3Config:
    """596.0M parameters."""
    return Qwen3Config(layers=28, width=1024, heads=16, mlp_width=3072, tied=True)
