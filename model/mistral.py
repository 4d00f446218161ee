"""Mistral (arXiv 2310.06825), as published: Llama with a head size of its own and, perhaps, a window."""

import dataclasses

from model.llama import LlamaConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """Mistral of any size."""

    vocab_size: int = 32000
    max_positions: int = 32768
    rotary_base: float = 10_000.0
    head_dim: int = 128
    """Width of one attention head (K); heads x head_dim need not be the model's width."""
    window: int | None = 4096  # type: ignore[misc]
    """How many tokens one sees, itself and those before it; None where it sees all of its past (section 2)."""

    def check_heads(self) -> None:
        """Heads and width are independent here."""
        if self.head_dim < 1 or (self.window is not None and self.window < 1):
            raise ValueError(f"head_dim {self.head_dim} or window {self.window} is below 1")
        self.check_kv_heads()


def mistral_7b() -> MistralConfig:
    """7,241.7M parameters."""
    return MistralConfig(layers=32, width=4096, heads=32, mlp_width=14336)
