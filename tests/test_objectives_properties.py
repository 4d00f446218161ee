"""Every objective of the package satisfies every property, and each property can fail: broken objectives are
caught."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import properties
from objectives.base import Corrupted, LossOut, Objective
from objectives.bert_next_sentence import BertNextSentence
from objectives.causal_lm import CausalLM, successors
from objectives.check import main, verdicts
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy
from objectives.distillation import Distillation
from objectives.examples import example_of, examples, in_small_rows, small_batch, small_config
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from objectives.multi_token import MultiToken
from objectives.next_sentence import NextSentence
from objectives.prefix_lm import PrefixLM
from objectives.replaced_token_detection import ReplacedTokenDetection
from objectives.rows import RowMaker
from objectives.segments import label_weights
from objectives.sentence_order import SentenceOrder
from objectives.sequence_classification import SequenceClassification
from objectives.span_corruption import SpanCorruption

EXAMPLES = dict(examples())
VARIANTS = {
    **EXAMPLES,
    "masked_lm, words": in_small_rows(MaskedLM(masking=Masking(unit="word"))),
    "masked_lm, spans": in_small_rows(MaskedLM(masking=Masking(unit="span"))),
    "masked_lm, rising": in_small_rows(
        MaskedLM(masking=Masking(final_rate=0.4, cap_rate=0.5, rate_examples=20))
    ),
    "distillation, causal": in_small_rows(Distillation(base=CausalLM())),
}


QUICK = (
    "bert",
    "causal_lm",
    "masked_lm",
    "neighbour_words",
    "next_sentence",
    "prefix_lm",
    "sequence_classification",
    "simcse",
    "span_corruption",
    "token_classification",
)
"""One of each kind; the others are run by `make test-slow`."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_every_objective_is_sound(name):
    objective = VARIANTS[name]
    found = list(verdicts(objective))
    assert all(found), "\n".join(str(v) for v in found if not v)
    # A property that never applies would prove nothing.
    assert sum(v.verdict == "holds" for v in found) >= 7


def test_the_walk_finds_them_all():
    kinds = {type(objective).__name__ for objective in EXAMPLES.values()}
    assert {
        "MaskedLM",
        "NextSentence",
        "Mixture",
        "CausalLM",
        "NeighbourWords",
        "SentenceOrder",
        "SpanCorruption",
        "ReplacedTokenDetection",
        "MultiToken",
        "DecoderSpanCorruption",
        "BertNextSentence",
    } <= kinds
    assert {"SequenceClassification", "TokenClassification"} <= kinds
    assert "bert" in EXAMPLES


def test_a_file_without_example_is_refused():
    import types

    module = types.ModuleType("mine")
    module.Mine = type("Mine", (CausalLM,), {"__module__": "mine"})
    with pytest.raises(ValueError, match="one file holds one objective"):
        example_of(module)


def test_what_nobody_would_ask_for_is_refused():
    """Claims and rows are asked of a Claims and of a RowMaker only: elsewhere they would be passed over in silence."""
    for base, name in ((Claims, "initial_loss"), (Claims, "corruption_claims"), (RowMaker, "make_example")):
        members = {name: lambda *_: {}}
        with pytest.raises(TypeError, match=rf"write class Mine\(Objective, {base.__name__}\)"):
            type("Mine", (Objective,), members)
        assert issubclass(type("Mine", (Objective, base), members), base)


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
        return dataclasses.replace(self.masking, random_share=0.2).mask(self.rows, 64, batch, rng)


class ScoresItsOwnPrefix(PrefixLM):
    def targets(self, batch, corrupted):
        return successors(batch)


class PredictsFromTheTokenItself(MultiToken):
    def score(self, network, hidden_BLD, batch, corrupted):
        # Off by one: the block for the token after the next is asked for the next but one before it.
        shifted_BLD = jnp.pad(hidden_BLD[:, 2:], ((0, 0), (0, 2), (0, 0)))
        return super().score(network, shifted_BLD, batch, corrupted)


class SamplesWhatItMasked(ReplacedTokenDetection):
    def corrupt(self, config, batch, rng):
        corrupted = super().corrupt(config, batch, rng)
        rows = jnp.arange(batch["tokens"].shape[0])[:, None]
        tokens_BL = corrupted.batch["tokens"]
        shown_BL = tokens_BL.at[rows, corrupted.plan["positions"]].set(corrupted.plan["targets"])
        return Corrupted({**batch, "tokens": shown_BL}, corrupted.plan)


class MasksByRow(MaskedLM):
    def corrupt(self, config, batch, rng):
        rows = jnp.arange(batch["tokens"].shape[0])
        read, plan = super().corrupt(config, {**batch, "example_ids": rows}, rng)
        return Corrupted({**batch, "tokens": read["tokens"]}, plan)


class DrawsOnceForAll(MaskedLM):
    def corrupt(self, config, batch, rng):
        read, plan = super().corrupt(config, {**batch, "example_ids": 0 * batch["example_ids"]}, rng)
        return Corrupted({**batch, "tokens": read["tokens"]}, plan)


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
        read, plan = super().corrupt(config, batch, rng)
        touched_BL = jnp.where(batch["tokens"] == 3, self.rows.mask_id, read["tokens"])
        return Corrupted({**batch, "tokens": touched_BL}, plan)


class UnlearnableLabels(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        return super().score(network, jax.lax.stop_gradient(hidden_BLD * 0), batch, corrupted)


class InfiniteGradient(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        # The square root of zero: finite forwards, infinite backwards.
        return super().score(network, hidden_BLD + jnp.sqrt(jnp.sum(hidden_BLD * 0)), batch, corrupted)


class OverflowsInBfloat16(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        # The largest float32, as masks use it, is infinite in bfloat16.
        fill = jnp.asarray(jnp.finfo(jnp.float32).max, hidden_BLD.dtype)
        return super().score(network, hidden_BLD + (fill - fill), batch, corrupted)


class Overflows(SequenceClassification):
    def score(self, network, hidden_BLD, batch, corrupted):
        large_BLD = hidden_BLD * 1e30
        return super().score(network, jnp.exp(large_BLD) / jnp.exp(large_BLD), batch, corrupted)


class NegativesFromTheSameDocument(NextSentence):
    def make_example(self, docs, index, rng):
        class OneDocument:
            """Every document is this one under another hash."""

            __len__ = docs.__len__
            hash = docs.hash

            def __getitem__(self, _):
                return docs[index % len(docs)]

        return super().make_example(OneDocument(), index, rng)


class NegativesFromItself(BertNextSentence):
    def draw_pair(self, docs, first, tokens, rng):
        a, b, label = super().draw_pair(docs, first, tokens, rng)
        return a, (a[: len(b)] if label else b), label


class LoadedCoin(NextSentence):
    def make_example(self, docs, index, rng):
        rows = [super(LoadedCoin, self).make_example(docs, index, rng) for _ in range(2)]
        return max(rows, key=lambda row: row["labels"].sum())


class NeverSwaps(SentenceOrder):
    def draw_pair(self, docs, first, tokens, rng):
        a, b, label = super().draw_pair(docs, first, tokens, rng)
        return (b, a, label) if label else (a, b, label)


class SentinelsAscend(SpanCorruption):
    def make_example(self, docs, index, rng):
        row = super().make_example(docs, index, rng)
        first, last = self.rows.own_stop - 1, self.rows.own_stop - self.sentinels
        for name in ("tokens", "target_tokens"):
            flipped = first + last - row[name]
            row[name] = np.where(row[name] >= last, flipped, row[name])
        return row


class ReadsItsTargets(SpanCorruption):
    def __call__(self, network, batch, rng):
        memory = network.encode(batch)
        hidden = network.decode(batch["target_tokens"], batch, memory)
        weights = (batch["target_segment_ids"] > 0).astype(jnp.float32)
        out = cross_entropy(hidden, network.embedding_VD, None, batch["target_tokens"], weights)
        return LossOut({"nll": (out.loss_sum, jnp.sum(weights))}, {})


class WeightsFromTheTeacher(Distillation):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = super().score(network, hidden_BLD, batch, corrupted)
        loss_sum, weight_sum = out.terms["kl"]
        sure = jnp.sum(network.companion["teacher"].encode(batch))
        return LossOut({**out.terms, "kl": (loss_sum, weight_sum + 0 * sure)}, out.metrics)


class LearnsNothingFromItsTeacher(Distillation):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = super().score(network, hidden_BLD, batch, corrupted)
        return LossOut({**out.terms, "kl": jax.lax.stop_gradient(out.terms["kl"])}, out.metrics)


class DrawsFromTheClock(NextSentence):
    def make_example(self, docs, index, rng):
        return super().make_example(docs, index, np.random.default_rng())


_CLASSES = functools.partial(dict, classes=2, pooling="mean")
_PAIRS = functools.partial(dict, shortest_pair=8, longest_pair=16)
MUTANTS = [
    (MeanInsteadOfSum(**_CLASSES()), properties.adds_over_any_split),
    (SeesItsTarget(), properties.no_prediction_reads_its_answer),
    (PredictsOverTheBoundary(), properties.neighbours_are_isolated),
    (IgnoresWeights(**_CLASSES()), properties.weights_are_respected),
    (TwentyPercentRandom(), properties.corrupts_as_claimed),
    (MasksByRow(), properties.order_of_rows_is_irrelevant),
    (MasksByLength(), properties.padding_is_deleting),
    (WeightsFromTheModel(**_CLASSES()), properties.weights_know_no_parameters),
    (PoolsTheWholeRow(**_CLASSES()), properties.neighbours_are_isolated),
    (TouchesSpecialTokens(), properties.corrupts_as_claimed),
    (UnlearnableLabels(**_CLASSES()), properties.gradients_reach_the_backbone),
    (InfiniteGradient(**_CLASSES()), properties.gradients_are_finite),
    (OverflowsInBfloat16(**_CLASSES()), properties.gradients_are_finite),
    (Overflows(**_CLASSES()), properties.gradients_are_finite),
    (DrawsOnceForAll(), properties.examples_draw_apart),
    (NegativesFromTheSameDocument(**_PAIRS()), properties.makes_examples_as_claimed),
    (LoadedCoin(**_PAIRS()), properties.makes_examples_as_claimed),
    (SentinelsAscend(sentinels=7), properties.makes_examples_as_claimed),
    (ReadsItsTargets(sentinels=7), properties.predictions_are_probabilities),
    (SeesItsTarget(), properties.predictions_are_probabilities),
    (ScoresItsOwnPrefix(), properties.no_prediction_reads_its_answer),
    (PredictsFromTheTokenItself(ahead=2), properties.no_prediction_reads_its_answer),
    (PredictsFromTheTokenItself(ahead=2), properties.predictions_are_probabilities),
    (SamplesWhatItMasked(generator_heads=1), properties.corrupts_as_claimed),
    (NegativesFromItself(**_PAIRS(), sentence_ends=(9, 19, 29)), properties.makes_examples_as_claimed),
    (NeverSwaps(**_PAIRS()), properties.makes_examples_as_claimed),
    (DrawsFromTheClock(**_PAIRS()), properties.makes_examples_as_claimed),
    (WeightsFromTheTeacher(base=CausalLM()), properties.weights_know_no_parameters),
    (LearnsNothingFromItsTeacher(base=CausalLM()), properties.one_batch_can_be_learned),
]


@pytest.mark.parametrize(
    ("mutant", "check"), MUTANTS, ids=[f"{type(m).__name__}-{check.__name__}" for m, check in MUTANTS]
)
def test_mutants_are_caught(mutant, check):
    mutant = in_small_rows(mutant)
    verdict = check(mutant, small_config(mutant), small_batch(mutant))
    assert verdict.verdict == "fails", verdict


MINE = """
import dataclasses
import jax.numpy as jnp
from objectives.base import LossOut, Objective

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    scale: float = 1.0
    def coefficients(self):
        return {'x': 1.0}
    def score(self, network, hidden_BLD, batch, corrupted):
        ones_B1D = jnp.ones_like(hidden_BLD[:, :1])
        mixed = jnp.sum(hidden_BLD[:, 3] * ones_B1D[:, 0]) * jnp.sum(batch['segment_ids'] > 0) * self.scale
        return LossOut({'x': (mixed, jnp.sum(hidden_BLD**2))}, {})

def example():
    return Mine()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return str(file)


def _lines(capsys):
    return [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]


def test_the_command_says_what_fails_and_shows_the_smallest_example(mine, capsys, monkeypatch):
    chosen = (properties.weights_know_no_parameters, properties.adds_over_any_split)
    monkeypatch.setattr(properties, "PROPERTIES", chosen)
    assert main([mine, "--scale=2.0"]) == 1
    lines = _lines(capsys)
    assert any("Mine(scale=2.0)" in line for line in lines)
    assert any(line.startswith("weights know no parameters fails") for line in lines)
    assert any("no doctest with a number worked by hand" in line for line in lines)
    (split,) = (line for line in lines if line.startswith("adds over any split fails"))
    assert re.fullmatch(
        r"row \d: \[\d+\]; see score, mine.py:\d+", split.partition("smallest example: ")[2]
    ), split


def test_the_command_takes_names_and_refuses_what_it_does_not_know(capsys, monkeypatch):
    monkeypatch.setattr(properties, "PROPERTIES", (properties.declares_its_terms,))
    assert main(["causal_lm"]) == 0
    assert any(line == "all sound" for line in _lines(capsys))
    with pytest.raises(SystemExit, match="neither a Python file nor one of .*masked_lm"):
        main(["masked"])
    with pytest.raises(SystemExit, match="overrides a field of one objective, but 0 are named"):
        main(["--rate=0.3"])


def test_batches_of_the_suite_are_ragged():
    batch = small_batch(CausalLM())
    counts = (batch["segment_ids"] > 0).sum(axis=1)
    assert len(set(counts)) > 1 and batch["segment_ids"].max() == 3 and np.any(batch["labels"] == -1)
