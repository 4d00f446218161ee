"""Views against numpy and loops over single tokens; the same under any split and packing; what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import (
    bert,
    causal_lm,
    decoder_span_corruption,
    masked_lm,
    multi_token,
    prefix_lm,
    span_corruption,
)
from objectives.causal_lm import CausalLM
from objectives.cross_entropy import cross_entropy, token_nll
from objectives.examples import LENGTH, in_small_rows, small_batch, small_config
from objectives.measuring import QUICK, fresh, network_of
from objectives.mixture import Mixture
from objectives.views import BitsPerByte, PerPosition, PseudoLogLikelihood, choose

CAUSAL, PREFIX, MASKED = (in_small_rows(m.example()) for m in (causal_lm, prefix_lm, masked_lm))
VIEWS = (
    BitsPerByte(objective=CAUSAL),
    BitsPerByte(objective=PREFIX),
    PerPosition(objective=CAUSAL),
    PseudoLogLikelihood(objective=MASKED),
    PseudoLogLikelihood(objective=Mixture(parts=(("mlm", MASKED, 1.0),))),
)


def labelled(view):
    kind = view.objective
    return f"{view.name}-{type(kind).__name__}"


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _sums(view, network, params, batch):
    return view(network.bind(params), batch, jax.random.key(1)).metrics


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _terms(objective, network, params, batch):
    return objective(network.bind(params), batch, jax.random.key(1)).terms


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _encode(network, params, batch):
    return network.bind(params).encode(batch)


@functools.lru_cache
def _made(objective):
    network = network_of(objective, small_config(objective))
    # Fresh logits are all but equal: larger parameters tell positions and tokens apart.
    return network, jax.tree.map(lambda x: x * 4, fresh(network))


def batch_of(objective):
    batch = small_batch(objective)
    batch["token_bytes"] = np.where(batch["tokens"] < 7, 0, batch["tokens"] % 5 + 1).astype(np.int32)
    return batch


def measured(view, batch):
    network, params = _made(view.objective)
    return jax.device_get(_sums(view, network, params, batch))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=1e-5, err_msg=name)


def log_probabilities(objective, batch):
    """float64 [B, L, V] of the next token; of the token itself for a masked model."""
    network, params = _made(objective)
    bound, hidden = network.bind(params), _encode(network, params, batch)
    if objective is MASKED:
        logits = bound.unembed(*bound.head("masked_lm", hidden))
    else:
        logits = bound.unembed(hidden)
    logits = np.asarray(logits, np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - (logits.max(-1, keepdims=True))
    )


def next_tokens(batch):
    """(nll, bytes, position, length of the segment) of every token that has one before it in its segment."""
    logs = log_probabilities(CAUSAL, batch)
    for row, segments in enumerate(batch["segment_ids"]):
        for at in range(1, LENGTH):
            if segments[at] and segments[at] == segments[at - 1]:
                yield (
                    -logs[row, at - 1, batch["tokens"][row, at]],
                    batch["token_bytes"][row, at],
                    batch["positions"][row, at],
                    (segments == segments[at]).sum(),
                )


def test_bits_per_byte_is_what_numpy_counts():
    batch = batch_of(CAUSAL)
    nll, size, _, _ = map(np.array, zip(*next_tokens(batch), strict=True))
    bits, weight = measured(VIEWS[0], batch)["bits_per_byte"]
    assert weight == size.sum()
    np.testing.assert_allclose(bits, nll.sum() / np.log(2), rtol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_loss_by_position_is_what_numpy_counts(factor):
    batch = batch_of(CAUSAL)
    nll, _, position, length = map(np.array, zip(*next_tokens(batch), strict=True))
    view = PerPosition(objective=CAUSAL, factor=factor)
    sums = measured(view, batch)
    buckets = view.buckets(LENGTH)
    assert buckets[-1][1] == LENGTH - 1 and len(sums) == 2 * len(buckets)
    for first, last in buckets:
        inside = (position >= first) & (position <= last)
        early = (position <= buckets[0][1]) & (length > first)
        for name, where in (("position", inside), ("early", early)):
            value, weight = sums[f"{name} {first}-{last}"]
            assert weight == where.sum() > 0
            np.testing.assert_allclose(value, nll[where].sum(), rtol=1e-5)
    *by_position, used = view.readings(sums)
    assert [r.name for r in by_position] == [f"position {first}-{last}" for first, last in buckets]
    long = length > buckets[-1][0]
    early = nll[long & (position <= buckets[0][1])].mean()
    np.testing.assert_allclose(used.value, early - nll[position >= buckets[-1][0]].mean(), rtol=1e-4)


def test_pseudo_log_likelihood_is_a_loop_over_single_masks():
    batch = batch_of(MASKED)
    scored = np.argwhere((batch["tokens"] >= 7) & (batch["segment_ids"] > 0))
    # One copy of its row for each token.
    alone = {k: v[scored[:, 0]] for k, v in batch.items()}
    for copy, (_, at) in enumerate(scored):
        alone["tokens"][copy, at] = MASKED.rows.mask_id
    logs, total, tokens, size = log_probabilities(MASKED, alone), 0.0, 0, 0
    for copy, (row, at) in enumerate(scored):
        total += logs[copy, at, batch["tokens"][row, at]]
        tokens, size = tokens + 1, size + batch["token_bytes"][row, at]
    sums = measured(VIEWS[3], batch)
    segments = {(row, batch["segment_ids"][row, at]) for row, at in scored}
    np.testing.assert_allclose(sums["pseudo_log_likelihood"], (total, len(segments)), rtol=1e-5)
    np.testing.assert_allclose(sums["pseudo_nll"], (-total, tokens), rtol=1e-5)
    likelihood, perplexity, bits = VIEWS[3].readings(sums)
    assert likelihood.value == pytest.approx(total / len(segments), rel=1e-5)
    assert perplexity.value == pytest.approx(np.exp(-total / tokens), rel=1e-5)
    assert bits.value == pytest.approx(-total / np.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("view", VIEWS, ids=labelled)
def test_sums_add_over_any_split(view):
    batch = batch_of(view.objective)
    parts = []
    for rows in ([0, 3], [1, 2]):
        kept = np.isin(np.arange(4), rows)[:, None]
        parts.append(measured(view, {**batch, "segment_ids": batch["segment_ids"] * kept}))
    assert_same(measured(view, batch), jax.tree.map(np.add, *parts))


@pytest.mark.parametrize("view", VIEWS, ids=labelled)
def test_packing_changes_nothing(view):
    batch, rows = batch_of(view.objective), []
    for row in range(4):
        for segment in range(1, int(batch["segment_ids"][row].max()) + 1):
            here = batch["segment_ids"][row] == segment
            alone = {k: v[row] for k, v in batch.items()}
            for name in ("tokens", "segment_ids", "positions", "type_ids", "token_bytes"):
                alone[name] = np.zeros(LENGTH, np.int32)
                # At the other end of the row, under its own number: a prefix is drawn from it.
                alone[name][LENGTH - here.sum() :] = batch[name][row][here]
            rows.append(alone)
    unpacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    assert len(rows) == 7
    assert_same(measured(view, batch), measured(view, unpacked))


@pytest.mark.parametrize("module", [causal_lm, prefix_lm, decoder_span_corruption, multi_token])
def test_bits_are_those_of_the_objectives_own_loss(module):
    objective = in_small_rows(module.example())
    batch = batch_of(objective)
    bits, _ = measured(BitsPerByte(objective=objective), batch)["bits_per_byte"]
    network, params = _made(objective)
    nll, _ = _terms(objective, network, params, batch)["nll"]
    np.testing.assert_allclose(bits * np.log(2), nll, rtol=1e-5)


def test_rows_more_crowded_than_agreed_give_no_number():
    batch = batch_of(MASKED)
    batch["segment_ids"] = batch["segment_ids"] + MASKED.rows.max_segments * (batch["segment_ids"] == 1)
    assert np.isnan(measured(VIEWS[3], batch)["pseudo_nll"][0])


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_losses_of_tokens_are_those_of_the_cross_entropy(chunk):
    rng = np.random.default_rng(0)
    hidden, table, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 7, 8), (11, 8), (11,)))
    targets, weights = jnp.asarray(rng.integers(0, 11, (2, 7))), jnp.asarray(rng.random((2, 7)), jnp.float32)
    nll = token_nll(hidden, table, bias, targets, chunk=chunk)
    expected = cross_entropy(hidden, table, bias, targets, weights).nll_sum
    assert nll.shape == (2, 7)
    np.testing.assert_allclose(jnp.sum(nll * weights), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "objective", "offered", "words"),
    [
        (
            "bits_per_byte",
            CausalLM(),
            [],
            "reads token_bytes, which a tokenizer gives, but the data offers nothing",
        ),
        ("pseudo_log_likelihood", MASKED, ["word_starts"], "the data offers word_starts"),
        (
            "pseudo_log_likelihood",
            CausalLM(),
            ["token_bytes"],
            "needs MaskedLM, but the objective is CausalLM",
        ),
        (
            "bits_per_byte",
            bert.example(),
            ["token_bytes"],
            "a mixture of MaskedLM and NextSentence; pseudo_log_likelihood is for masked models",
        ),
        ("per_position", span_corruption.example(), ["token_bytes"], "the objective is SpanCorruption"),
        ("bits_per_bite", CausalLM(), ["token_bytes"], "did you mean bits_per_byte"),
    ],
)
def test_what_does_not_apply_is_refused_by_name(name, objective, offered, words):
    with pytest.raises(ValueError, match=name) as refused:
        choose(["objective", name], objective, offered)
    assert words in str(refused.value)


def test_buckets_must_grow():
    with pytest.raises(ValueError, match="factor 1 is below 2"):
        PerPosition(objective=CAUSAL, factor=1)
