"""A prefix that a causal backbone reads in both directions, for prefix language models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.gpt2 import Gpt2Config
from model.llama import LlamaConfig
from model.network import Network
from model.platform import compiling_for
from tests.test_model import BATCH, CONFIGS, SMALL, STILL, encode, influence, restless

PREFIX = (np.isin(BATCH["positions"], (0, 1, 2)) & (BATCH["segment_ids"] != 0)).astype(bool)
PREFIX[0, 8] = False  # two tokens of the second segment, three of the first
CAUSAL = {"gpt2": CONFIGS["gpt2"], "llama": LlamaConfig(**SMALL, kv_heads=1)}
each_causal = pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL.keys())


@each_causal
def test_without_prefix_it_is_causal(config):
    params = restless(config)
    expected = encode(config, params, BATCH)
    nothing = encode(config, params, BATCH | {"prefix": np.zeros_like(PREFIX)})
    np.testing.assert_array_equal(nothing, expected)
    assert np.abs(encode(config, params, BATCH | {"prefix": PREFIX}) - expected).max() > 1e-2


@each_causal
def test_the_prefix_is_seen_by_its_segment_and_the_rest_by_those_after_it(config):
    seen = influence(config, BATCH | {"prefix": PREFIX})
    segment_L = BATCH["segment_ids"][0]
    causal = np.tril(np.ones((12, 12), bool)) | PREFIX[0][None, :]
    expected = (segment_L[:, None] == segment_L[None, :]) & causal
    assert np.all(seen[~expected] == 0.0)
    assert np.all(seen[:10, :10][expected[:10, :10]] > 1e-4)
    assert expected[0, 2] and expected[6, 7] and not expected[6, 8]  # the case is there


def test_what_reads_both_ways_anyway_ignores_it():
    config = CONFIGS["encoder"]
    hidden = encode(config, restless(config), BATCH | {"prefix": PREFIX})
    np.testing.assert_array_equal(hidden, encode(config, restless(config), BATCH))


def test_kernels_that_can_have_a_prefix():
    config = Gpt2Config(**(SMALL | {"max_positions": 128}), **STILL, dtype="bfloat16")
    with compiling_for("tpu"):
        assert config.choose_kernel(128) == "splash"
        assert config.choose_kernel(128, prefixed=True) == "plain"
    with compiling_for("gpu"):
        assert config.choose_kernel(128, prefixed=True) == "cudnn"
    asked = dataclasses.replace(config, attention="splash")
    row = jnp.zeros((1, 128), jnp.int32)
    batch = {"tokens": row, "segment_ids": row, "positions": row, "prefix": row == 0}
    params = jax.tree.map(jnp.asarray, restless(config))
    with compiling_for("tpu"), pytest.raises(ValueError, match='"splash" cannot look ahead within a prefix'):
        Network(asked.build()).bind(params).encode(batch)
