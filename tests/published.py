"""Networks with the weights that the PyTorch side of the golden files was given, and agreement with its outputs."""

from pathlib import Path

import jax
import numpy as np

from model.network import BoundNetwork, Network
from tests.golden.weights import draw


def golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of a file that benchmarks/make_goldens.py wrote."""
    return np.load(Path(__file__).parent / "golden" / f"{name}.npz")


def published(network: Network) -> BoundNetwork:
    """Bind the weights, which have their values from their names."""

    def value(path, leaf):
        names = [str(entry.key) for entry in path][1:]  # without "backbone" or "heads"
        name = "/".join(names)
        if "layers" in names:
            return np.stack([draw(f"{name}/{n}", leaf.shape[1:]) for n in range(leaf.shape[0])])
        return draw(name, leaf.shape)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return network.bind(jax.tree_util.tree_map_with_path(value, shapes))


def assert_agrees(ours, theirs, segment_ids_BL) -> None:
    """Within 1e-5 of the largest value, wherever there is a token."""
    rows = segment_ids_BL != 0 if theirs.ndim == 3 else slice(None)
    ours, theirs = np.asarray(ours)[rows], theirs[rows]
    size = np.abs(theirs).max()
    assert size > 0.1  # the golden says something
    difference = np.abs(ours - theirs).max() / size
    print(f"agrees within {difference:.1e}")
    assert difference < 1e-5
