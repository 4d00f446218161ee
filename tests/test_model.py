"""The model room: who sees whom, gradients under every policy, and what configs refuse."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from model.bert import BertConfig
from model.encoder import EncoderConfig
from model.gpt2 import Gpt2Config
from model.layers import Dropout
from model.network import Network
from model.row_keys import row_keys
from model.stack import stack
from objectives.measuring import QUICK

SMALL = {"vocab_size": 61, "layers": 2, "width": 32, "heads": 2, "mlp_width": 48, "max_positions": 32}
STILL = {"dropout": 0.0, "attention_dropout": 0.0}
CONFIGS = {
    "bert": BertConfig(**SMALL, **STILL),
    "gpt2": Gpt2Config(**SMALL, **STILL),
    "encoder": EncoderConfig(**SMALL),
}
each_model = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def count(config, *heads) -> int:
    network = Network(config.build(), tuple((f"head{i}", head) for i, head in enumerate(heads)))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@functools.cache
def restless(config):
    """Parameters far from their initial values, so that no zero bias or unit scale hides a fault."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(Network(config.build()).init, jax.random.key(0))

    def draw(path, leaf):
        mean, spread = (1.0, 0.1) if path[-1].key == "scale" else (0.0, leaf.shape[-1] ** -0.5)
        return random.normal(mean, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def packed(lengths, length=12):
    """One row per list of segment lengths; what is left over is padding. No token repeats within a row."""
    random = np.random.default_rng(0)
    names = ("segment_ids", "positions", "type_ids")
    batch = {name: np.zeros((len(lengths), length), np.int32) for name in names}
    for row, segments in enumerate(lengths):
        start = 0
        for index, n in enumerate(segments):
            batch["segment_ids"][row, start : start + n] = index + 1
            batch["positions"][row, start : start + n] = np.arange(n)
            batch["type_ids"][row, start : start + n] = np.arange(n) >= n // 2
            start += n
    rows = [random.permutation(SMALL["vocab_size"])[:length] for _ in lengths]
    return batch | {"tokens": np.array(rows, np.int32)}


# Compiled once per config and shape.
@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def encode(config, params, batch, dropout_rng=None):
    numbered = {**batch, "example_ids": jnp.arange(len(batch["tokens"]))}
    return Network(config.build()).bind(params, dropout_rng).encode(numbered)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def loss_and_grad(config, params, batch, weights_BLD):
    def loss(params):
        hidden_BLD = Network(config.build()).bind(params).encode(batch)
        return jnp.sum(hidden_BLD.astype(jnp.float32) * weights_BLD)

    return jax.value_and_grad(loss)(params)


def weights_for(batch):
    """A different weight for every feature of every real token."""
    shape = (*batch["tokens"].shape, SMALL["width"])
    weights_BLD = np.random.default_rng(1).normal(size=shape) * (batch["segment_ids"] != 0)[..., None]
    return weights_BLD.astype(np.float32)


BATCH = packed([[6, 4], [9]])


def assert_trees_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# Who sees whom.


def influence(config, batch):
    """[L, L]: how much token s's embedding moves the output at l, in the batch's first row.

    One gradient per l, not jacrev: jaxlib 0.10.2 miscompiles the vmapped norm on CPU (a fused product with an
    operand that vmap does not touch; right again with XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=).
    """
    direction_D = np.random.default_rng(2).normal(size=config.width).astype(np.float32)
    rows = []
    for index in range(batch["tokens"].shape[1]):
        weights_BLD = np.zeros((*batch["tokens"].shape, config.width), np.float32)
        weights_BLD[0, index] = direction_D
        _, grads = loss_and_grad(config, restless(config), batch, weights_BLD)
        rows.append(np.abs(grads["backbone"]["embed"]["tokens"])[batch["tokens"][0]].max(axis=-1))
    return np.array(rows)


@each_model
def test_influence_stays_in_the_segment_and_in_the_past(config):
    seen = influence(config, BATCH)[:10, :10]
    segment_L = BATCH["segment_ids"][0, :10]
    expected = segment_L[:, None] == segment_L[None, :]
    if config.causal:
        expected &= np.tril(np.ones((10, 10), bool))
    assert np.all(seen[~expected] == 0.0)
    assert np.all(seen[expected] > 1e-4)


@each_model
def test_padding_reaches_no_real_token(config):
    seen = influence(config, BATCH)
    assert np.all(seen[:10, 10:] == 0.0)
    assert np.all(seen[10:, :10] == 0.0)


@each_model
def test_packed_segments_equal_the_same_segments_alone(config):
    assert_packing_changes_nothing(config)


def assert_packing_changes_nothing(config):
    """Hidden states of packed segments are those of the same segments in rows of their own."""
    params, batch = restless(config), packed([[5, 5], [5, 2, 5]])
    together = encode(config, params, batch)
    for row, start in ((0, 0), (0, 5), (1, 7)):
        alone = {name: x[row : row + 1, start : start + 5] for name, x in batch.items()}
        alone["segment_ids"] = np.ones_like(alone["segment_ids"])
        np.testing.assert_allclose(
            together[row, start : start + 5], encode(config, params, alone)[0], rtol=1e-5, atol=1e-5
        )


@each_model
def test_padding_equals_deleting(config):
    params, batch = restless(config), packed([[6]], 6)
    padded = {name: np.pad(x, ((0, 1), (0, 6))) for name, x in batch.items()}
    loss, grads = loss_and_grad(config, params, batch, weights_for(batch))
    weights_BLD = np.pad(weights_for(batch), ((0, 1), (0, 6), (0, 0)))
    padded_loss, padded_grads = loss_and_grad(config, params, padded, weights_BLD)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-5, atol=1e-4)
    assert_trees_close(padded_grads, grads, rtol=1e-5, atol=1e-4)


@each_model
def test_a_batch_of_nothing_is_finite_and_has_no_attention_gradient(config):
    batch = packed([[], []])
    ones_BLD = np.ones((2, 12, config.width), np.float32)
    loss, grads = loss_and_grad(config, restless(config), batch, ones_BLD)
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))
    for name in ("query", "key", "value"):
        assert np.all(grads["backbone"]["layers"]["attention"][name]["kernel"] == 0.0)


def test_rotary_encoder_sees_distances_not_places():
    config = CONFIGS["encoder"]
    params = restless(config)
    hidden = encode(config, params, BATCH)
    moved = encode(config, params, BATCH | {"positions": BATCH["positions"] + 11})
    np.testing.assert_allclose(hidden, moved, rtol=1e-4, atol=1e-4)
    stretched = encode(config, params, BATCH | {"positions": BATCH["positions"] * 2})
    assert np.abs(hidden - stretched).max() > 1e-2


def test_types_and_positions_matter_to_bert():
    config = CONFIGS["bert"]
    params = restless(config)
    hidden = encode(config, params, BATCH)
    for name in ("type_ids", "positions"):
        assert np.abs(hidden - encode(config, params, BATCH | {name: BATCH[name][:, ::-1]})).max() > 1e-2
    untyped = {name: x for name, x in BATCH.items() if name != "type_ids"}
    zeros = BATCH | {"type_ids": np.zeros_like(BATCH["type_ids"])}
    np.testing.assert_array_equal(encode(config, params, untyped), encode(config, params, zeros))


# The same numbers under every policy.


@pytest.mark.parametrize("name", ["bert", "encoder"])
@pytest.mark.parametrize(
    "change",
    [{"remat": "dots"}, {"remat": "full", "unroll": 2}, {"unroll": 2}],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_remat_and_unroll_change_no_gradient(name, change):
    config = CONFIGS[name]
    params, weights_BLD = restless(config), weights_for(BATCH)
    changed = dataclasses.replace(config, **change)
    loss, grads = loss_and_grad(config, params, BATCH, weights_BLD)
    changed_loss, changed_grads = loss_and_grad(changed, params, BATCH, weights_BLD)
    np.testing.assert_allclose(changed_loss, loss, rtol=1e-5, atol=1e-4)
    assert_trees_close(changed_grads, grads, rtol=1e-4, atol=1e-4)


def test_remat_recomputes_what_it_says():
    """Counted in the jaxpr of the gradient: "full" repeats matrix products, "dots" repeats only the rest."""
    products, erfs = {}, {}
    for remat in ("none", "dots", "full"):
        config = dataclasses.replace(CONFIGS["bert"], remat=remat)
        args = restless(config), BATCH, weights_for(BATCH)
        text = str(jax.make_jaxpr(loss_and_grad.__wrapped__, static_argnums=0)(config, *args))
        products[remat], erfs[remat] = text.count("dot_general["), text.count(" erf ")
    assert products["none"] <= products["dots"] < products["full"]
    assert erfs["none"] < erfs["dots"] == erfs["full"]


@each_model
def test_bfloat16_is_finite_and_close(config):
    params = restless(config)
    low = dataclasses.replace(config, dtype="bfloat16")
    hidden = encode(low, params, BATCH)
    assert hidden.dtype == jnp.bfloat16
    real = BATCH["segment_ids"] != 0
    reference = np.asarray(encode(config, params, BATCH))[real]
    error = np.abs(np.asarray(hidden, np.float32)[real] - reference)
    assert 0.0 < error.max() < 0.1 * np.abs(reference).max()
    _, grads = loss_and_grad(low, params, BATCH, weights_for(BATCH))
    assert all(x.dtype == jnp.float32 and np.all(np.isfinite(x)) for x in jax.tree.leaves(grads))


def assert_bfloat16_and_remat_are_close(config):
    """Loss and gradients in bfloat16 with everything recomputed, beside those in float32."""
    params, weights_BLD = restless(config), weights_for(BATCH)
    loss, grads = loss_and_grad(config, params, BATCH, weights_BLD)
    low = dataclasses.replace(config, dtype="bfloat16", remat="full")
    low_loss, low_grads = loss_and_grad(low, params, BATCH, weights_BLD)
    assert 0 < abs(float(low_loss) - float(loss)) < 0.05 * float(np.linalg.norm(weights_BLD))
    for grad, low_grad in zip(jax.tree.leaves(grads), jax.tree.leaves(low_grads), strict=True):
        assert low_grad.dtype == jnp.float32
        assert np.linalg.norm(low_grad - grad) <= 0.1 * np.linalg.norm(grad)


# Dropout.


def test_dropout_is_on_iff_a_key_is_bound():
    config = BertConfig(**SMALL)
    params = restless(config)
    still = encode(config, params, BATCH)
    np.testing.assert_array_equal(still, encode(CONFIGS["bert"], params, BATCH))
    one, again, other = (encode(config, params, BATCH, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - still).max() > 1e-2
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_each_rate_acts(field):
    config = BertConfig(**SMALL, **(STILL | {field: 0.5}))
    params = restless(config)
    dropped = encode(config, params, BATCH, jax.random.key(0))
    assert np.abs(dropped - encode(CONFIGS["bert"], params, BATCH)).max() > 1e-2


def test_layers_draw_different_dropout():
    class Halve(nn.Module):
        config: BertConfig

        @nn.compact
        def __call__(self, x_BLD, _):
            return Dropout(0.5)(x_BLD), None

    class Quarter(nn.Module):
        @nn.compact
        def __call__(self, x_BLD):
            return stack(CONFIGS["bert"], Halve, x_BLD, None)

    key = row_keys(jax.random.key(0), jnp.zeros(1, jnp.int32), "hash")
    kept = Quarter().apply({}, jnp.ones((1, 1, 4096)), rngs={"dropout": key})
    assert set(np.unique(kept)) == {0.0, 4.0}
    assert np.mean(kept > 0) == pytest.approx(0.25, abs=0.05)  # one key for both layers would keep half


# What is refused.


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (BertConfig, {"heads": 5}, "width 32 .* heads 5"),
        (EncoderConfig, {"width": 30, "heads": 10}, "even.*30.*10.*3"),
        (BertConfig, {"layers": 2, "unroll": 3}, "layers 2 .*unroll 3"),
        (BertConfig, {"dropout": 1.0}, r"dropout must be .* below 1, got 1\.0"),
        (BertConfig, {"attention_dropout": -0.1}, r"attention_dropout must be .*, got -0\.1"),
        (BertConfig, {"layers": 0}, "layers must be at least 1, got 0"),
        (BertConfig, {"types": -1}, "types must be at least 0, got -1"),
        (BertConfig, {"attention": "splash"}, r"splash.*attention_dropout is 0\.1"),
        (BertConfig, {"attention": "cudnn"}, r"cudnn.*attention_dropout is 0\.1"),
        (EncoderConfig, {"attention": "cudnn"}, "cudnn.*float32"),
    ],
)
def test_configs_refuse_what_cannot_work(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**(SMALL | change))


def test_rows_longer_than_the_position_table_are_refused():
    config = CONFIGS["gpt2"]
    with pytest.raises(ValueError, match="33 tokens.*max_positions 32"):
        jax.eval_shape(functools.partial(encode, config), restless(config), packed([[33]], 33))
