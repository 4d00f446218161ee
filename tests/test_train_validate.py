"""Configurations that cannot work are refused before anything compiles, with both values and what to do."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.gpt2 import Gpt2Config
from model.network import Network
from model.t5 import t5_small
from objectives import simcse, span_corruption
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from objectives.mixture import Mixture
from objectives.rows import NO_ID
from objectives.sequence_classification import SequenceClassification
from tests.tiny import ROWS, encoder, masked_lm, settings
from train.build import check_model, check_reads, check_run
from train.cli import parse
from train.companions import check_companions
from train.describe import decode, differences, encode
from train.experiment import Experiment
from train.launch import Mesh, Pmap
from train.optimizer import Optimizer, decay_mask, depth_multipliers
from train.text import TextData

GPT = Gpt2Config(vocab_size=64, layers=1, width=16, heads=2, mlp_width=32, max_positions=32)


def told(objective, **changes):
    """The objective with the tests' rows, but for these changes."""
    return objective.for_rows(dataclasses.replace(ROWS, **changes))


def experiment(objective):
    return Experiment(model=encoder(), objective=objective, data=TextData(), steps=1, batch_size=8)


def masked_lm_untold():
    # A changed copy is another objective: it must be told again.
    return dataclasses.replace(masked_lm(), masking=Masking(rate=0.3))


class WithCompanion(MaskedLM):
    companions = ("reference",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: check_run(settings(batch_size=12, launcher=Pmap()), masked_lm()),
            "12 is not divisible by 8 .* 1 .* = 8",
        ),
        (
            lambda: check_run(settings(batch_size=16, microbatches=4), masked_lm()),
            "16 is not divisible by 8 .* 4 .* = 32",
        ),
        (lambda: check_run(settings(launcher=Mesh(fsdp=3)), masked_lm()), "covers 6 devices but there are 8"),
        (lambda: settings(batch_size=10, microbatches=4), "batch_size 10 is not divisible by microbatches 4"),
        (lambda: settings(patience=2), "patience is 2 but best is empty"),
        (
            lambda: check_model(encoder(), told(MaskedLM(), length=33)),
            "data.length 33 is longer than model.max_positions 32",
        ),
        (
            lambda: check_model(encoder(), told(MaskedLM(), mask_id=64)),
            "mask_id 64 .* first_ordinary_id 7, .* vocabulary of 64",
        ),
        (
            lambda: check_model(encoder(), told(MaskedLM(), mask_id=NO_ID)),
            "MaskedLM needs mask_id, but the tokenizer has no such token",
        ),
        (lambda: encoder(heads=3), "width 16 is not divisible by heads 3"),
        (
            lambda: Optimizer(schedule="wsd", warmup=0.9, decay=0.2),
            "warmup 0.9 and optimizer.decay 0.2",
        ),
        (lambda: Optimizer(clip_norm=-1.0), "optimizer.clip_norm must be at least 0, got -1.0"),
        (lambda: Mesh(fsdp=0).check(), "fsdp=0 .* has an axis below 1"),
        (lambda: TextData(eval_rows=0), "data.eval_rows must be at least 1, got 0"),
        (
            lambda: check_companions(WithCompanion(), ()),
            r"WithCompanion reads .* \['reference'\], but companions names \[\]: .* --companions reference RUN",
        ),
        (
            lambda: check_companions(masked_lm(), (("teacher", "runs/a"),)),
            r"names \['teacher'\], but MaskedLM reads none",
        ),
        (
            lambda: check_companions(WithCompanion(), (("reference", "a"), ("reference", "b"))),
            r"names \['reference', 'reference'\]: each name takes one run",
        ),
        (lambda: check_model(GPT, masked_lm()), "MaskedLM predicts .* causal backbone Gpt2Config"),
        (
            lambda: check_model(GPT, told(SequenceClassification(classes=2))),
            "SequenceClassification .* causal backbone Gpt2Config",
        ),
        (
            lambda: check_model(t5_small(), masked_lm()),
            "MaskedLM .* family encoder, but T5Config is an encoder-decoder",
        ),
        (
            lambda: TextData().check_vocabulary(
                SimpleNamespace(vocab_size=60), experiment(masked_lm()), None
            ),
            "60 pieces but model.vocab_size is 64: set --model.vocab_size 60",
        ),
        (
            lambda: check_model(encoder(), told(simcse.example())),
            "SimCSE tells two draws of dropout apart, but EncoderConfig has dropout 0.0",
        ),
        (lambda: check_run(settings(), simcse.example()), "SimCSE is no sum .* cannot be split into 8"),
        (
            lambda: TextData(sentinels=2).check_vocabulary(
                SimpleNamespace(vocab_size=60), experiment(span_corruption.example()), None
            ),
            "60 pieces besides 7 that are in no text but model.vocab_size is 64: set --model.vocab_size 67",
        ),
        (
            lambda: check_reads(MaskedLM(masking=Masking(unit="word")), ()),
            r"MaskedLM reads \['word_starts'\], but the data offers none only",
        ),
        (lambda: masked_lm_untold().rows, "MaskedLM was not told what its rows are"),
        (
            lambda: settings(companions=(("anchor", "init"),)),
            "'anchor' is the run of init, but init is empty",
        ),
        (lambda: TextData(files=("a",), weights=(0.5, 0.5)), "weights has 2 entries but data.files has 1"),
    ],
)
def test_each_mistake_names_both_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class NotAdditive(MaskedLM):
    additive = False


def test_a_loss_that_is_no_sum_is_not_split():
    with pytest.raises(ValueError, match="additive = False.* 8 parts"):
        check_run(settings(), NotAdditive())


def test_experiments_survive_json():
    run = settings(launcher=Mesh(fsdp=2))
    assert decode(encode(run)) == run
    assert decode(encode(encoder())) == encoder()
    changed = dataclasses.replace(run, optimizer=Optimizer(learning_rate=0.5))
    assert differences(encode(run), encode(changed)) == ["optimizer.learning_rate: 0.01 -> 0.5"]


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "train.loop:run", "train.nowhere:X"])
def test_a_stored_configuration_cannot_name_arbitrary_code(name):
    with pytest.raises(ValueError, match="the stored configuration names"):
        decode({"type": name})


def test_every_parameter_is_covered_by_a_decay_rule():
    network = Network(encoder().build(), masked_lm().heads(encoder()))
    mask = decay_mask(jax.eval_shape(network.init, jax.random.key(0)))
    assert mask["backbone"]["embed"]["tokens"] and not mask["heads"]["masked_lm"]["bias"]
    with pytest.raises(ValueError, match="no weight-decay rule covers the parameter backbone/mystery"):
        decay_mask({"backbone": {"mystery": jnp.zeros(3)}})


def test_layer_decay_falls_with_depth_along_the_stack():
    params = {
        "backbone": {
            "embed": {"tokens": jnp.zeros((5, 2))},
            "embed_norm": {"scale": jnp.zeros(2)},
            "layers": {"kernel": jnp.zeros((3, 2, 2))},
        },
        "heads": {"x": {"kernel": jnp.zeros((2, 2))}},
    }
    scale = depth_multipliers(params, 0.5)
    assert float(scale["backbone"]["embed"]["tokens"].item()) == 0.0625
    assert float(scale["backbone"]["embed_norm"]["scale"].item()) == 0.0625
    assert scale["backbone"]["layers"]["kernel"].ravel().tolist() == [0.125, 0.25, 0.5]
    assert float(scale["heads"]["x"]["kernel"].item()) == 1.0


def test_lamb_trusts_each_layer_of_a_stack_on_its_own():
    """With equal gradients Adam's first update is the same everywhere: what differs is each layer's own norm."""
    layers = {"layers": {"kernel": jnp.stack([jnp.full((2, 2), 1.0), jnp.full((2, 2), 10.0)])}}
    lamb = Optimizer(
        name="lamb", learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, clip_norm=0
    )
    tx = lamb.build(1)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, layers), tx.init(layers), layers)
    moved = updates["layers"]["kernel"][:, 0, 0]
    np.testing.assert_allclose(
        moved, [-0.1, -1.0], rtol=1e-3
    )  # learning rate x norm of the layer / norm of the update


def test_schedules_have_their_published_shapes():
    wsd = Optimizer(schedule="wsd", learning_rate=1.0, warmup=0.1, decay=0.2).rate(100)
    assert [round(float(wsd(i)), 3) for i in (0, 9, 10, 79, 90, 100)] == [0.1, 1.0, 1.0, 1.0, 0.5, 0.0]
    linear = Optimizer(schedule="linear", learning_rate=1.0, warmup=0.1).rate(100)
    assert [round(float(linear(i)), 3) for i in (9, 55, 100)] == [1.0, 0.5, 0.0]


def test_what_an_objective_is_told_is_no_setting(capsys):
    with pytest.raises(SystemExit):
        parse(experiment(Mixture(parts=(("a", MaskedLM(), 1.0),))), ["--help"], "train")
    said = capsys.readouterr().out
    assert "--objective.parts" in said and "told" not in said
