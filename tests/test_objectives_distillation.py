"""Distillation is the sum that Hinton et al. write down, at the scored positions, and moves the student alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import causal_lm, masked_lm, mixture, prefix_lm, simcse
from objectives.base import Scored
from objectives.causal_lm import successors
from objectives.distillation import Distillation
from objectives.divergence import divergence
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.measuring import QUICK, companions_of, fresh, network_of, on_device
from objectives.mixture import Mixture

KEY = jax.random.key(3)


def scored(seed, width, V=37, B=3, P=10, dtype=jnp.float32):
    k = jax.random.split(jax.random.key(seed), 4)
    hidden, table = jax.random.normal(k[0], (B, P, width), dtype), jax.random.normal(k[1], (V, width), dtype)
    weights = jax.random.uniform(k[3], (B, P)) * (jnp.arange(P) % 3 > 0)[None]
    return Scored(hidden, table, jax.random.normal(k[2], (V,)), jnp.zeros((B, P), jnp.int32), weights)


def plain(student, teacher, temperature):
    def log_softmax(x):
        logits = jnp.einsum("BPD,VD->BPV", x.hidden_BPD, x.embedding_VD) + x.bias_V[None, None]
        return jax.nn.log_softmax(logits / temperature, axis=-1)

    log_p, log_q = log_softmax(teacher), log_softmax(student)
    return jnp.sum(student.weights_BP * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_swept_divergence_and_its_gradients_are_the_plain_ones(chunk):
    """Also of networks of different width, and in positions that no chunk divides."""
    student, teacher = scored(0, width=8), scored(1, width=12)

    def both(function, **more):
        def loss(hidden, table, bias, teacher):
            own = student._replace(hidden_BPD=hidden, embedding_VD=table, bias_V=bias)
            return 3 * function(own, teacher, temperature=2.5, **more)

        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), allow_int=True)
        return jax.jit(gradient, compiler_options=QUICK)(*student[:3], teacher)

    (found, (*own, others)), (expected, (*expected_own, _)) = both(divergence, chunk=chunk), both(plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(own, expected_own, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not any(np.any(x) for x in (others.hidden_BPD, others.embedding_VD, others.bias_V))
    # Without differentiation it takes another road.
    np.testing.assert_allclose(
        divergence(student, teacher, temperature=2.5, chunk=chunk), found / 3, rtol=1e-5
    )


def test_networks_of_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"\(37, 8\) of the student, .* \(36, 8\) of the teacher"):
        divergence(scored(0, width=8), scored(1, width=8, V=36), temperature=1.0)


def logits(network, hidden_BLD, base):
    if isinstance(base, masked_lm.MaskedLM):
        transformed, bias = network.head("masked_lm", hidden_BLD)
        return network.unembed(transformed, bias)
    return network.unembed(hidden_BLD)


def direct(base, temperature, network, batch):
    """Every term from whole logits at every position."""
    corrupted = base.corrupt(network.config, batch, KEY)
    if isinstance(base, masked_lm.MaskedLM):
        targets, plan = batch["tokens"], corrupted.plan
        rows = jnp.arange(len(targets))[:, None]
        weights = jnp.zeros(targets.shape).at[rows, plan["positions"]].add(plan["weights"])
    else:
        targets, weights = successors(batch)
    if isinstance(base, prefix_lm.PrefixLM):
        weights = weights * (batch["positions"] + 1 >= corrupted.plan["split"])
    s, t = (logits(n, n.encode(corrupted.batch), base) for n in (network, network.companion["teacher"]))
    nll = -jnp.take_along_axis(jax.nn.log_softmax(s), targets[..., None], axis=-1)[..., 0]
    p, q = jax.nn.softmax(t / temperature), jax.nn.softmax(s / temperature)
    kl = temperature**2 * jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=-1)
    return {"nll": jnp.sum(weights * nll), "kl": jnp.sum(weights * kl)}, jnp.sum(weights)


@pytest.mark.parametrize(
    "base",
    [masked_lm.example(), causal_lm.example(), prefix_lm.example()],
    ids=["masked", "causal", "prefix"],
)
def test_values_are_those_of_a_direct_computation_and_the_student_alone_moves(base):
    objective = in_small_rows(Distillation(base=base, temperature=3.0, soft=0.25))
    network, batch = network_of(objective, small_config(objective)), on_device(small_batch(objective))
    params = fresh(network), companions_of(network)

    def ours(params):
        terms = objective(network.bind(params[0], None, params[1]), batch, KEY).terms
        return sum(objective.coefficients()[k] * loss for k, (loss, _) in terms.items()), terms

    def expected(params):
        terms, weight = direct(objective.base, 3.0, network.bind(params[0], None, params[1]), batch)
        return 0.75 * terms["nll"] + 0.25 * terms["kl"], (terms, weight)

    def both(params):
        return [jax.value_and_grad(f, has_aux=True)(params) for f in (ours, expected)]

    found, direct_ones = jax.jit(both, compiler_options=QUICK)(params)
    ((_, terms), (grads, teacher_grads)), ((_, (losses, weight)), (expected_grads, _)) = found, direct_ones
    for name, loss in losses.items():
        np.testing.assert_allclose(terms[name][0], loss, rtol=1e-5)
        assert float(terms[name][1]) == float(weight) > 0
    for a, b in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert not any(np.any(x) for x in jax.tree.leaves(teacher_grads))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it():
    assert abs(float(divergence(scored(0, width=8), scored(0, width=8), temperature=2.0))) < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(base=simcse.example()), "base SimCSE cannot be distilled"),
        (lambda: Distillation(base=mixture.example()), "base Mixture cannot be distilled"),
        (
            lambda: Distillation(base=causal_lm.example(), temperature=0.0),
            "temperature must be above 0, got 0.0",
        ),
        (
            lambda: Distillation(base=causal_lm.example(), soft=0.0),
            "soft must be above 0 and at most 1, got 0.0",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_it_may_be_part_of_a_mixture():
    """Which then needs the teacher, with the heads that this part reads of it."""
    part = Distillation(base=masked_lm.example())
    objective = Mixture(parts=(("distil", part, 1.0), ("plain", simcse.example(), 1.0)), encode="each")
    config = small_config(objective)
    assert objective.companions == ("teacher",)
    assert [name for name, _ in objective.companion_heads("teacher", config)] == ["masked_lm"]
    assert [name for name, _ in objective.heads(config)] == ["masked_lm", "pooler"]
    assert dataclasses.replace(part, soft=1.0).coefficients() == {"nll": 0.0, "kl": 1.0}
