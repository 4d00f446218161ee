"""Adapters: published counts, the base model at the start, what moves in training and what may not."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune.adapters.frozen import Frozen
from finetune.adapters.lora import LoRA
from model.bert import BertConfig, bert_base, roberta_base, roberta_large
from model.gpt2 import gpt2_large, gpt2_medium, gpt2_small
from model.heads import Classifier
from model.network import Network
from train.adapter import FULL
from train.checkpoint import flat
from train.launch import Mesh
from train.optimizer import Optimizer, decay_mask, depth_multipliers
from train.state import create_state
from train.tree import nest

TINY = BertConfig(
    vocab_size=32, layers=4, width=8, heads=2, mlp_width=16, max_positions=16, types=1, dropout=0.0
)
NETWORK = Network(TINY.build(), (("classifier", Classifier(TINY, 3)),))


@functools.cache
def tiny_params():
    params = NETWORK.init(jax.random.key(0))
    # Biases start at zero and norms at one: noise makes every leaf tell its own story.
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.asarray(x) + rng.normal(0.0, 0.1, x.shape).astype(np.float32), params)


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def assert_same(left, right):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg="/".join(path))


@pytest.mark.parametrize(
    ("config", "rank", "expected"),
    [
        (roberta_base(), 8, 294_912),
        (roberta_large(), 8, 786_432),
        (gpt2_small(), 4, 147_456),
        (gpt2_medium(), 4, 393_216),
        (gpt2_large(), 4, 737_280),
    ],
)
def test_lora_adds_the_published_number_of_parameters(config, rank, expected):
    params = jax.eval_shape(Network(config.build()).init, jax.random.key(0))
    trainable, frozen = jax.eval_shape(LoRA(rank=rank).split, params, jax.random.key(0))
    assert count(trainable) == expected
    assert count(frozen) == count(params)


def test_lora_on_every_matrix_adds_rank_times_both_sides():
    config = bert_base()
    params = jax.eval_shape(Network(config.build()).init, jax.random.key(0))
    trainable, _ = jax.eval_shape(LoRA(rank=2, targets=("kernel$",)).split, params, jax.random.key(0))
    # Four square matrices, and two of width x mlp_width, per layer.
    assert count(trainable) == 12 * 2 * (4 * (768 + 768) + 2 * (768 + 3072))


def test_lora_starts_as_the_base_model_bit_for_bit():
    params, adapter = tiny_params(), LoRA(rank=2, targets=("kernel$",))
    trainable, frozen = adapter.split(params, jax.random.key(2))
    merged = adapter.merge(trainable, frozen)
    assert_same(merged, params)
    a = trainable["backbone"]["layers"]["attention"]["query"]["kernel"]["lora_a"]
    assert a.shape == (4, 8, 2) and np.unique(np.asarray(a)).size == a.size, (
        "each layer has a pair of its own"
    )


def test_lora_adds_the_product_of_its_pair_layer_by_layer():
    params, adapter = (
        tiny_params(),
        LoRA(rank=2, alpha=6.0, targets=("attention/out/kernel$", "mlp/up/kernel$")),
    )
    trainable, frozen = adapter.split(params, jax.random.key(2))
    rng = np.random.default_rng(0)
    trainable = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), trainable)
    merged = adapter.merge(trainable, frozen)
    pair = trainable["backbone"]["layers"]["attention"]["out"]["kernel"]
    for layer in range(4):
        before = params["backbone"]["layers"]["attention"]["out"]["kernel"][layer]
        after = merged["backbone"]["layers"]["attention"]["out"]["kernel"][layer]
        expected = 3.0 * pair["lora_a"][layer] @ pair["lora_b"][layer]
        np.testing.assert_allclose(np.asarray(after - before).reshape(8, 8), expected, atol=1e-5)
    assert_same(merged["backbone"]["embed"], params["backbone"]["embed"])
    assert_same(merged["heads"], trainable["heads"])


@pytest.mark.parametrize("layers", [-1, 0, 1, 3, 4])
def test_frozen_splits_by_layer_and_merges_back(layers):
    params, adapter = tiny_params(), Frozen(layers=layers)
    trainable, frozen = adapter.split(params, jax.random.key(0))
    assert_same(adapter.merge(trainable, frozen), params)
    assert trainable["heads"].keys() == {"classifier"} and "heads" not in frozen
    kernels = {path: leaf.shape[0] for path, leaf in flat(trainable).items() if path[1] == "layers"}
    assert set(kernels.values()) == (set() if layers in (-1, 4) else {4 - layers})
    assert {"embed", "embed_norm"} <= frozen["backbone"].keys()


@pytest.mark.parametrize("adapter", [FULL, Frozen(), Frozen(layers=2), LoRA(rank=2)])
def test_training_moves_the_trainable_and_nothing_else(adapter):
    params = tiny_params()
    tx = Optimizer(learning_rate=0.1, layer_decay=0.9).build(10)
    state = jax.jit(lambda p: create_state(p, jax.random.key(0), tx=tx, adapter=adapter))(params)
    before = state.trainable
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sorted(x.shape for x in moments) == sorted(2 * [x.shape for x in jax.tree.leaves(before)])

    def loss(trainable):
        merged = adapter.merge(trainable, state.frozen)
        return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(merged))

    @jax.jit
    def update(trainable, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(trainable), opt_state, trainable)
        return jax.tree.map(jnp.add, trainable, updates), opt_state

    # Two updates: after the first, lora_b is no longer zero and lora_a has a gradient.
    trainable, _ = update(*update(state.trainable, state.opt_state))
    merged = flat(adapter.merge(trainable, state.frozen))
    for path, leaf in flat(trainable).items():
        assert np.any(np.asarray(leaf) != np.asarray(flat(before)[path])), f"{path} did not move"
    ours = {path[:-1] if path[-1].startswith("lora") else path for path in flat(before)}
    for path, leaf in flat(params).items():
        if path not in ours:
            np.testing.assert_array_equal(merged[path], leaf)
    if isinstance(adapter, Frozen) and adapter.layers == 2:
        kernel = ("backbone", "layers", "mlp", "up", "kernel")
        np.testing.assert_array_equal(merged[kernel][:2], flat(params)[kernel][:2])
        assert np.all(np.any(np.asarray(merged[kernel][2:] != flat(params)[kernel][2:]), axis=(1, 2)))


def test_rules_of_optimizer_and_mesh_cover_the_adapters_parameters():
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0))
    trainable, frozen = jax.eval_shape(LoRA(rank=2).split, shapes, jax.random.key(0))
    decays = {path[-1]: value for path, value in flat(decay_mask(trainable)).items()}
    assert decays == {"lora_a": False, "lora_b": False, "kernel": True, "bias": False}
    scales = flat(depth_multipliers(trainable, 0.5))
    query = scales[("backbone", "layers", "attention", "query", "kernel", "lora_a")]
    np.testing.assert_allclose(np.ravel(query), [0.0625, 0.125, 0.25, 0.5])
    trainable, frozen = jax.eval_shape(Frozen(layers=2).split, shapes, jax.random.key(0))
    shardings = flat(
        Mesh(fsdp=2, tensor=2).shardings({"trainable": trainable, "frozen": frozen}, NETWORK.logical_axes())
    )
    for side in ("trainable", "frozen"):
        spec = shardings[(side, "backbone", "layers", "attention", "query", "kernel")].spec
        assert tuple(spec) == (None, "fsdp", "tensor", None)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (LoRA(targets=("attention/quarry",)), ("attention/quarry", "backbone/layers/attention/query/kernel")),
        (LoRA(rank=9), ("9", "8 x 8")),
        (Frozen(layers=5), ("5", "4 layers")),
    ],
)
def test_what_does_not_fit_the_model_is_named(adapter, words):
    with pytest.raises(ValueError) as error:
        adapter.split(tiny_params(), jax.random.key(0))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "make", [lambda: LoRA(rank=0), lambda: LoRA(targets=("(",)), lambda: Frozen(layers=-2)]
)
def test_impossible_fields_are_refused(make):
    with pytest.raises(ValueError, match="adapter"):
        make()


def test_nest_is_the_inverse_of_flat():
    assert_same(nest(flat(tiny_params())), tiny_params())
