"""T5: published sizes, scales and outputs, and what a decoder may see of packed sources and targets."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import t5
from model.gpt2 import Gpt2Config
from model.network import Network
from model.platform import compiling_for
from model.t5 import T5Config, T5V11Config, buckets
from tests.golden.weights import SHAPE, T5_HEAD_DIM, seq2seq_inputs
from tests.published import assert_agrees, golden, published
from tests.test_model import QUICK, SMALL, STILL, count, restless

SMALL_T5 = T5Config(**SMALL, **STILL, head_dim=8)  # 2 heads of 8, width 32
S, L = 10, 8


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (t5.t5_small, 60_506_624),
        (t5.t5_base, 222_903_552),
        (t5.t5_large, 737_668_096),
        (t5.t5_3b, 2_851_598_336),
        (t5.t5_11b, 11_307_321_344),
        (t5.t5_v1_1_small, 76_961_152),
        (t5.t5_v1_1_base, 247_577_856),
        (t5.t5_v1_1_large, 783_150_080),
        (t5.t5_v1_1_xl, 2_849_757_184),
        (t5.t5_v1_1_xxl, 11_135_332_352),
    ],
)
def test_parameters(preset, expected):
    assert count(preset()) == expected


def test_initial_scales_are_the_published_ones():
    config = T5V11Config(
        vocab_size=300, layers=2, width=64, heads=6, head_dim=16, mlp_width=256, max_positions=8
    )
    params = jax.jit(Network(config.build()).init, compiler_options=QUICK)(jax.random.key(0))["backbone"]
    block = params["decoder"]["layers"]
    for leaf, expected in (
        (params["embed"]["tokens"], 1.0),
        (params["unembed"]["tokens"], 64**-0.5),
        (block["attention"]["query"]["kernel"], (64 * 16) ** -0.5),
        (block["cross_attention"]["key"]["kernel"], 64**-0.5),
        (block["cross_attention"]["out"]["kernel"], (6 * 16) ** -0.5),
        (block["mlp"]["gate"]["kernel"], 64**-0.5),
        (block["mlp"]["down"]["kernel"], 256**-0.5),
        (params["encoder"]["relative"]["positions"], (2 / (32 + 6)) ** 0.5),
    ):
        assert float(jnp.std(leaf)) == pytest.approx(expected, rel=0.1)
    assert {str(path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)} == {
        "tokens",
        "kernel",
        "scale",
        "positions",
    }  # no biases anywhere


@pytest.mark.parametrize(("name", "make"), [("t5", T5Config), ("t5_v1_1", T5V11Config)])
def test_agrees_with_the_published_model(name, make):
    batch, outputs = seq2seq_inputs(), golden("t5")
    network = published(Network(make(**SHAPE, **STILL, head_dim=T5_HEAD_DIM).build()))
    memory = network.encode(batch)
    assert_agrees(memory, outputs[f"{name}_encoder"], batch["segment_ids"])
    hidden = network.decode(batch["target_tokens"], batch, memory)
    assert_agrees(network.unembed(hidden), outputs[f"{name}_logits"], batch["target_segment_ids"])


def test_buckets_are_the_published_ones():
    distance = np.arange(-300, 301)
    np.testing.assert_array_equal(buckets(distance, causal=False), golden("t5")["t5_encoder_buckets"])
    np.testing.assert_array_equal(buckets(distance, causal=True), golden("t5")["t5_decoder_buckets"])


def seq2seq(sources, targets):
    """Rows of packed sources and targets; no token repeats within a row, source and target together."""
    random = np.random.default_rng(0)
    batch = {}
    for prefix, lengths, length in (("", sources, S), ("target_", targets, L)):
        segment_ids, positions = np.zeros((2, len(lengths), length), np.int32)
        for row, sizes in enumerate(lengths):
            segment_ids[row, : sum(sizes)] = [i + 1 for i, n in enumerate(sizes) for _ in range(n)]
            positions[row, : sum(sizes)] = [place for n in sizes for place in range(n)]
        batch |= {f"{prefix}segment_ids": segment_ids, f"{prefix}positions": positions}
    tokens = np.array([random.permutation(SMALL["vocab_size"])[: S + L] for _ in sources])
    example_ids = np.arange(len(sources), dtype=np.int32)
    return batch | {"tokens": tokens[:, :S], "target_tokens": tokens[:, S:], "example_ids": example_ids}


BATCH = seq2seq([[5, 4], [6]], [[3, 4], [2, 3]])  # the last target has no source


def translate(config, params, batch, dropout_rng=None):
    network = Network(config.build()).bind(params, dropout_rng)
    return network.decode(batch["target_tokens"], batch, network.encode(batch))


decode = jax.jit(translate, static_argnums=0, compiler_options=QUICK)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def loss_and_grad(config, params, batch, weights_BLD):
    return jax.value_and_grad(
        lambda params: jnp.sum(translate(config, params, batch).astype(jnp.float32) * weights_BLD)
    )(params)


def weights_for(batch):
    weights_BLD = np.random.default_rng(1).normal(size=(*batch["target_tokens"].shape, SMALL["width"]))
    return (weights_BLD * (batch["target_segment_ids"] != 0)[..., None]).astype(np.float32)


@pytest.mark.parametrize("row", [0, 1])
def test_a_target_sees_its_own_past_and_the_source_of_its_segment(row):
    seen = np.zeros((L, S + L))
    tokens = np.concatenate([BATCH["tokens"][row], BATCH["target_tokens"][row]])
    for index in range(L):
        weights_BLD = np.zeros((2, L, SMALL["width"]), np.float32)
        weights_BLD[row, index] = np.random.default_rng(2).normal(size=SMALL["width"])
        _, grads = loss_and_grad(SMALL_T5, restless(SMALL_T5), BATCH, weights_BLD)
        seen[index] = np.abs(grads["backbone"]["embed"]["tokens"])[tokens].max(axis=-1)
    source_S, target_L = BATCH["segment_ids"][row], BATCH["target_segment_ids"][row]
    expected = np.concatenate(
        [
            target_L[:, None] == source_S[None, :],
            (target_L[:, None] == target_L[None, :]) & np.tril(np.ones((L, L), bool)),
        ],
        axis=1,
    )
    real = target_L != 0
    assert np.all(seen[real][~expected[real]] == 0.0)
    assert np.all(seen[real][expected[real]] > 1e-5)
    assert np.all(seen[~real][:, : (source_S != 0).sum()] == 0.0)  # padding reads no token of the source


def test_packed_examples_equal_the_same_examples_alone():
    params, together = restless(SMALL_T5), decode(SMALL_T5, restless(SMALL_T5), BATCH)
    alone = seq2seq([[4], []], [[4], [3]])
    for name in ("tokens", "target_tokens"):
        alone[name][:] = 0
    alone["tokens"][0, :4] = BATCH["tokens"][0, 5:9]
    alone["target_tokens"][0, :4] = BATCH["target_tokens"][0, 3:7]
    alone["target_tokens"][1, :3] = BATCH["target_tokens"][1, 2:5]
    separate = decode(SMALL_T5, params, alone)
    np.testing.assert_allclose(together[0, 3:7], separate[0, :4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together[1, 2:5], separate[1, :3], rtol=1e-5, atol=1e-5)


def test_bfloat16_and_remat_stay_close():
    # At the initial values: wilder weights choose sharply, as scores are not divided by the root of the head size.
    params = jax.jit(Network(SMALL_T5.build()).init, compiler_options=QUICK)(jax.random.key(0))
    weights_BLD = weights_for(BATCH)
    loss, grads = loss_and_grad(SMALL_T5, params, BATCH, weights_BLD)
    low = dataclasses.replace(SMALL_T5, dtype="bfloat16", remat="full")
    low_loss, low_grads = loss_and_grad(low, params, BATCH, weights_BLD)
    assert 0 < abs(float(low_loss) - float(loss)) < 0.02 * float(np.linalg.norm(weights_BLD))
    pairs = [
        np.array([a, b - a]) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(low_grads), strict=True)
    ]
    size, error = np.sqrt(sum(np.sum(pair.reshape(2, -1) ** 2, axis=1) for pair in pairs))
    assert error < 0.1 * size  # measured 0.04
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(low_grads))


def test_dropout_acts_where_a_key_is_bound():
    config = dataclasses.replace(SMALL_T5, dropout=0.3)
    params = restless(config)
    still = decode(SMALL_T5, params, BATCH)
    one, other = (decode(config, params, BATCH, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one - still).max() > 1e-3
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("make", [T5Config, T5V11Config])
def test_the_table_of_the_logits(make):
    config = make(**SMALL, **STILL, head_dim=8)
    network = Network(config.build()).bind(restless(config))
    module = "embed" if make is T5Config else "unembed"
    np.testing.assert_array_equal(network.embedding_VD, network.params["backbone"][module]["tokens"])
    assert network.config.tied == ("unembed" not in network.params["backbone"])


def test_logical_axes_mirror_the_parameters():
    network = Network(T5V11Config(**SMALL, head_dim=8).build())
    shapes, axes = jax.eval_shape(network.init, jax.random.key(0)), network.logical_axes()
    ranks = jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple))
    assert jax.tree.map(lambda x: x.ndim, shapes) == ranks
    decoder = axes["backbone"]["decoder"]
    assert decoder["layers"]["cross_attention"]["key"]["kernel"] == (
        "layers",
        "embed",
        "kv_heads",
        "head_dim",
    )
    assert decoder["relative"]["positions"] == ("buckets", "heads")
    assert axes["backbone"]["unembed"]["tokens"] == ("vocab", "embed")


def test_plain_keeps_the_mathematics():
    network = Network(dataclasses.replace(SMALL_T5, remat="full").build()).plain(16)
    assert network.backbone.config == dataclasses.replace(SMALL_T5, attention="plain")


def test_only_the_plain_kernel_adds_position_biases():
    still = dataclasses.replace(SMALL_T5, dtype="bfloat16")
    for platform in ("tpu", "gpu"):
        with compiling_for(platform):
            assert still.choose_kernel(128) == "plain"
    asked = dataclasses.replace(still, attention="splash", max_positions=128)
    row = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    batch = {"segment_ids": row, "positions": row}
    with (
        compiling_for("tpu"),
        pytest.raises(ValueError, match='"splash" cannot add position biases.*T5Config'),
    ):
        jax.eval_shape(
            lambda batch, params: (
                Network(asked.build()).bind(params).encode({**batch, "tokens": batch["segment_ids"]})
            ),
            batch,
            restless(SMALL_T5),
        )


def test_what_cannot_decode_says_so():
    config = Gpt2Config(**SMALL)
    with pytest.raises(ValueError, match="Gpt2Config has no decoder"):
        Network(config.build()).bind({}).decode(BATCH["target_tokens"], BATCH, jnp.zeros((2, S, 32)))
    with pytest.raises(ValueError, match="head_dim must be at least 1, got 0"):
        dataclasses.replace(SMALL_T5, head_dim=0)


def test_heads_need_not_divide_the_width():
    config = T5Config(**(SMALL | {"heads": 3}), head_dim=8)
    shapes = jax.eval_shape(Network(config.build()).init, jax.random.key(0))["backbone"]
    kernel = shapes["encoder"]["layers"]["attention"]["out"]["kernel"]
    assert kernel.shape == (2, 3, 8, 32) and math.prod(kernel.shape[1:3]) == 24
