"""Llama: published sizes and outputs, shared key heads under every kernel, and who sees whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import kernels, llama
from model.kernels import MASKED, allowed
from model.llama import LlamaConfig
from model.network import Network
from model.rotary import rotary_rates
from tests.golden.weights import KV_HEADS, LLAMA_STRETCH, SHAPE, inputs
from tests.published import assert_agrees, golden, published
from tests.test_model import (
    BATCH,
    SMALL,
    assert_bfloat16_and_remat_are_close,
    assert_packing_changes_nothing,
    count,
    influence,
    restless,
)

CONFIG = LlamaConfig(**(SMALL | {"heads": 4}), kv_heads=2)
STRETCH = {
    "stretch": LLAMA_STRETCH["factor"],
    "trained_positions": int(LLAMA_STRETCH["original_max_position_embeddings"]),
    "rotary_base": LLAMA_STRETCH["rope_theta"],
}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (llama.llama2_7b, 6_738_415_616),
        (llama.llama3_8b, 8_030_261_248),
        (llama.llama3_2_1b, 1_235_814_400),
        (llama.tiny_llama_1_1b, 1_100_048_384),
    ],
)
def test_parameters(preset, expected):
    assert count(preset()) == expected


@pytest.mark.parametrize(
    ("name", "change"),
    [("llama", {}), ("llama_stretched", STRETCH | {"tied": True})],
    ids=lambda x: str(x)[:9],
)
def test_agrees_with_the_published_model(name, change):
    batch, outputs = inputs(36), golden("llama")
    network = published(Network(LlamaConfig(**SHAPE, kv_heads=KV_HEADS, **change).build()))
    hidden = network.encode(batch)
    assert_agrees(hidden, outputs[f"{name}_hidden"], batch["segment_ids"])
    assert_agrees(network.unembed(hidden)[:, ::3], outputs[f"{name}_logits"], batch["segment_ids"][:, ::3])


def test_stretched_rates_keep_the_fast_and_slow_the_slow():
    config = LlamaConfig(**SHAPE, kv_heads=2, **STRETCH)
    share = config.rotary_rates() / rotary_rates(config.head_dim, config.rotary_base)
    turns = np.asarray(rotary_rates(config.head_dim, config.rotary_base)) * 32 / (2 * np.pi)
    between = (turns[1] - 1) / 3
    np.testing.assert_allclose(share, [1.0, between + (1 - between) / 8, 1 / 8, 1 / 8], rtol=1e-5)


def test_influence_stays_in_the_segment_and_in_the_past():
    seen = influence(CONFIG, BATCH)
    segment_L = BATCH["segment_ids"][0]
    expected = (segment_L[:, None] == segment_L[None, :]) & np.tril(np.ones((12, 12), bool))
    assert np.all(seen[~expected] == 0.0)
    assert np.all(seen[:10, :10][expected[:10, :10]] > 1e-4)


def test_packed_segments_equal_the_same_segments_alone():
    assert_packing_changes_nothing(CONFIG)


def test_bfloat16_and_remat_stay_close():
    assert_bfloat16_and_remat_are_close(CONFIG)


def test_kernels_agree_on_shared_key_heads():
    random, heads, groups = np.random.default_rng(0), 4, 2
    q, k, v = (random.normal(size=(2, 128, n, 16)).astype(np.float32) for n in (heads, groups, groups))
    segments = jnp.asarray(np.repeat([[1, 2, 0]], [60, 50, 18], axis=1).repeat(2, axis=0))
    bias = jnp.where(allowed(segments, True), 0.0, MASKED)
    every = [np.repeat(x, heads // groups, axis=2) for x in (k, v)]  # query heads 0, 1 read key head 0
    expected = kernels.plain_attention(q, *every, bias, lambda probs: probs)
    real = np.asarray(segments) != 0
    for out in (
        kernels.plain_attention(q, k, v, bias, lambda probs: probs),
        kernels.library_attention(q, k, v, allowed(segments, True), implementation="xla"),
        kernels.splash_attention(q, k, v, segments, True, interpret=True),
    ):
        np.testing.assert_allclose(out[real], expected[real], rtol=1e-5, atol=1e-5)


def test_key_heads_have_a_logical_name_of_their_own():
    network = Network(CONFIG.build())
    layers, shapes = (
        network.logical_axes()["backbone"]["layers"],
        jax.eval_shape(network.init, jax.random.key(0)),
    )
    attention = shapes["backbone"]["layers"]["attention"]
    for name, axis, size in (("query", "heads", 4), ("key", "kv_heads", 2), ("value", "kv_heads", 2)):
        assert layers["attention"][name]["kernel"] == ("layers", "embed", axis, "head_dim")
        assert attention[name]["kernel"].shape == (2, 32, size, 8)


@pytest.mark.parametrize("tied", [False, True])
def test_the_table_of_the_logits(tied):
    config = dataclasses.replace(CONFIG, tied=tied)
    network = Network(config.build()).bind(restless(config))
    module = "embed" if tied else "unembed"
    np.testing.assert_array_equal(network.embedding_VD, network.params["backbone"][module]["tokens"])
    assert tied == ("unembed" not in network.params["backbone"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "heads 4 .* kv_heads 3"),
        ({"kv_heads": 0}, "kv_heads must be at least 1, got 0"),
        ({"stretch": 0.5}, r"stretch 0\.5"),
        ({"heads": 5, "kv_heads": 5}, "width 32 .* heads 5"),
    ],
)
def test_configs_refuse_what_cannot_work(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
