"""What both sides of `benchmarks.step_time` share: who runs what, on which batches. Knows neither side.

Letters: B rows of a batch, L tokens of a row.
"""

import dataclasses
import resource
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from model.ranges import COUNT

BATCHES = 8
"""Different batches, used in turn."""
SCORED = 0.15
"""Share of positions that masked LM scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Shape of model and batch; the default is BERT-mini (arXiv 1908.08962) on 32 rows of 128 tokens."""

    layers: Annotated[int, COUNT] = 4
    width: Annotated[int, COUNT] = 256
    heads: Annotated[int, COUNT] = 4
    mlp_width: Annotated[int, COUNT] = 1024
    vocab: Annotated[int, COUNT] = 30522
    positions: Annotated[int, COUNT] = 512
    rows: Annotated[int, COUNT] = 32
    """Rows of a batch (B)."""
    length: Annotated[int, COUNT] = 128
    """Tokens of a row (L)."""

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.rows * self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """What one process runs."""

    side: Literal["ours", "peer"]
    model: Literal["bert", "gpt"]
    dtype: Literal["fp32", "bf16"]
    variant: str
    """ours: "gathered" or "every position" (bert), "chunked" (gpt). Peer: "eager" or "compile", with bf16 also how."""
    threads: int
    dropout: float
    size: Size

    @property
    def name(self) -> str:
        """As the table calls it."""
        who = "ours" if self.side == "ours" else "PyTorch"
        return f"{who}, {self.variant}"


@dataclasses.dataclass(frozen=True)
class Side:
    """A model ready to train: `step(i)` does one update on batch i and returns its loss once all is computed."""

    step: Callable[[int], float]
    parameters: int
    peak_mib: Callable[[], float]
    device: str
    """What it runs on: "cpu", or the accelerator's name."""


MASK_ID, FIRST_ORDINARY_ID = 4, 7


def tokens_BL(size: Size, index: int) -> np.ndarray:
    """Batch `index` of both sides: uniform tokens."""
    random = np.random.default_rng([7, index])
    return random.integers(FIRST_ORDINARY_ID, size.vocab, (size.rows, size.length), np.int32)


def masked(tokens: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, labels) as PyTorch users make them: 15% of the positions scored, -100 elsewhere, 80% of those masked."""
    random = np.random.default_rng([8, index])
    order = np.argsort(random.random(tokens.shape), axis=1)
    scored = order < round(SCORED * tokens.shape[1])
    hidden = scored & (random.random(tokens.shape) < 0.8)
    return np.where(hidden, MASK_ID, tokens), np.where(scored, tokens, -100)


def high_water_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20
