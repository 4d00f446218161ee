"""Networks with the weights that the PyTorch side of the golden files was given, and agreement with its outputs."""

from pathlib import Path

import jax
import numpy as np

from finetune.published.family import SCORE, SPAN
from finetune.published.reading import Published
from model.network import BoundNetwork, Network
from objectives.segments import pool
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


def batch_of(golden) -> dict[str, np.ndarray]:
    """What a golden file was made from."""
    return {key.removeprefix("in_"): golden[key] for key in golden if key.startswith("in_")}


def difference(here: np.ndarray, there: np.ndarray, batch) -> float:
    """The largest one over the largest value, where there is a token."""
    if there.ndim > 1 and there.shape[:2] == batch["tokens"].shape:
        real = batch["segment_ids"] > 0
        here, there = here[real], there[real]
    return float(np.abs(here - there).max() / np.abs(there).max())


def assert_computes_the_same(found: Published, golden: Path) -> None:
    """Every output of a golden file, wherever there is a token, within 1e-4 of its largest value."""
    said = np.load(golden)
    batch = batch_of(said)
    here = jax.jit(lambda params: outputs(found, params, batch))(found.params)
    compared = [key for key in said if not key.startswith("in_")]
    assert "hidden" in compared and set(compared) & {"logits", "of_text"}
    for key in compared:
        there = said[key]
        real = batch["segment_ids"] > 0 if there.shape[:2] == batch["tokens"].shape else ...
        assert np.abs(there[real]).max() > 0.1  # the golden says something
        assert difference(np.asarray(here[key]), there, batch) < 1e-4, key


def outputs(found: Published, params, batch) -> dict[str, jax.Array]:
    """Hidden states and whatever the heads say, by one name for both sides."""
    bound = found.network.bind(params)
    hidden = bound.encode(batch)
    out = {"hidden": hidden}
    heads = {name for name, _ in found.network.heads}
    if "masked_lm" in heads:
        out["logits"] = bound.unembed(*bound.head("masked_lm", hidden))
    config = found.network.backbone.config
    of_text = pool(hidden, batch["segment_ids"], 1, found.pooling)[:, 0]
    if "pooler" in heads:
        out["pooled"] = bound.head("pooler", of_text)
    for name in heads & {"next_sentence", "classifier"}:
        out["of_text"] = bound.head(name, out["pooled"])
    if SCORE in heads:
        out["of_text"] = bound.head(SCORE, of_text)
    for name in heads & {"token_classifier", "discriminator", SPAN}:
        out["logits"] = bound.head(name, bound.head("pooler", hidden) if config.pools_all else hidden)
    if config.encoder_decoder:
        decoded = bound.decode(batch["target_tokens"], batch, hidden)
        out["decoded"] = decoded * (config.width**0.5 if config.tied else 1.0)
        out["logits"] = bound.unembed(decoded)
    elif config.causal and "logits" not in out:
        out["logits"] = bound.unembed(hidden)
    return out
