"""How tensors of a published checkpoint stand for our parameters: one rule each, read in both directions.

Our leaves are named by path ("backbone/layers/mlp/up/kernel"), without a layer's number: blocks are stacked along axis 0.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Index = tuple[slice, ...]
Shapes = Mapping[str, tuple[int, ...]]
"""Of our leaves, by path."""
LAYER = "{n}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs (one in each layer where its name says so), and what it is here."""

    theirs: str
    """Its name; {n} stands for the number of the layer."""
    ours: tuple[str, ...]
    """Our leaves; several where theirs holds them side by side, along its outputs."""
    inputs: int
    """How many leading axes of ours (of one layer) are its inputs; 0 for a vector."""
    turned: bool = False
    """Whether theirs is [outputs, inputs], as PyTorch's Linear has it."""
    first: int = 0
    """Their number of the first of our stacked layers."""

    @property
    def stacked(self) -> bool:
        """Whether there is one in each layer."""
        return LAYER in self.theirs

    def name(self, layer: int) -> str:
        """Their name of our stacked layer of this number."""
        return self.theirs.replace(LAYER, str(layer + self.first))

    def layers(self, shapes: Shapes) -> int:
        """How many of them there are; 1 where there are no layers."""
        return shapes[self.ours[0]][0] if self.stacked else 1

    def parts(self, shapes: Shapes) -> list[tuple[int, ...]]:
        """Shape of one layer of each of ours."""
        return [shapes[path][1:] if self.stacked else shapes[path] for path in self.ours]

    def their_shape(self, shapes: Shapes) -> tuple[int, ...]:
        """What one of theirs must be."""
        parts = self.parts(shapes)
        outputs = sum(math.prod(part[self.inputs :]) for part in parts)
        if not self.inputs:
            return (outputs,)
        inputs = math.prod(parts[0][: self.inputs])
        return (outputs, inputs) if self.turned else (inputs, outputs)

    def names(self, shapes: Shapes) -> list[str]:
        """All names that it stands for."""
        return [self.name(n) for n in range(self.layers(shapes))]

    def split(self, theirs: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
        """One of theirs as one layer of each of ours, in its own dtype."""
        parts = self.parts(shapes)
        matrix = theirs.T if self.turned else theirs
        ends = np.cumsum([math.prod(part[self.inputs :]) for part in parts])
        pieces = np.split(matrix, ends[:-1], axis=-1)
        return [piece.reshape(part) for piece, part in zip(pieces, parts, strict=True)]

    def join(self, ours: Sequence[np.ndarray], shapes: Shapes) -> np.ndarray:
        """The inverse of `split`."""
        inputs = [math.prod(part[: self.inputs]) for part in self.parts(shapes)]
        matrices = [
            leaf.reshape(rows, -1) if self.inputs else leaf.reshape(-1)
            for leaf, rows in zip(ours, inputs, strict=True)
        ]
        matrix = np.concatenate(matrices, axis=-1)
        return np.ascontiguousarray(matrix.T if self.turned else matrix)


Rules = tuple[Rule, ...]


def linear(
    theirs: str, *ours: str, inputs: int = 1, bias: bool = True, first: int = 0, turned: bool = True
) -> Rules:
    """A PyTorch Linear of this name is our Dense (several of ours where it computes them together)."""
    weight = Rule(f"{theirs}.weight", _leaves(ours, "kernel"), inputs, turned, first)
    return (weight, Rule(f"{theirs}.bias", _leaves(ours, "bias"), 0, False, first)) if bias else (weight,)


def conv1d(theirs: str, *ours: str, inputs: int = 1) -> Rules:
    """GPT-2's Conv1D, which is stored as [inputs, outputs]."""
    return linear(theirs, *ours, inputs=inputs, turned=False)


def norm(theirs: str, ours: str, bias: bool = True, first: int = 0) -> Rules:
    """A LayerNorm, or without a bias an RMSNorm."""
    scale = Rule(f"{theirs}.weight", (f"{ours}/scale",), 0, False, first)
    return (scale, Rule(f"{theirs}.bias", (f"{ours}/bias",), 0, False, first)) if bias else (scale,)


def table(theirs: str, ours: str) -> Rules:
    """An Embedding [rows, width]."""
    return (Rule(f"{theirs}.weight", (ours,), 1),)


def vector(theirs: str, ours: str) -> Rules:
    """A parameter of one axis."""
    return (Rule(theirs, (ours,), 0),)


def head(theirs: str, bias: bool = True) -> Callable[[str, str], Rules]:
    """A head that is one Linear; {p} is the prefix."""
    return lambda p, ours: linear(theirs.replace("{p}", p), f"{ours}/dense", bias=bias)


def _leaves(paths: Sequence[str], leaf: str) -> tuple[str, ...]:
    return tuple(f"{path}/{leaf}" for path in paths)


Fetch = Callable[[str], np.ndarray]
"""One of their tensors by name."""


def leaf_slice(path: str, index: Index, rules: Rules, shapes: Shapes, fetch: Fetch) -> np.ndarray:
    """A part of one of our leaves, float32, without holding more of theirs than one tensor."""
    rule = next(rule for rule in rules if path in rule.ours)
    part = rule.ours.index(path)
    if not rule.stacked:
        return rule.split(fetch(rule.theirs), shapes)[part][index].astype(np.float32)
    layers, within = range(shapes[path][0])[index[0]], index[1:]
    one = rule.parts(shapes)[part]
    out = np.empty(
        (len(layers), *(len(range(size)[cut]) for size, cut in zip(one, within, strict=True))), np.float32
    )
    for place, n in enumerate(layers):
        out[place] = rule.split(fetch(rule.name(n)), shapes)[part][within]
    return out


def tensors(
    rules: Rules, shapes: Shapes, leaf: Callable[[str, int | None], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """All of theirs by name. `leaf` gives one of ours: all of it, or its layer of a number."""
    for rule in rules:
        for n in range(rule.layers(shapes)):
            ours = [leaf(path, n if rule.stacked else None) for path in rule.ours]
            yield rule.name(n), rule.join(ours, shapes)
