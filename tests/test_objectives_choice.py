"""A choice scores every row by the part that it fell to, from one encode, in the shares it was given."""

import dataclasses

import jax
import numpy as np
import pytest

from objectives import causal_lm, choice, masked_lm, next_sentence, prefix_lm, sequence_classification, simcse
from objectives.choice import Choice
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.measuring import QUICK, fresh, network_of
from objectives.properties import corrupts_as_claimed

OBJECTIVE = in_small_rows(choice.example())
PREFIXES = in_small_rows(
    Choice(parts=(("causal", causal_lm.example(), 1.0), ("prefix", prefix_lm.example(), 1.0)))
)
CONFIG, BATCH = small_config(OBJECTIVE), small_batch(OBJECTIVE)
KEY = jax.random.key(4)
UNEVEN = tuple((name, part, share) for (name, part, _), share in zip(OBJECTIVE.parts, (1, 3), strict=True))


@pytest.mark.parametrize("objective", [OBJECTIVE, PREFIXES], ids=["masks", "prefixes"])
def test_each_part_scores_its_own_rows_as_if_it_were_alone_with_them(objective):
    """Also where one part makes an array for the backbone that the other does not know."""
    config, last = small_config(objective), objective.parts[1][0]
    network = network_of(objective, config)
    params = fresh(network)

    def run(params, batch):
        corrupted = objective.corrupt(config, batch, KEY)
        return objective(network.bind(params), batch, KEY), corrupted.plan[last].batch["segment_ids"]

    out, of_last_BL = jax.jit(run, compiler_options=QUICK)(params, BATCH)
    choice_B = np.any(np.asarray(of_last_BL) > 0, axis=1).astype(int)
    assert set(choice_B) == {0, 1}
    for index, (name, part, _) in enumerate(objective.parts):
        rows = {k: v[choice_B == index] for k, v in BATCH.items()}

        def alone(params, batch, part=part, index=index):
            return part(network.bind(params), batch, jax.random.fold_in(KEY, index))

        wanted = jax.jit(alone, compiler_options=QUICK)(params, rows)
        assert float(wanted.terms["nll"][1]) > 0
        for metric, (found, other) in {
            "nll": (out.terms, wanted.terms),
            "accuracy": (out.metrics, wanted.metrics),
        }.items():
            np.testing.assert_allclose(found[f"{name}/{metric}"], other[metric], rtol=1e-5)


def test_uneven_shares_are_kept_and_weigh_the_terms():
    uneven = Choice(parts=UNEVEN)
    assert uneven.coefficients() == {"tokens/nll": 0.25, "spans/nll": 0.75}
    verdict = corrupts_as_claimed(uneven, CONFIG, BATCH)
    assert verdict.verdict == "holds", verdict


class ThinksItIsFair(Choice):
    def corruption_claims(self, config, batch, corrupted):
        fair = Choice(parts=tuple((name, part, 1.0) for name, part, _ in self.parts))
        return fair.corruption_claims(config, batch, corrupted)


def test_wrong_shares_are_found():
    verdict = corrupts_as_claimed(ThinksItIsFair(parts=UNEVEN), CONFIG, BATCH)
    assert verdict.verdict == "fails" and "shares" in verdict.detail, verdict


def test_what_cannot_be_chosen_is_refused():
    masked = masked_lm.example()
    for parts, message in [
        ((("a", masked, 1.0), ("b", simcse.example(), 1.0)), r"\['b'\] encode for themselves"),
        (
            (("a", masked, 1.0), ("b", sequence_classification.example(), 0.0)),
            "shares of a choice must be positive",
        ),
        ((("a", masked, 1.0), ("b", causal_lm.example(), 1.0)), "different backbones"),
    ]:
        with pytest.raises(ValueError, match=message):
            Choice(parts=parts)
    with pytest.raises(ValueError, match='leave encode="once"'):
        dataclasses.replace(OBJECTIVE, encode="each")
    maker = next_sentence.example()
    assert Choice(parts=(("a", masked, 1.0), ("b", maker, 1.0))).row_maker() is maker
