"""One side of `benchmarks.step_time`, in a process of its own that only works when its turn comes.

Reads one line of JSON per turn from stdin, {"steps": n}, and answers with one line on stdout. Between turns it is
blocked on the pipe, so no thread pool of one side disturbs the other. Knows our side; the peer's is in `peers.py`.

Letters: B rows of a batch, L tokens of a row.
"""

import dataclasses
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

BATCHES = 8
"""Different batches, used in turn."""
SCORED = 0.15
"""Share of positions that masked LM scores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Shape of model and batch; the default is BERT-mini (arXiv 1908.08962) on 32 rows of 128 tokens."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    mlp_width: int = 1024
    vocab: int = 30522
    positions: int = 512
    rows: int = 32
    """Rows of a batch (B)."""
    length: int = 128
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


def ours(contestant: Contestant) -> Side:
    """Our side: the train step as the loop runs it, with corruption drawn inside the step."""
    import jax

    from model.network import Network
    from train.adapter import FULL
    from train.launch import Pmap
    from train.optimizer import Optimizer
    from train.state import create_state
    from train.step import train_step

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
    from model.bert import BertConfig
    from model.gpt2 import Gpt2Config
    from objectives.causal_lm import CausalLM
    from objectives.masked_lm import MaskedLM

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
    gather = contestant.variant == "gathered"
    objective = MaskedLM(
        mask_id=MASK_ID, first_ordinary_id=FIRST_ORDINARY_ID, max_segments=1, rate=SCORED, gather=gather
    )
    return config, objective


def _rows(size: Size, index: int) -> dict[str, np.ndarray]:
    """Batch `index` as our data room would hand it over: each row one segment."""
    shape = (size.rows, size.length)
    return {
        "tokens": tokens_BL(size, index),
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(size.length, dtype=np.int32), (size.rows, 1)),
        "example_ids": np.arange(size.rows, dtype=np.int32) + index * size.rows,
    }


def build(contestant: Contestant) -> Side:
    """The side that the contestant names."""
    if contestant.side == "ours":
        return ours(contestant)
    from benchmarks.peers import peer

    return peer(contestant)


def serve(contestant: Contestant) -> None:
    """Take turns until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    began = time.perf_counter()
    side = build(contestant)
    loss, index = side.step(0), 1
    first = {
        "first_step_seconds": time.perf_counter() - began,
        "parameters": side.parameters,
        "loss": loss,
        "device": side.device,
    }
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        start = time.perf_counter()
        for _ in range(steps):
            loss, index = side.step(index), index + 1
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "loss": loss, "peak_mib": side.peak_mib()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    serve(Contestant(**{**fields, "size": Size(**fields["size"])}))
