"""Errors of kinds that people make, each planted in a shipped objective, and the property that finds it.

docs/objectives.md has the same kinds in a table. Those that take long are marked thorough.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import properties as p
from objectives.base import Corrupted, LossOut, Objective
from objectives.causal_lm import CausalLM, successors
from objectives.claims import Claims
from objectives.cross_entropy import cross_entropy, token_nll
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from objectives.sequence_classification import SequenceClassification
from objectives.simcse import SimCSE
from objectives.span_corruption import SpanCorruption


def on_masks(change):
    """A masked LM whose corruption is changed once more: change(self, read, plan, batch) gives the batch that is read."""

    def corrupt(self, config, batch, rng):
        read, plan = MaskedLM.corrupt(self, config, batch, rng)
        return Corrupted(change(self, read, plan, batch), plan)

    return type("ChangedMasks", (MaskedLM,), {"corrupt": corrupt})()


def drawn_as(change):
    """A masked LM that draws for another batch or another step: change(batch, rng) gives both."""

    def corrupt(self, config, batch, rng):
        other, rng = change(dict(batch), rng)
        read, plan = MaskedLM.corrupt(self, config, other, rng)
        return Corrupted({**batch, "tokens": read["tokens"]}, plan)

    return type("DrawnOtherwise", (MaskedLM,), {"corrupt": corrupt})()


def scored_as(base, score, **fields):
    """Another loss from the same states."""
    return type(f"{base.__name__}Otherwise", (base,), {"score": score})(**fields)


CLASSES = {"classes": 2, "pooling": "mean"}
PAIRS = {"shortest_pair": 8, "longest_pair": 16}


def masked(read, batch):
    return read["tokens"] != batch["tokens"]


def scores_everything(self, network, hidden_BLD, batch, corrupted):
    weights_BL = (batch["segment_ids"] > 0).astype(jnp.float32)
    transformed_BLD, bias_V = network.head("masked_lm", hidden_BLD)
    out = cross_entropy(transformed_BLD, network.embedding_VD, bias_V, batch["tokens"], weights_BL)
    return LossOut({"nll": (out.loss_sum, jnp.sum(weights_BL))}, {})


def one_off(self, network, hidden_BLD, batch, corrupted):
    return MaskedLM.score(self, network, jnp.roll(hidden_BLD, -1, axis=1), batch, corrupted)


class TwiceShifted(CausalLM):
    def targets(self, batch, corrupted):
        return successors(batch, 2)


class TwiceShiftedDecoder(SpanCorruption):
    def __call__(self, network, batch, rng):
        late = jnp.pad(batch["target_tokens"][:, :-2], ((0, 0), (2, 0)))
        hidden_BLD = network.decode(late, batch, network.encode(batch))
        weights_BL = (batch["target_segment_ids"] > 0).astype(jnp.float32)
        out = cross_entropy(hidden_BLD, network.embedding_VD, None, batch["target_tokens"], weights_BL)
        return LossOut({"nll": (out.loss_sum, jnp.sum(weights_BL))}, {})


def each_nll(self, network, hidden_BLD, batch):
    targets_BL, weights_BL = successors(batch)
    return token_nll(hidden_BLD, network.embedding_VD, None, targets_BL), weights_BL


def clips_each(self, network, hidden_BLD, batch, corrupted):
    nll_BL, weights_BL = each_nll(self, network, hidden_BLD, batch)
    return LossOut({"nll": (jnp.sum(jnp.minimum(nll_BL, 20.0) * weights_BL), jnp.sum(weights_BL))}, {})


def clips_spikes(self, network, hidden_BLD, batch, corrupted):
    nll_BL, weights_BL = each_nll(self, network, hidden_BLD, batch)
    mean = jnp.sum(nll_BL * weights_BL) / jnp.maximum(jnp.sum(weights_BL), 1)
    return LossOut({"nll": (jnp.sum(jnp.minimum(nll_BL, 2 * mean) * weights_BL), jnp.sum(weights_BL))}, {})


def stopped(self, network, hidden_BLD, batch, corrupted):
    return CausalLM.score(self, network, jax.lax.stop_gradient(hidden_BLD), batch, corrupted)


def half_stopped(self, network, hidden_BLD, batch, corrupted):
    early_BL1 = (batch["positions"] < 8)[..., None]
    some_BLD = jnp.where(early_BL1, jax.lax.stop_gradient(hidden_BLD), hidden_BLD)
    return CausalLM.score(self, network, some_BLD, batch, corrupted)


def rounded(self, network, hidden_BLD, batch, corrupted):
    nll_BL, weights_BL = each_nll(self, network, hidden_BLD, batch)
    loss = jnp.sum((nll_BL * weights_BL).astype(hidden_BLD.dtype))
    return LossOut({"nll": (loss.astype(jnp.float32), jnp.sum(weights_BL))}, {})


def rounded_weights(self, network, hidden_BLD, batch, corrupted):
    nll_BL, weights_BL = each_nll(self, network, hidden_BLD, batch)
    weight = jnp.sum(weights_BL.astype(network.config.compute_dtype)).astype(jnp.float32)
    return LossOut({"nll": (jnp.sum(nll_BL * weights_BL), weight)}, {})


def next_label(self, network, hidden_BLD, batch, corrupted):
    shifted = {**batch, "labels": jnp.roll(batch["labels"], -1, axis=1)}
    return SequenceClassification.score(self, network, hidden_BLD, shifted, corrupted)


def accuracy_of(change):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = CausalLM.score(self, network, hidden_BLD, batch, corrupted)
        correct, weight = out.metrics["accuracy"]
        return out._replace(metrics={"accuracy": (change(correct, weight), weight)})

    return scored_as(CausalLM, score)


class InputTable(SpanCorruption):
    def __call__(self, network, batch, rng):
        class ReadsTheOther(type(network)):
            embedding_VD = property(lambda self: self.params["backbone"]["embed"]["tokens"])

        other = object.__new__(ReadsTheOther)
        other.__dict__.update(network.__dict__)
        return super().__call__(other, batch, rng)


class EightBits(CausalLM):
    def targets(self, batch, corrupted):
        targets_BL, weights_BL = successors(batch)
        return targets_BL.astype(jnp.uint8).astype(jnp.int32), weights_BL


class FamilyForgotten(CausalLM):
    family: ClassVar = "encoder"


class SameDropout(SimCSE):
    def __call__(self, network, batch, rng):
        class OneDropout(type(network)):
            def redrawn(self, index):
                return self

        other = object.__new__(OneDropout)
        other.__dict__.update(network.__dict__)
        return super().__call__(other, batch, rng)


class ExpectsWhatItSees(MaskedLM):
    def corruption_claims(self, config, batch, corrupted):
        counts = super().corruption_claims(config, batch, corrupted)
        return {name: (observed, observed + 0) for name, (observed, _) in counts.items()}


class ClaimsNothing(NextSentence):
    def example_claims(self, docs, rows):
        return {}


class TypesTellTheLabel(NextSentence):
    def make_example(self, docs, index, rng):
        row = super().make_example(docs, index, rng)
        labels = np.append(row["labels"], 0)[row["segment_ids"] - 1]
        return {**row, "positions": row["positions"] + labels.astype(np.int32)}


class ShowsTheLabel(SequenceClassification):
    def corrupt(self, config, batch, rng):
        segment_BL = jnp.maximum(batch["segment_ids"] - 1, 0)
        label_BL = jnp.take_along_axis(batch["labels"], segment_BL, axis=1)
        return Corrupted({**batch, "type_ids": jnp.maximum(label_BL, 0)}, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullsTogether(Objective, Claims):
    """All segments of a row onto their mean: nothing keeps them apart."""

    def coefficients(self):
        return {"distance": 1.0}

    def score(self, network, hidden_BLD, batch, corrupted):
        weights_BL1 = (batch["segment_ids"] > 0).astype(jnp.float32)[..., None]
        target_D = jnp.ones(hidden_BLD.shape[-1])[None, None]
        return LossOut(
            {"distance": (jnp.sum((hidden_BLD - target_D) ** 2 * weights_BL1), jnp.sum(weights_BL1))}, {}
        )


def with_term(sign):
    """A causal LM with a second term, of this sign: the squared log normaliser."""

    def score(self, network, hidden_BLD, batch, corrupted):
        out = CausalLM.score(self, network, hidden_BLD, batch, corrupted)
        log_z_BL = jax.nn.logsumexp(network.unembed(hidden_BLD), axis=-1)
        there_BL = (batch["segment_ids"] > 0).astype(jnp.float32)
        z = (sign * jnp.sum(log_z_BL**2 * there_BL), jnp.sum(there_BL))
        return out._replace(terms={**out.terms, "z": z})

    members = {"score": score, "coefficients": lambda self: {"nll": 1.0, "z": 1e-2}}
    return type("WithZ", (CausalLM,), members)()


def with_penalty(sign):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = CausalLM.score(self, network, hidden_BLD, batch, corrupted)
        squares = [jnp.sum(x**2) for x in jax.tree.leaves(network.params["backbone"])]
        return out._replace(penalties={"decay": sign * 1e-3 * jnp.sum(jnp.stack(squares))})

    return scored_as(CausalLM, score)


class AddedKeys(MaskedLM):
    """Draws from the sum of example and position, as a seed of `seed + i` does."""

    def corrupt(self, config, batch, rng):
        number_BL = batch["example_ids"][:, None] + batch["positions"]
        keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(rng, i)))(number_BL)
        masked_BL = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key) < 0.3))(keys)
        masked_BL &= (batch["tokens"] >= self.rows.first_ordinary_id) & (batch["segment_ids"] > 0)
        read = {**batch, "tokens": jnp.where(masked_BL, self.rows.mask_id, batch["tokens"])}
        places_BL = jnp.broadcast_to(jnp.arange(masked_BL.shape[1]), masked_BL.shape)
        scored = {
            "positions": places_BL,
            "targets": batch["tokens"],
            "weights": masked_BL.astype(jnp.float32),
        }
        return Corrupted(read, {**scored, "crowded": jnp.zeros((), bool)})

    def corruption_claims(self, config, batch, corrupted):
        return {}


class MasksSpecials(MaskedLM):
    def corrupt(self, config, batch, rng):
        all_ids = dataclasses.replace(self.rows, first_ordinary_id=0)
        return self.masking.mask(all_ids, config.vocab_size, batch, rng)


class SmallVocabulary(MaskedLM):
    def corrupt(self, config, batch, rng):
        return self.masking.mask(self.rows, 64, batch, rng)


def small_steps(batch, rng):
    bits = jax.random.bits(rng, (), jnp.uint32)
    return batch, jax.random.key(bits % 4)


MUTANTS = {
    "the answer stays in the tokens": (
        on_masks(lambda self, read, plan, batch: batch),
        p.no_prediction_reads_its_answer,
    ),
    "the answer stays in the types": (
        on_masks(lambda self, read, plan, batch: {**read, "type_ids": batch["tokens"] % 2}),
        p.no_prediction_reads_its_answer,
    ),
    "the answer stays in the positions": (
        on_masks(
            lambda self, read, plan, batch: {
                **read,
                "positions": jnp.where(masked(read, batch), batch["tokens"] % 24, read["positions"]),
            }
        ),
        p.no_prediction_reads_its_answer,
    ),
    "the label is read": (ShowsTheLabel(**CLASSES), p.no_prediction_reads_its_answer),
    "unmasked positions are scored": (
        scored_as(MaskedLM, scores_everything),
        p.no_prediction_reads_its_answer,
    ),
    "the family is forgotten": (FamilyForgotten(), p.no_prediction_reads_its_answer),
    "the scored state is one token off": (scored_as(MaskedLM, one_off), p.answers_are_predicted_in_place),
    "a target is shifted twice": (TwiceShifted(), p.answers_are_predicted_in_place),
    "a decoder's target is shifted twice": (
        TwiceShiftedDecoder(sentinels=7),
        p.answers_are_predicted_in_place,
    ),
    "the label of the next segment": (
        scored_as(SequenceClassification, next_label, **CLASSES),
        p.answers_are_predicted_in_place,
    ),
    "the label of the next segment, by parts": (
        scored_as(SequenceClassification, next_label, **CLASSES),
        p.neighbours_are_isolated,
    ),
    "special tokens are masked": (MasksSpecials(), p.special_tokens_are_no_answers),
    "probabilities are clipped": (scored_as(CausalLM, clips_each), p.wrong_answers_cost),
    "spikes over the batch are clipped": (scored_as(CausalLM, clips_spikes), p.adds_over_any_split),
    "draws by column": (
        drawn_as(
            lambda batch, rng: (
                {
                    **batch,
                    "positions": jnp.broadcast_to(
                        jnp.arange(batch["tokens"].shape[1])[None], batch["tokens"].shape
                    ),
                },
                rng,
            )
        ),
        p.packing_is_irrelevant,
    ),
    "a modulus": (
        drawn_as(lambda batch, rng: ({**batch, "example_ids": batch["example_ids"] % 1000}, rng)),
        p.examples_draw_apart,
    ),
    "pairs of examples share a key": (
        drawn_as(lambda batch, rng: ({**batch, "example_ids": batch["example_ids"] // 2}, rng)),
        p.examples_draw_apart,
    ),
    "keys are added up": (AddedKeys(), p.examples_draw_apart),
    "segments share a key": (
        drawn_as(
            lambda batch, rng: (
                {
                    **batch,
                    "example_ids": batch["example_ids"],
                    "segment_ids": jnp.minimum(batch["segment_ids"], 1),
                },
                rng,
            )
        ),
        p.packing_is_irrelevant,
    ),
    "masks are never drawn anew": (
        drawn_as(lambda batch, rng: (batch, jax.random.key(0))),
        p.steps_draw_anew,
    ),
    "few seeds": (drawn_as(small_steps), p.steps_draw_anew),
    "noise from the neighbouring row": (
        on_masks(
            lambda self, read, plan, batch: {
                **read,
                "tokens": jnp.where(
                    masked(read, batch), jnp.roll(batch["tokens"], 1, axis=0), read["tokens"]
                ),
            }
        ),
        p.order_of_rows_is_irrelevant,
    ),
    "one dropout for two encodes": (SameDropout(pooling="mean"), p.encodes_differ),
    "no gradient for the backbone": (scored_as(CausalLM, stopped), p.gradients_reach_the_backbone),
    "a gradient is stopped in part": (scored_as(CausalLM, half_stopped), p.gradients_are_those_of_the_loss),
    "a term of the wrong sign": (with_term(-1), p.one_batch_can_be_learned),
    "a penalty of the wrong sign": (with_penalty(-1), p.penalties_know_parameters_only),
    "sums in bfloat16": (scored_as(CausalLM, rounded), p.sums_stay_float32),
    "weights in bfloat16": (scored_as(CausalLM, rounded_weights), p.weights_know_no_parameters),
    "logits from the input table": (InputTable(sentinels=7), p.any_vocabulary),
    "random tokens of another vocabulary": (SmallVocabulary(), p.any_vocabulary),
    "ids that are cut off": (EightBits(), p.any_vocabulary),
    "an accuracy that is always one": (
        accuracy_of(lambda correct, weight: weight),
        p.accuracy_follows_the_loss,
    ),
    "an accuracy of errors": (
        accuracy_of(lambda correct, weight: weight - correct),
        p.accuracy_follows_the_loss,
    ),
    "claims expect what they observe": (ExpectsWhatItSees(), p.claims_can_fail),
    "rows are drawn and not claimed": (ClaimsNothing(**PAIRS), p.makes_examples_as_claimed),
    "positions tell the label": (TypesTellTheLabel(**PAIRS), p.made_rows_tell_no_labels),
    "states collapse": (PullsTogether(), p.states_stay_apart),
}
QUICK = (
    "the answer stays in the types",
    "the label is read",
    "the scored state is one token off",
    "a target is shifted twice",
    "the label of the next segment",
    "a modulus",
    "keys are added up",
    "few seeds",
    "a gradient is stopped in part",
    "a term of the wrong sign",
    "positions tell the label",
)
"""Of each property that measures in its own way one mutant; the others are run by `make test-thorough`."""


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.thorough) for kind in MUTANTS]
)
def test_the_kind_is_found(kind):
    mutant, check = MUTANTS[kind]
    mutant = in_small_rows(mutant)
    verdict = check(mutant, small_config(mutant), small_batch(mutant))
    assert verdict.verdict == "fails", verdict
