"""Every objective of the package satisfies every property, and each property can fail: broken objectives are
caught."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import properties
from objectives.base import Corrupted, LossOut
from objectives.causal_lm import CausalLM
from objectives.check import main
from objectives.cross_entropy import cross_entropy
from objectives.examples import example_of, examples, small_batch, small_config
from objectives.masked_lm import MaskedLM
from objectives.segments import label_weights
from objectives.sequence_classification import SequenceClassification

EXAMPLES = dict(examples())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_objective_is_sound(name):
    objective = EXAMPLES[name]
    verdicts = list(properties.examine(objective, small_config(objective), small_batch(objective)))
    assert all(verdicts), "\n".join(str(v) for v in verdicts if not v)
    # A property that never applies would prove nothing.
    assert sum(v.verdict == "holds" for v in verdicts) >= 10


def test_the_walk_finds_them_all():
    kinds = {type(objective).__name__ for objective in EXAMPLES.values()}
    assert {"MaskedLM", "NextSentence", "Mixture", "CausalLM", "NeighbourWords"} <= kinds
    assert {"SequenceClassification", "TokenClassification"} <= kinds
    assert "bert" in EXAMPLES


def test_a_file_without_example_is_refused():
    import types

    module = types.ModuleType("mine")
    module.Mine = type("Mine", (CausalLM,), {"__module__": "mine"})
    with pytest.raises(ValueError, match="one file holds one objective"):
        example_of(module)


# Mutants, each wrong in one way that has been seen in published code.


class MeanInsteadOfSum(SequenceClassification):
    def __call__(self, network, batch, rng):
        out = super().__call__(network, batch, rng)
        return LossOut(
            {k: (loss / jnp.maximum(w, 1), jnp.minimum(w, 1)) for k, (loss, w) in out.terms.items()}, {}
        )


class SeesItsTarget(CausalLM):
    def score(self, network, hidden_BLD, batch, corrupted):
        weights_BL = (batch["segment_ids"] > 0).astype(jnp.float32)
        out = cross_entropy(hidden_BLD, network.embedding_VD, None, batch["tokens"], weights_BL)
        return LossOut({"nll": (out.loss_sum, jnp.sum(weights_BL))}, {})


class PredictsOverTheBoundary(CausalLM):
    def score(self, network, hidden_BLD, batch, corrupted):
        blind = {**batch, "segment_ids": (batch["segment_ids"] > 0).astype(jnp.int32)}
        return super().score(network, hidden_BLD, blind, corrupted)


class IgnoresWeights(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        logits_BGC = self.logits(network, hidden_BLD, batch)
        nll_BG = -jax.nn.log_softmax(logits_BGC)[..., 0]
        return LossOut(
            {"nll": (jnp.sum(nll_BG), jnp.sum(label_weights(batch["labels"], batch["segment_ids"])))}, {}
        )


class TwentyPercentRandom(MaskedLM):
    def corrupt(self, config, batch, rng):
        return dataclasses.replace(_plain(self), random_share=0.2).corrupt(config, batch, rng)


class MasksByRow(MaskedLM):
    def corrupt(self, config, batch, rng):
        rows = jnp.arange(batch["tokens"].shape[0])
        return super().corrupt(config, {**batch, "example_ids": rows}, rng)


class MasksByLength(MaskedLM):
    def corrupt(self, config, batch, rng):
        return super().corrupt(config, batch, jax.random.fold_in(rng, batch["tokens"].shape[1]))


class WeightsFromTheModel(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = super().score(network, hidden_BLD, batch, corrupted)
        (loss_sum, weight_sum) = out.terms["nll"]
        return LossOut({"nll": (loss_sum, weight_sum + 0 * jnp.sum(hidden_BLD))}, {})


class PoolsTheWholeRow(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        row_BLD = jnp.broadcast_to(jnp.mean(hidden_BLD, axis=1, keepdims=True), hidden_BLD.shape)
        return super().score(network, row_BLD, batch, corrupted)


class TouchesSpecialTokens(MaskedLM):
    def corrupt(self, config, batch, rng):
        corrupted = super().corrupt(config, batch, rng)
        return Corrupted(jnp.where(batch["tokens"] == 3, self.mask_id, corrupted.tokens_BL), corrupted.plan)


class UnlearnableLabels(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        return super().score(network, jax.lax.stop_gradient(hidden_BLD * 0), batch, corrupted)


class InfiniteGradient(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        # The square root of zero: finite forwards, infinite backwards.
        return super().score(network, hidden_BLD + jnp.sqrt(jnp.sum(hidden_BLD * 0)), batch, corrupted)


def _plain(objective):
    return MaskedLM(**{f.name: getattr(objective, f.name) for f in dataclasses.fields(MaskedLM)})


_CLASSES = functools.partial(dict, classes=2, pooling="mean")
_MASKED = functools.partial(dict, mask_id=4, max_segments=3)
MUTANTS = [
    (MeanInsteadOfSum(**_CLASSES()), properties.adds_over_any_split),
    (SeesItsTarget(), properties.causal_loss_sees_no_future),
    (PredictsOverTheBoundary(), properties.neighbours_are_isolated),
    (IgnoresWeights(**_CLASSES()), properties.weights_are_respected),
    (TwentyPercentRandom(**_MASKED()), properties.corrupts_as_claimed),
    (MasksByRow(**_MASKED()), properties.order_of_rows_is_irrelevant),
    (MasksByLength(**_MASKED()), properties.padding_is_deleting),
    (WeightsFromTheModel(**_CLASSES()), properties.weights_know_no_parameters),
    (PoolsTheWholeRow(**_CLASSES()), properties.neighbours_are_isolated),
    (TouchesSpecialTokens(**_MASKED()), properties.corrupts_as_claimed),
    (UnlearnableLabels(**_CLASSES()), properties.one_batch_can_be_learned),
    (InfiniteGradient(**_CLASSES()), properties.gradients_are_finite),
]


@pytest.mark.parametrize(("mutant", "check"), MUTANTS, ids=[type(m).__name__ for m, _ in MUTANTS])
def test_mutants_are_caught(mutant, check):
    verdict = check(mutant, small_config(mutant), small_batch(mutant))
    assert verdict.verdict == "fails", verdict


def test_the_command_says_what_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(properties, "PROPERTIES", (properties.weights_know_no_parameters,))
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import dataclasses\n"
        "import jax.numpy as jnp\n"
        "from objectives.base import LossOut, Objective\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Objective):\n"
        "    def coefficients(self):\n"
        "        return {'x': 1.0}\n"
        "    def score(self, network, hidden_BLD, batch, corrupted):\n"
        "        return LossOut({'x': (jnp.sum(hidden_BLD), jnp.sum(hidden_BLD**2))}, {})\n"
        "def example():\n"
        "    return Mine()\n"
    )
    assert main([str(mine)]) == 1
    said = capsys.readouterr().out
    assert "fails  weights know no parameters" in said and "no doctest with a number worked by hand" in said


def test_batches_of_the_suite_are_ragged():
    batch = small_batch(CausalLM())
    counts = (batch["segment_ids"] > 0).sum(axis=1)
    assert len(set(counts)) > 1 and batch["segment_ids"].max() == 3 and np.any(batch["labels"] == -1)
