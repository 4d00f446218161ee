"""Every launcher and split gives the same numbers; and the certificate is able to say that they do not."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.documents import Documents
from data.stream import MadeRows, Stream
from model.bert import BertConfig
from model.gpt2 import Gpt2Config
from model.network import Network
from model.t5 import T5V11Config
from objectives.base import LossOut
from objectives.bert import bert
from objectives.causal_lm import CausalLM
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from objectives.span_corruption import SpanCorruption
from tests.tiny import ROWS, VOCAB, RaggedStream, encoder, masked_lm
from train.certificate import certify, launchers
from train.launch import Mesh, Pmap
from train.optimizer import Optimizer

SHAPE = {
    "vocab_size": VOCAB,
    "layers": 2,
    "width": 32,
    "heads": 2,
    "mlp_width": 64,
    "max_positions": 32,
    "dropout": 0.1,
    "attention_dropout": 0.1,
}


def bert_objective():
    return bert(masked_lm(), NextSentence(shortest_pair=12, longest_pair=24)).for_rows(ROWS)


def bert_network(objective):
    config = BertConfig(**SHAPE)
    return Network(config.build(), objective.heads(config))


def pairs(batch):
    """The ragged batch with types, and a label for each segment that is there."""
    segment_ids = batch["segment_ids"]
    there = np.stack([(segment_ids == g).any(axis=1) for g in (1, 2)], axis=1)
    labels = np.where(there, (batch["tokens"][:, :2] % 2), -1).astype(np.int32)
    types = ((batch["positions"] > 3) & (segment_ids > 0)).astype(np.int32)
    return {**batch, "labels": labels, "type_ids": types}


def gpt_network(objective):
    config = Gpt2Config(**SHAPE)
    return Network(config.build(), objective.heads(config))


def t5_objective():
    rows = dataclasses.replace(ROWS, own_start=VOCAB - 7, own_stop=VOCAB)
    return SpanCorruption(sentinels=7).for_rows(rows)


def t5_network(objective):
    config = T5V11Config(**SHAPE, head_dim=16)
    return Network(config.build(), objective.heads(config))


def ragged(_, steps):
    stream = RaggedStream(batch_size=32)
    return [pairs(stream.batch(i)) for i in range(steps)]


def made(objective, steps):
    docs = Documents.from_tokens([np.arange(7, 50)[: n + 9] for n in range(40)])
    stream = Stream(MadeRows(docs, objective.make_example, seed=0), batch_size=32, seed=0)
    return [stream.batch(i) for i in range(steps)]


CASES = {
    "bert": (bert_objective, bert_network, ragged),
    "gpt": (CausalLM, gpt_network, ragged),
    "t5": (t5_objective, t5_network, made),
}


def rows_of(case, steps, ways, splits):
    make_objective, make_network, make_batches = CASES[case]
    objective = make_objective()
    batches = make_batches(objective, steps)
    network, optimizer = make_network(objective), Optimizer(learning_rate=1e-3)
    return list(certify(network, objective, batches, optimizer, ways=ways, splits=splits))


@pytest.mark.parametrize(("case", "launcher"), [("bert", Mesh(fsdp=4, tensor=2)), ("gpt", Pmap())])
def test_launchers_agree(case, launcher):
    rows = rows_of(case, steps=4, ways={"many": launcher}, splits=(2,))
    assert [row.launcher for row in rows] == ["one device", "many"]
    assert all(row.agrees for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_whole_certificate(case):
    rows = rows_of(case, steps=20, ways=launchers(8), splits=(1, 2, 4))
    assert len(rows) == 2 + 4 * 3
    assert all(row.agrees for row in rows), rows


OPTIMIZED = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
from tests.test_train_certificate import Mesh, rows_of
rows = rows_of("bert", steps=4, ways={"fsdp x tensor": Mesh(fsdp=4, tensor=2)}, splits=(2,))
assert len(rows) == 2 and all(row.agrees for row in rows), rows
"""


@pytest.mark.slow
def test_the_optimised_program_agrees_too():
    """In a process of its own, whose compiler is the one that users have."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", OPTIMIZED], env=environment, check=True)


class MeanOfMeans(MaskedLM):
    """The usual mistake: each part divides by its own weight."""

    def __call__(self, network, batch, rng):
        out = super().__call__(network, batch, rng)
        one = jnp.ones((), jnp.float32)
        return LossOut({k: (s / w, one) for k, (s, w) in out.terms.items()}, out.metrics)


def test_the_certificate_catches_a_mean_of_means():
    objective = MeanOfMeans().for_rows(ROWS)
    config = encoder(width=32, mlp_width=64)
    network = Network(config.build(), objective.heads(config))
    batches = [RaggedStream().batch(0)]
    (row,) = certify(network, objective, batches, Optimizer(), ways={"pmap": Pmap()}, splits=(1,))
    assert not row.agrees and row.gradient_gap > 1e-3


def test_fsdp_and_tensor_meshes_really_shard():
    network = bert_network(bert_objective())
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    mesh = Mesh(fsdp=4, tensor=2)
    shardings = mesh.shardings(shapes, network.logical_axes())
    specs = {str(s.spec) for s in jax.tree.leaves(shardings)}
    assert any("fsdp" in s and "tensor" in s for s in specs), specs
    table = shardings["backbone"]["embed"]["tokens"].spec
    assert table == jax.sharding.PartitionSpec("tensor", "fsdp")
