"""A network of ours as a published checkpoint that the library everybody uses opens."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from finetune.published.families import families_for
from finetune.published.family import Family
from finetune.published.files import not_finite, write_files
from finetune.published.rules import tensors
from model.config import TransformerConfig
from model.network import Params
from train.checkpoint import flat

DTYPES: Mapping[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}


def choose(
    model: TransformerConfig, heads: frozenset[str], architecture: str, model_type: str, came_as: str = ""
) -> tuple[Family, str]:
    """The family and class to write.

    Args:
      model: our config.
      heads: names of the heads that there are.
      architecture: the class to write, leaving heads behind that it lacks; empty takes the one with exactly these heads.
      model_type: of the checkpoint this came from, where several families have our config; or empty.
      came_as: the class that it was read as, taken where it fits; or empty.
    """
    families = families_for(model)
    family = next((f for f in families if f.model_type == model_type), families[0])
    known, bare = family.architectures, family.bare_architecture
    if architecture:
        if architecture not in known:
            raise ValueError(f"{family.model_type} has no {architecture}; choose one of {', '.join(known)}")
        lacking = sorted(known[architecture].keys() - heads)
        if lacking and architecture != bare:
            raise ValueError(f"{architecture} has the heads {lacking}, but this run has {sorted(heads)}")
        return family, architecture
    fitting = [n for n, own in known.items() if own.keys() == heads or (n == bare and heads <= own.keys())]
    if came_as in fitting:
        return family, came_as
    if fitting:
        # Where a bare model and one with tied logits are the same numbers, the latter says more.
        return family, fitting[-1]
    has = {name: sorted(own) for name, own in known.items()}
    raise ValueError(
        f"no class of {family.model_type} has exactly the heads {sorted(heads)}: choose one with --architecture, which "
        f"leaves the others behind; their heads are {has}"
    )


def write(
    folder: Path,
    *,
    model: TransformerConfig,
    params: Params,
    family: Family,
    architecture: str,
    classes: tuple[str, ...] = (),
    dtype: str = "float32",
    config: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write config.json and the weights; returns the files of weights.

    Args:
      folder: must hold no checkpoint yet.
      model: our config.
      params: {"backbone": ..., "heads": ...} as arrays.
      family: its family.
      architecture: the class to write, one of the family's.
      classes: names of the classifier's classes.
      dtype: of the file. A checkpoint that was read and is written in its own dtype has the same bits again.
      config: further entries of config.json; those that follow from our config replace them.
    """
    leaves = {"/".join(path): leaf for path, leaf in flat(params).items()}
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    heads = family.architectures[architecture]
    if architecture == family.bare_architecture:
        heads = {name: own for name, own in heads.items() if name in params["heads"]}
    rules = family.rules(family.model_of(model, architecture), heads, family.prefix_of(architecture))

    def leaf(path: str, layer: int | None) -> np.ndarray:
        whole = leaves[path]
        return np.asarray(whole if layer is None else whole[layer])

    labels = {
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    described = {
        **family.usual,
        **(config or {}),
        **family.write_config(model),
        **(labels if classes else {}),
        "architectures": [architecture],
        "dtype": dtype,
        "torch_dtype": dtype,  # the same, for their library before version 5
    }
    return write_files(folder, described, _cast(tensors(rules, shapes, leaf), dtype))


def _cast(named: Iterator[tuple[str, np.ndarray]], dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor in this dtype; ValueError, naming it, if it holds what is no number there."""
    for name, array in named:
        if why := not_finite(array):
            raise ValueError(f"{name} {why}: this run went astray, export an earlier checkpoint")
        with np.errstate(over="ignore"):
            short = array.astype(DTYPES[dtype])
        if not np.isfinite(short).all():
            largest = float(ml_dtypes.finfo(DTYPES[dtype]).max)
            raise ValueError(
                f"{name} has values up to {float(np.abs(array).max()):.6g}, but {dtype} ends at {largest:.6g}: choose "
                "--dtype float32 or bfloat16"
            )
        yield name, short
