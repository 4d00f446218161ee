"""ModernBERT: published sizes and outputs, who sees whom in local and global blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import modern_bert
from model.attention import make_context, narrowed
from model.modern_bert import ModernBertConfig
from model.network import Network
from model.platform import compiling_for
from tests.golden.weights import MODERN_BERT, SHAPE, inputs
from tests.published import assert_agrees, golden, published
from tests.test_model import (
    BATCH,
    SMALL,
    assert_bfloat16_and_remat_are_close,
    assert_packing_changes_nothing,
    count,
    influence,
)

CONFIG = ModernBertConfig(**(SMALL | {"layers": 3}), window=4)


@pytest.mark.parametrize(
    ("preset", "expected"),
    # transformers' ModernBertModel on the meta device, checkpoints answerdotai/ModernBERT-base and -large.
    [(modern_bert.modern_bert_base, 149_014_272), (modern_bert.modern_bert_large, 394_781_696)],
)
def test_parameters(preset, expected):
    assert count(preset()) == expected


def test_agrees_with_the_published_model():
    batch = inputs(36)
    network = published(Network(ModernBertConfig(**(SHAPE | MODERN_BERT)).build()))
    hidden = network.encode(batch)
    assert_agrees(hidden, golden("modern_bert")["modern_bert_hidden"], batch["segment_ids"])


def test_the_window_cuts_the_mask_of_either_kernel():
    segments = jnp.asarray(BATCH["segment_ids"])
    column = np.arange(12)
    near = np.abs(column[:, None] - column[None, :]) <= 2
    expected = (BATCH["segment_ids"][:, :, None] == BATCH["segment_ids"][:, None, :]) & near[None]
    context = narrowed(make_context(CONFIG, segments, jnp.asarray(BATCH["positions"])), 2, (0, 0))
    np.testing.assert_array_equal(np.asarray(context.bias_B1LS[:, 0]) == 0.0, expected)
    low = dataclasses.replace(CONFIG, dtype="bfloat16")
    with compiling_for("gpu"):
        context = narrowed(make_context(low, segments, jnp.asarray(BATCH["positions"])), 2, (0, 0))
    np.testing.assert_array_equal(context.allowed_B1LS[:, 0], expected)


def test_influence_stays_in_the_segment():
    seen = influence(CONFIG, BATCH)
    segment_L = BATCH["segment_ids"][0]
    same = segment_L[:, None] == segment_L[None, :]
    assert np.all(seen[~same] == 0.0)
    assert np.all(seen[:10, :10][same[:10, :10]] > 1e-5)


def test_packed_segments_equal_the_same_segments_alone():
    assert_packing_changes_nothing(CONFIG)


def test_bfloat16_and_remat_stay_close():
    assert_bfloat16_and_remat_are_close(CONFIG)


def test_every_block_but_the_first_has_an_attention_norm():
    shapes = jax.eval_shape(Network(CONFIG.build()).init, jax.random.key(0))["backbone"]
    assert shapes["layers"]["attention_norm"]["scale"].shape == (2, 32)
    assert set(shapes["embed_block"]) == {"attention", "mlp", "mlp_norm"}
    axes = Network(CONFIG.build()).logical_axes()["backbone"]
    assert axes["embed_block"]["mlp"]["down"]["kernel"] == ("mlp", "embed")
    assert axes["layers"]["mlp"]["down"]["kernel"] == ("layers", "mlp", "embed")


def test_kernels_that_can_have_a_window():
    low = dataclasses.replace(CONFIG, dtype="bfloat16")
    with compiling_for("tpu"):
        assert low.choose_kernel(128) == "plain"
        with pytest.raises(ValueError, match='"splash" cannot mix narrow and wide layers, but window is 4'):
            dataclasses.replace(low, attention="splash").choose_kernel(128)
    with compiling_for("gpu"):
        assert low.choose_kernel(128) == "cudnn"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layers": 1}, "layers 1"), ({"window": 5}, "window 5"), ({"unroll": 3}, "layers 3 .2 .*unroll 3")],
)
def test_configs_refuse_what_cannot_work(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
