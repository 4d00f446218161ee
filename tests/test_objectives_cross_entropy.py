"""The chunked cross-entropy is the plain one, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.cross_entropy import Nll, cross_entropy, cross_entropy_of_logits, split, sweep, token_nll
from objectives.divergence import Divergence
from objectives.measuring import QUICK

_quick = functools.partial(jax.jit, compiler_options=QUICK)


def _inputs(B=3, P=10, D=8, V=37, dtype=jnp.float32, seed=0):
    k = jax.random.split(jax.random.key(seed), 5)
    hidden = jax.random.normal(k[0], (B, P, D), dtype)
    table = jax.random.normal(k[1], (V, D), dtype)
    bias = jax.random.normal(k[2], (V,))
    targets = jax.random.randint(k[3], (B, P), 0, V)
    weights = jax.random.uniform(k[4], (B, P)) * (jnp.arange(P) % 3 > 0)[None]
    return hidden, table, bias, targets, weights


def _plain(hidden, table, bias, targets, weights, z_loss):
    logits = (hidden @ table.T + bias[None, None]).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = log_z - jnp.sum(jax.nn.one_hot(targets, table.shape[0]) * logits, axis=-1)
    return jnp.sum(weights * (nll + z_loss * log_z**2)), jnp.sum(weights * nll)


@pytest.mark.parametrize(("chunk", "z_loss"), [(None, 0.0), (None, 0.1), (4, 0.1), (5, 0.0)])
def test_sums_and_gradients_are_the_plain_ones(chunk, z_loss):
    hidden, table, bias, targets, weights = _inputs()

    def ours(hidden, table, bias):
        out = cross_entropy(hidden, table, bias, targets, weights, z_loss=z_loss, chunk=chunk)
        return 3 * out.loss_sum, out

    def plain(hidden, table, bias):
        loss, nll = _plain(hidden, table, bias, targets, weights, z_loss)
        return 3 * loss, nll

    (loss, out), grads = _quick(jax.value_and_grad(ours, argnums=(0, 1, 2), has_aux=True))(
        hidden, table, bias
    )
    (expected, nll), expected_grads = _quick(jax.value_and_grad(plain, argnums=(0, 1, 2), has_aux=True))(
        hidden, table, bias
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(out.nll_sum, nll, rtol=1e-5)
    right = jnp.argmax(hidden @ table.T + bias[None, None], axis=-1) == targets
    np.testing.assert_allclose(out.correct_sum, jnp.sum(weights * right), rtol=1e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Without differentiation the chunked path takes another road.
    assert abs(float(_quick(ours)(hidden, table, bias)[0] - expected)) < 1e-3


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("chunk", [None, 4, 5])
def test_the_loss_of_each_token_and_its_gradient_are_the_plain_ones(chunk, biased):
    hidden, table, bias, targets, _ = _inputs()
    # Of either sign and any size: what a preference or a policy makes of a token's loss.
    cotangent = jax.random.normal(jax.random.key(9), targets.shape)
    factors = (hidden, table, bias) if biased else (hidden, table)

    def ours(hidden, table, bias=None):
        return token_nll(hidden, table, bias, targets, chunk=chunk)

    def plain(hidden, table, bias=None):
        logits = jnp.einsum("BPD,VD->BPV", hidden, table)
        logits = logits if bias is None else logits + bias[None, None]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]

    def both(*factors):
        return [(value, pull(cotangent)) for value, pull in (jax.vjp(f, *factors) for f in (ours, plain))]

    (nll, grads), (expected, expected_grads) = _quick(both)(*factors)
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _rules():
    """(rule, arrays of each position, tables) of both losses over a vocabulary of 37."""
    hidden, table, bias, targets, weights = _inputs()
    teacher, teacher_table, *_ = _inputs(D=6, seed=1)
    yield Nll(z_loss=0.1), (targets, weights), ()
    yield Divergence(temperature=2.5), (teacher, weights), (teacher_table, None)


@pytest.mark.parametrize(("rule", "positions", "tables"), list(_rules()), ids=["nll", "divergence"])
def test_one_sweep_serves_every_rule(rule, positions, tables):
    """The gradient that a rule states is that of its first sum, and the sweep carries it to the factors, chunked or not."""
    hidden, table, bias, *_ = _inputs()

    def swept(hidden, table, bias, chunk):
        chunked = tuple(split(x, chunk) for x in positions)
        return sweep(rule, split(hidden, chunk), table, bias, chunked, tables)[0]

    def stated(hidden, table, bias):
        flat = tuple(x.reshape(-1, *x.shape[2:]) for x in positions)
        logits_RV = jnp.einsum("BPD,VD->BPV", hidden, table).reshape(-1, len(table)) + bias[None]
        return rule(logits_RV, flat, tables)[0][0]

    def all_of(*factors):
        whole = jax.value_and_grad(stated, argnums=(0, 1, 2))(*factors)
        gradient = jax.value_and_grad(swept, argnums=(0, 1, 2))
        return whole, [gradient(*factors, chunk) for chunk in (4, 10)]

    (expected, expected_grads), found = _quick(all_of)(hidden, table, bias)
    for value, grads in found:
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for a, b in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_its_dtype_and_sums_in_float32():
    hidden, table, bias, targets, weights = _inputs(dtype=jnp.bfloat16)

    def loss(hidden, table, chunk):
        return cross_entropy(hidden, table, bias, targets, weights, chunk=chunk).loss_sum

    grads = [
        jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(hidden, table, chunk) for chunk in (5, 10)
    ]
    assert jax.eval_shape(lambda h: loss(h, table, 5), hidden).dtype == jnp.float32
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("B", "D"), [(1, 64), (1, 256), (4, 768)])
def test_large_vocabulary_needs_less_than_half_the_memory(optimized, B, D):
    """Measured: 0.28, 0.25 and 0.30 of it. (One row of 768: 0.51, as the table has a gradient as large as the logits.)"""
    L, V = 1024, 50257
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((B, L, D), (V, D))]

    def temporary_bytes(chunk):
        def loss(hidden, table):
            zeros = jnp.zeros((B, L), jnp.int32)
            return cross_entropy(hidden, table, None, zeros, jnp.ones((B, L)), chunk=chunk).loss_sum

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=optimized)
        compiled = step.lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours, whole = temporary_bytes(None), temporary_bytes(L)
    assert ours < 0.5 * whole, (ours, whole)


def test_disagreeing_shapes_are_named():
    hidden, table, bias, targets, weights = _inputs()
    with pytest.raises(ValueError, match=r"targets \(3, 9\)"):
        cross_entropy(hidden, table, bias, targets[:, :9], weights)


def test_unlabelled_positions_of_few_classes_count_nothing():
    logits = jnp.array([[[0.0, 1.0], [5.0, -5.0]]])
    out = cross_entropy_of_logits(logits, jnp.array([[1, -1]]), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(out.loss_sum, np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert float(out.correct_sum) == 1.0
