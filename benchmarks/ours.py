"""Our side of `benchmarks.step_time`: the train step as the loop runs it; the peer's is in peers.py.

Letters: B rows of a batch, L tokens of a row, P scored positions of a row, D model width, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contestant import (
    BATCHES,
    FIRST_ORDINARY_ID,
    MASK_ID,
    SCORED,
    Contestant,
    Side,
    Size,
    high_water_mib,
    tokens_BL,
)
from model.bert import BertConfig
from model.gpt2 import Gpt2Config
from model.network import BoundNetwork, Network
from objectives.base import Batch, Corrupted, Scored
from objectives.causal_lm import CausalLM
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from objectives.rows import RowShape
from train.adapter import FULL
from train.launch import Pmap
from train.optimizer import Optimizer
from train.state import create_state
from train.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLMEverywhere(MaskedLM):
    """As `MaskedLM`, but every position is projected onto the vocabulary."""

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        """All original tokens, with a weight where they are scored."""
        positions_BP, weights_BP = corrupted.plan["positions"], corrupted.plan["weights"]
        rows_B1 = jnp.arange(hidden_BLD.shape[0])[:, None]
        weights_BL = jnp.zeros(batch["tokens"].shape, jnp.float32).at[rows_B1, positions_BP].add(weights_BP)
        transformed_BLD, bias_V = network.head("masked_lm", hidden_BLD)
        return Scored(transformed_BLD, network.embedding_VD, bias_V, batch["tokens"], weights_BL)


def ours(contestant: Contestant) -> Side:
    """Our side: the train step as the loop runs it, with corruption drawn inside the step."""
    config, objective = _our_model(contestant)
    network = Network(config.build(), tuple(objective.heads(config)))
    launcher = Pmap()
    tx = Optimizer(learning_rate=1e-4, schedule="constant", warmup=0.0, b2=0.999).build(1)
    key = jax.random.key(0)
    state = launcher.enter(create_state(network.init(key), key, tx=tx, adapter=FULL))
    step = launcher.compile(
        functools.partial(train_step, network=network, objective=objective, tx=tx, adapter=FULL), donate=True
    )
    batches = [launcher.put(_rows(contestant.size, i)) for i in range(BATCHES)]
    root, box = launcher.replicate(key), [state]
    shapes = jax.eval_shape(network.init, key)

    def one(index: int) -> float:
        box[0], sums = step(box[0], batches[index % BATCHES], root)
        jax.block_until_ready(box[0])
        return float(launcher.fetch(sums["loss"])[0])

    def peak() -> float:
        stats = jax.devices()[0].memory_stats() or {}
        return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else high_water_mib()

    device = "cpu" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    return Side(one, sum(x.size for x in jax.tree.leaves(shapes)), peak, device)


def _our_model(contestant: Contestant) -> tuple[Any, Any]:
    """Config and objective of a contestant."""
    size = contestant.size
    config = (BertConfig if contestant.model == "bert" else Gpt2Config)(
        vocab_size=size.vocab,
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        mlp_width=size.mlp_width,
        max_positions=size.positions,
        dropout=contestant.dropout,
        attention_dropout=contestant.dropout,
        dtype="float32" if contestant.dtype == "fp32" else "bfloat16",
        unroll=size.layers,
    )
    if contestant.model == "gpt":
        return config, CausalLM()
    kind = MaskedLM if contestant.variant == "gathered" else MaskedLMEverywhere
    rows = RowShape(length=size.length, mask_id=MASK_ID, first_ordinary_id=FIRST_ORDINARY_ID)
    return config, kind(masking=Masking(rate=SCORED)).for_rows(rows)


def _rows(size: Size, index: int) -> dict[str, np.ndarray]:
    """Batch `index` as our data room would hand it over: each row one segment."""
    shape = (size.rows, size.length)
    return {
        "tokens": tokens_BL(size, index),
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(size.length, dtype=np.int32), (size.rows, 1)),
        "example_ids": np.arange(size.rows, dtype=np.int32) + index * size.rows,
    }
