"""Mixtures encode once where they say so and refuse what cannot be mixed; neighbour words is a plain sum."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.network import BoundNetwork, Network
from objectives import (
    bert,
    causal_lm,
    masked_lm,
    neighbour_words,
    next_sentence,
    prefix_lm,
    sequence_classification,
)
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.masking import Masking
from objectives.measuring import QUICK, fresh
from objectives.mixture import Mixture
from objectives.properties import corrupts_as_claimed
from objectives.rows import RowShape

ROWS = RowShape(length=24, max_segments=3, cls_id=2, sep_id=3)


class Counting(BoundNetwork):
    """Remembers what it was asked to encode."""

    def __init__(self, bound):
        super().__init__(bound.network, bound.params)
        self.encoded = []

    def encode(self, batch):
        self.encoded.append(batch["tokens"])
        return super().encode(batch)


def _run(objective):
    """(network, batch, LossOut, what was encoded)."""
    config, batch = small_config(objective), small_batch(objective)
    network = Network(config.build(), objective.heads(config))
    params = fresh(network)

    def run(params, batch):
        bound = Counting(network.bind(params))
        out = objective(bound, batch, jax.random.key(0))
        return out, tuple(bound.encoded)

    out, encoded = jax.jit(run, compiler_options=QUICK)(params, batch)
    return network.bind(params), batch, out, [np.asarray(x) for x in encoded]


def test_bert_encodes_the_masked_tokens_once():
    _, batch, out, (encoded,) = _run(in_small_rows(bert.example()))
    assert 0 < np.mean(encoded != batch["tokens"]) < 0.3
    assert set(out.terms) == {"mlm/nll", "nsp/nll"} == set(bert.example().coefficients())
    assert set(out.metrics) == {"mlm/accuracy", "nsp/accuracy"}


def test_each_encodes_for_itself():
    objective = in_small_rows(dataclasses.replace(bert.example(), encode="each"))
    _, batch, _, (masked, plain) = _run(objective)
    assert np.any(masked != batch["tokens"]) and np.array_equal(plain, batch["tokens"])


def test_each_part_is_judged_by_its_own_corruption():
    masked = masked_lm.example()
    heavy = masked_lm.MaskedLM(masking=Masking(rate=0.4, cap_rate=1.0))
    objective = in_small_rows(Mixture(parts=(("light", masked, 1.0), ("heavy", heavy, 1.0)), encode="each"))
    verdict = corrupts_as_claimed(objective, small_config(objective), small_batch(objective))
    assert verdict.verdict == "holds", verdict


def test_parts_keep_their_own_weights_and_coefficients():
    alone = next_sentence.example()
    mixture = Mixture(parts=(("a", alone, 1.0), ("b", sequence_classification.example(), 0.25)))
    assert mixture.coefficients() == {"a/nll": 1.0, "b/nll": 0.25}
    # The pooler is shared: one name, one definition.
    assert [name for name, _ in mixture.heads(small_config(mixture))] == [
        "pooler",
        "next_sentence",
        "classifier",
    ]
    assert mixture.row_maker() is alone
    assert mixture.for_rows(ROWS).row_maker().rows == ROWS


def test_what_cannot_be_mixed_is_refused():
    masked = masked_lm.example()
    with pytest.raises(ValueError, match="cannot share one encode"):
        Mixture(parts=(("a", masked, 1.0), ("b", masked, 1.0)))
    assert Mixture(parts=(("a", masked, 1.0), ("b", masked, 1.0)), encode="each").additive
    with pytest.raises(ValueError, match="different backbones"):
        Mixture(parts=(("a", masked, 1.0), ("b", causal_lm.example(), 1.0)))
    with pytest.raises(ValueError, match="only one part can make the rows"):
        Mixture(parts=(("a", next_sentence.example(), 1.0), ("b", neighbour_words.example(), 1.0)))
    with pytest.raises(ValueError, match=r"\['b'\] change what a causal backbone reads"):
        Mixture(parts=(("a", causal_lm.example(), 1.0), ("b", prefix_lm.example(), 1.0)))
    with pytest.raises(ValueError, match="different names"):
        Mixture(parts=(("a", masked, 1.0), ("a", masked, 1.0)))


def test_neighbour_words_is_the_plain_sum_over_words():
    objective = in_small_rows(neighbour_words.example())
    bound, batch, out, _ = _run(objective)
    hidden = np.asarray(jax.jit(bound.encode, compiler_options=QUICK)(batch))
    loss, weight = 0.0, 0.0
    for b in range(len(hidden)):
        segments = batch["segment_ids"][b]
        for g in range(1, segments.max() + 1):
            pooled = hidden[b, segments == g].mean(axis=0)
            transformed, bias = bound.head("neighbour_words", jnp.asarray(pooled))
            log_p = np.asarray(jax.nn.log_softmax(bound.unembed(transformed[None], bias)[0]))
            same = (segments > 0) & ((segments - 1) // 2 == (g - 1) // 2) & (segments != g)
            for token in batch["tokens"][b, same]:
                if token >= 7:
                    frequency = 1 / ((token - 6) * (np.log(64) + np.euler_gamma))
                    w = min(1.0, np.sqrt(0.05 / frequency))
                    loss, weight = loss - w * log_p[token], weight + w
    np.testing.assert_allclose(out.terms["nll"], (loss, weight), rtol=1e-5)
