"""All attention kernels agree where they can run, and say early where they cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from model import kernels
from model.attention import make_context
from model.bert import BertConfig
from model.encoder import EncoderConfig, encoder_tiny
from model.gpt2 import Gpt2Config
from model.kernels import MASKED, allowed
from model.network import Network
from model.platform import compiling_for
from train.launch import Mesh

B, L, H, K = 2, 128, 2, 16
SMALL = {"vocab_size": 61, "layers": 2, "width": 32, "heads": 2, "mlp_width": 48, "max_positions": 256}
SEGMENTS = np.zeros((B, L), np.int32)
SEGMENTS[0, :50], SEGMENTS[0, 50:90], SEGMENTS[0, 90:101] = 1, 2, 3  # and 27 of padding
SEGMENTS[1, :] = 1
RANDOM = np.random.default_rng(0)
QKV = tuple(RANDOM.normal(size=(B, L, H, K)).astype(np.float32) for _ in range(3))
COTANGENT = RANDOM.normal(size=(B, L, H, K)).astype(np.float32) * (SEGMENTS != 0)[:, :, None, None]


def plain(q, k, v, causal):
    bias = jnp.where(allowed(jnp.asarray(SEGMENTS), causal), 0.0, MASKED)
    return kernels.plain_attention(q, k, v, bias, lambda probs: probs)


def library(q, k, v, causal):
    return kernels.library_attention(q, k, v, allowed(jnp.asarray(SEGMENTS), causal), implementation="xla")


def splash(q, k, v, causal):
    return kernels.splash_attention(q, k, v, jnp.asarray(SEGMENTS), causal, interpret=True)


def by_hand(q, k, v, causal):
    """In float64, one query at a time."""
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(B, L, H):
        seen = SEGMENTS[b] == SEGMENTS[b, i]
        if causal:
            seen &= np.arange(L) <= i
        scores = (k[b, seen, h].astype(np.float64) @ q[b, i, h]) / np.sqrt(K)
        probs = np.exp(scores - scores.max())
        out[b, i, h] = probs @ v[b, seen, h] / probs.sum()
    return out


@functools.cache
def value_and_grads(kernel, causal):
    def run(q, k, v):
        out, backward = jax.vjp(lambda q, k, v: kernel(q, k, v, causal), q, k, v)
        return out, backward(jnp.asarray(COTANGENT))

    return jax.jit(run)(*QKV)


@pytest.mark.parametrize("causal", [False, True], ids=["both-ways", "causal"])
def test_plain_attention_by_hand(causal):
    out, _ = value_and_grads(plain, causal)
    np.testing.assert_allclose(out, by_hand(*QKV, causal), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [library, splash])
@pytest.mark.parametrize("causal", [False, True], ids=["both-ways", "causal"])
def test_kernels_agree(kernel, causal):
    expected_out, expected_grads = value_and_grads(plain, causal)
    out, grads = value_and_grads(kernel, causal)
    real = SEGMENTS != 0
    np.testing.assert_allclose(out[real], expected_out[real], rtol=1e-5, atol=1e-5)
    for grad, expected in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-5)


def test_splash_splits_rows_and_heads_over_a_mesh():
    """As on a TPU mesh: the launcher's rules for "batch" and "heads" decide, and the result is the same."""
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec("data", None, "tensor", None))
    placed = [jax.device_put(x, rows) for x in QKV]
    with jax.set_mesh(mesh), nn.logical_axis_rules((("batch", "data"), ("heads", "tensor"))):
        compiled = jax.jit(lambda *qkv: splash(*qkv, True)).lower(*placed).compile()
    out = compiled(*placed)
    assert out.sharding.is_equivalent_to(rows, 4)
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_allclose(out, value_and_grads(splash, True)[0], rtol=1e-5, atol=1e-5)


def test_the_mesh_launcher_tells_a_kernel_how_to_split():
    """The launched step, with nothing set by hand: rows go over data and fsdp, heads over tensor."""
    launcher = Mesh(data=2, fsdp=2, tensor=2)

    def step(state, batch, rng):
        return kernels.splash_attention(*(batch[name] for name in "qkvs"), True, interpret=True)

    twice = {name: np.concatenate([x, x]) for name, x in zip("qkvs", (*QKV, SEGMENTS), strict=True)}
    placed = launcher.put(twice)
    compiled = launcher.compile(step, donate=False).lower((), placed, ()).compile()
    assert "all-gather" not in compiled.as_text()
    expected = launcher._sharding(("data", "fsdp"), None, "tensor", None)
    assert compiled((), placed, ()).sharding.is_equivalent_to(expected, 4)


def test_splash_inside_pmap_is_local():
    alone = value_and_grads(splash, True)[0]
    with nn.logical_axis_rules((("batch", "data"),)):
        out = jax.pmap(
            lambda q, k, v, s: kernels.splash_attention(q[None], k[None], v[None], s[None], True, True)[0],
            devices=jax.devices()[:B],
        )(*QKV, SEGMENTS)
    np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["cudnn", "splash"])
def test_a_whole_model_agrees_under_each_kernel(attention, monkeypatch):
    """Through the real choice and context; only the kernel's own backend is stood in for."""
    config = Gpt2Config(**SMALL, dropout=0.0, attention_dropout=0.0, dtype="bfloat16")
    batch = {
        "segment_ids": jnp.asarray(SEGMENTS),
        "positions": jnp.broadcast_to(jnp.arange(L)[None], (B, L)),
    }
    tokens = jnp.asarray(RANDOM.integers(0, 61, (B, L)))
    params = Network(config.build()).init(jax.random.key(0))

    def encode(config):
        return Network(config.build()).bind(params).encode({**batch, "tokens": tokens})

    expected = jax.jit(lambda: encode(config))().astype(jnp.float32)
    swapped = {
        "cudnn": ("library_attention", {"implementation": "xla"}),
        "splash": ("splash_attention", {"interpret": True}),
    }
    name, how = swapped[attention]
    calls = []

    def stand_in(*args):
        calls.append(name)
        return getattr(kernels, name)(*args, **how)

    monkeypatch.setattr(f"model.attention.{name}", stand_in)
    asked = Gpt2Config(**SMALL, dropout=0.0, attention_dropout=0.0, dtype="bfloat16", attention=attention)
    with compiling_for({"cudnn": "gpu", "splash": "tpu"}[attention]):
        out = jax.jit(lambda: encode(asked))().astype(jnp.float32)
    assert calls
    np.testing.assert_allclose(out, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "dropout", "expected"),
    [
        ("cpu", "bfloat16", 128, 0.0, "plain"),
        ("tpu", "bfloat16", 128, 0.0, "splash"),
        ("tpu", "float32", 384, 0.0, "splash"),
        ("tpu", "bfloat16", 100, 0.0, "plain"),
        ("tpu", "bfloat16", 128, 0.1, "plain"),
        ("gpu", "bfloat16", 100, 0.0, "cudnn"),
        ("gpu", "float32", 128, 0.0, "plain"),
        ("gpu", "bfloat16", 128, 0.1, "plain"),
        ("gpu", "bfloat16", 127, 0.0, "plain"),
        ("tpu", "bfloat16", 1, 0.0, "plain"),
    ],
)
def test_auto_takes_the_fastest_that_can_work(platform, dtype, length, dropout, expected):
    config = BertConfig(**SMALL, dtype=dtype, attention_dropout=dropout)
    with compiling_for(platform):
        assert config.choose_kernel(length) == expected


def test_auto_is_plain_here():
    assert encoder_tiny(100).choose_kernel(128) == "plain"


@pytest.mark.parametrize(
    ("attention", "platform", "change", "length", "message"),
    [
        ("cudnn", "cpu", {}, 128, '"cudnn" runs on gpu only, but the backend is "cpu"'),
        ("splash", "cpu", {}, 128, '"splash" runs on tpu only, but the backend is "cpu"'),
        ("splash", "gpu", {}, 128, '"splash" runs on tpu only, but the backend is "gpu"'),
        ("splash", "tpu", {}, 100, '"splash" tiles rows by 128, but they are 100 tokens long'),
        ("cudnn", "gpu", {"width": 24}, 128, '"cudnn" needs a head size .* multiple of 8 .* is 12'),
        ("cudnn", "gpu", {"width": 272}, 128, '"cudnn" needs a head size .* up to 128, .* is 136'),
        ("cudnn", "gpu", {}, 127, '"cudnn" needs an even row length, but rows are 127'),
    ],
)
def test_a_choice_that_cannot_work_is_refused_with_both_values(attention, platform, change, length, message):
    config = EncoderConfig(**(SMALL | change), attention=attention, dtype="bfloat16")
    row = jax.ShapeDtypeStruct((1, length), jnp.int32)
    with compiling_for(platform), pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda s, p: make_context(config, s, p), row, row)


def test_the_target_platform_is_left_again():
    with pytest.raises(RuntimeError), compiling_for("tpu"):
        raise RuntimeError
    assert encoder_tiny(100).choose_kernel(128) == "plain"
