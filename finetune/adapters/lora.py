"""Low-rank additions to some matrices of a frozen backbone.

Layers are stacked on axis 0 of every leaf below "layers", so each gets a low-rank pair of its own along that axis.
Letters: I and O input and output size of a matrix, R rank.
"""

import dataclasses
import math
import re
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from model.ranges import COUNT, POSITIVE, check_ranges
from train.adapter import Adapter, Params
from train.checkpoint import flat
from train.tree import nest

Path = tuple[str, ...]

INPUT_AXES: tuple[tuple[str, int], ...] = ((r"attention/out/kernel$", 2), (r"kernel$", 1))
"""Path pattern -> how many leading axes of a matrix (after the layer axis) are its input; first wins."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(Adapter):
    """Freeze the backbone and add alpha / rank * A @ B to some matrices (Hu et al. 2021, arXiv 2106.09685).

    Scanned layers get one pair each. B starts at zero, so the first forward pass is that of the restored
    model, bit for bit. There is no dropout on the low-rank branch: W + A @ B is formed once per step, which a
    per-token mask would forbid.
    """

    rank: Annotated[int, COUNT] = 8
    alpha: Annotated[float, POSITIVE] = 16.0
    """The addition is scaled by alpha / rank."""
    targets: tuple[str, ...] = (r"attention/query/kernel$", r"attention/value/kernel$")
    """Regular expressions over paths such as backbone/layers/attention/query/kernel."""

    def __post_init__(self) -> None:
        check_ranges(self, "adapter.")
        if not self.targets:
            raise ValueError("adapter.targets is empty: name at least one matrix")
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter.targets: {pattern!r} is no regular expression: {error}") from error

    def split(self, params: Params, rng: jax.Array) -> tuple[Params, Params]:
        """Trainable: heads, and one {lora_a, lora_b} per matched matrix. Frozen: the whole backbone."""
        leaves = flat(params)
        trainable = {path: leaf for path, leaf in leaves.items() if path[0] == "heads"}
        frozen = {path: leaf for path, leaf in leaves.items() if path[0] != "heads"}
        matched = self._matched(frozen)
        for path, key in zip(matched, jax.random.split(rng, len(matched)), strict=True):
            batch, inputs, outputs = _matrix(path, leaves[path].shape)
            if self.rank > min(inputs, outputs):
                name = "/".join(path)
                raise ValueError(f"adapter.rank {self.rank} exceeds a side of {name}, {inputs} x {outputs}")
            # Uniform with the bound of the authors' code (microsoft/LoRA: kaiming_uniform_, a = sqrt(5)).
            bound = 1.0 / math.sqrt(inputs)
            shape_a, shape_b = (*batch, inputs, self.rank), (*batch, self.rank, outputs)
            trainable[(*path, "lora_a")] = jax.random.uniform(key, shape_a, minval=-bound, maxval=bound)
            trainable[(*path, "lora_b")] = jnp.zeros(shape_b, jnp.float32)
        return nest(trainable), nest(frozen)

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """W + alpha / rank * A @ B where there is a pair, everything else as it is."""
        ours, merged = flat(trainable), flat(frozen)
        for path, leaf in ours.items():
            if path[-1] == "lora_a":
                base, b = merged[path[:-1]], ours[(*path[:-1], "lora_b")]
                delta = jnp.matmul(leaf, b, precision=jax.lax.Precision.HIGHEST)
                merged[path[:-1]] = base + (self.alpha / self.rank) * delta.reshape(base.shape)
            elif path[-1] != "lora_b":
                merged[path] = leaf
        return nest(merged)

    def _matched(self, backbone: dict[Path, Any]) -> list[Path]:
        """Paths that a target names, sorted; every target must name at least one matrix."""
        matrices = sorted(path for path in backbone if path[-1] == "kernel")
        for pattern in self.targets:
            if not any(re.search(pattern, "/".join(path)) for path in matrices):
                raise ValueError(
                    f"adapter.targets: {pattern!r} matches no matrix; there are "
                    + ", ".join("/".join(path) for path in matrices)
                )
        return [path for path in matrices if any(re.search(p, "/".join(path)) for p in self.targets)]


def _matrix(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """(leading layer axis if stacked, input size, output size) of a kernel."""
    batch, rest = (shape[:1], shape[1:]) if "layers" in path else ((), shape)
    axes = next(axes for pattern, axes in INPUT_AXES if re.search(pattern, "/".join(path)))
    return batch, math.prod(rest[:axes]), math.prod(rest[axes:])
