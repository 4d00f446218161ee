"""A checkpoint as a function: texts in, hidden states out, compiled once per shape. For notebooks and other programs.

    from finetune.states import hidden_states, load, rows
    model = load("runs/bert")                              # a run folder, or a published checkpoint's
    batch = rows(model, ["a fine film", "dull"])           # numpy arrays, one text a row
    hidden_BLD = hidden_states(model, batch)

Shape suffixes: B texts, L tokens, D model width.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data.frame import cut
from data.paths import local_path
from data.records import check_unicode
from data.tokenizer import Tokenizer
from data.tokenizer_files import published_tokenizer
from finetune.published.family import head_module
from finetune.published.folders import is_published
from finetune.published.reading import read
from model.network import Network, Params
from train.framing import framed_tokenizer
from train.restore import open_run

STEP = 16
"""Rows are filled up to a multiple of it, so that texts of other lengths seldom compile anew."""


class Model(NamedTuple):
    """A checkpoint, loaded: bind parameters with `network.bind(params)` for anything that is not here."""

    network: Network
    params: Params
    tokenizer: Tokenizer


def load(folder: str | Path, code: Sequence[Path] = ()) -> Model:
    """A run folder or one checkpoint of it, or the folder of a published checkpoint; with all of its heads.

    `code` names your own files whose classes a run names.

    Raises:
      FileNotFoundError, ValueError: it is neither, or damaged.
    """
    path = local_path(folder)
    if is_published(path):
        published = read(path)
        tokenizer = published_tokenizer(path, published.family.model_type)
        return Model(published.network, jax.device_put(published.params), tokenizer)
    source = open_run(path, code)
    if "objective" in source.description:
        heads = tuple(source.objective.heads(source.model))
    else:
        classes = len(source.description["learned"]) if "learned" in source.description else 0
        heads = tuple((name, head_module(name, source.model, classes)) for name in source.params["heads"])
    return Model(
        Network(source.model.build(), heads), jax.device_put(source.params), framed_tokenizer(source)
    )


def rows(
    model: Model, texts: Sequence[str | tuple[str, str]], length: int | None = None
) -> dict[str, np.ndarray]:
    """One text (or pair) a row, framed as the model expects and filled up with padding.

    Args:
      model: what `load` returned.
      texts: texts, or pairs of texts, not both.
      length: tokens of a row; longer texts are cut where the tokenizer says, of pairs the second. None takes the longest,
        up to what the model can place.

    Returns:
      int32[B, L] arrays tokens, segment_ids (1 where there is a token), positions and type_ids.

    Raises:
      ValueError: a first text leaves no room for the frame, is no Unicode, or there are no texts.
    """
    if not texts:
        raise ValueError("there are no texts")
    pair = isinstance(texts[0], tuple)
    if any(isinstance(text, tuple) != pair for text in texts):
        raise ValueError("some texts are pairs and some are not: give rows of each kind by themselves")
    for number, text in enumerate(texts, 1):
        check_unicode("".join(text), f"text {number}")
    frame = model.tokenizer.frame(pair=pair)
    parts = zip(*texts, strict=True) if pair else (texts, [""] * len(texts))
    first, second = (
        model.tokenizer.encode_batch(list(part)) if any(part) else [[]] * len(texts) for part in parts
    )
    longest = max(len(a) + len(b) for a, b in zip(first, second, strict=True)) + frame.added
    most = model.network.backbone.config.max_positions
    length = min(-(-longest // STEP) * STEP, most) if length is None else length
    room = length - frame.added
    if room < 1 or length > most:
        raise ValueError(
            f"rows of {length} tokens: {frame.added} are the frame, and the model can place {most}"
        )
    batch = {name: np.zeros((len(texts), length), np.int32) for name in ("segment_ids", "type_ids")}
    batch["tokens"] = np.full((len(texts), length), model.tokenizer.pad_id, np.int32)
    batch["positions"] = np.tile(np.arange(length, dtype=np.int32), (len(texts), 1))
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        a = cut(a, room, frame.side)
        ids, types = frame.around(a, cut(b, room - len(a), frame.side) if pair else ())
        batch["tokens"][row, : len(ids)], batch["type_ids"][row, : len(ids)] = ids, types
        batch["segment_ids"][row, : len(ids)] = 1
    return batch


def hidden_states(model: Model, batch: Mapping[str, Any]) -> jax.Array:
    """The backbone's last hidden states [B, L, D]; of an encoder-decoder, its encoder's."""
    return _hidden_states(model.network, model.params, dict(batch))


@functools.partial(jax.jit, static_argnums=0)
def _hidden_states(network: Network, params: Params, batch: Mapping[str, Any]) -> jax.Array:
    return network.bind(params).encode(batch)


def logits(model: Model, batch: Mapping[str, Any]) -> jax.Array:
    """What the model says about each position [B, L, V]: of a causal one about the next token, of a masked one about this.

    Raises:
      ValueError: it has no such head, or is an encoder-decoder, whose `network.bind(params).decode` needs targets.
    """
    return _logits(model.network, model.params, dict(batch))


@functools.partial(jax.jit, static_argnums=0)
def _logits(network: Network, params: Params, batch: Mapping[str, Any]) -> jax.Array:
    bound = network.bind(params)
    if bound.config.encoder_decoder:
        raise ValueError("an encoder-decoder's logits are of its targets: use network.bind(params).decode")
    hidden_BLD = bound.encode(batch)
    if bound.config.causal:
        return bound.unembed(hidden_BLD)
    return bound.unembed(*bound.head("masked_lm", hidden_BLD))
