"""Parameter counts and initial scales as published."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from model import bert, encoder, gpt2
from model.bert import BertConfig
from model.gpt2 import Gpt2Config
from model.heads import Classifier, MaskedLMHead, Pooler
from model.network import Network
from tests.test_model import QUICK, SMALL, count

# Sizes: google-research/bert, fairseq and openai/gpt-2, counted from the published tables.


@pytest.mark.parametrize(
    ("preset", "with_pooler"),
    [
        (bert.bert_tiny, 4_385_920),
        (bert.bert_mini, 11_170_560),
        (bert.bert_small, 28_763_648),
        (bert.bert_medium, 41_373_184),
        (bert.bert_base, 109_482_240),
        (bert.bert_large, 335_141_888),
        (bert.roberta_base, 124_645_632),
        (bert.roberta_large, 355_359_744),
    ],
)
def test_parameters_with_pooler(preset, with_pooler):
    assert count(preset(), Pooler(preset())) == with_pooler


@pytest.mark.parametrize(
    ("preset", "vocab_size", "expected"),
    [(bert.bert_base, 28996, 108_310_272), (bert.bert_large, 28996, 333_579_264)],
)
def test_parameters_of_the_cased_models(preset, vocab_size, expected):
    config = dataclasses.replace(preset(), vocab_size=vocab_size)
    assert count(config, Pooler(config)) == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [(bert.bert_base, 109_514_298), (bert.roberta_base, 124_697_433), (bert.roberta_large, 355_412_057)],
)
def test_parameters_with_masked_lm_head(preset, expected):
    assert count(preset(), MaskedLMHead(preset())) == expected


@pytest.mark.parametrize(
    ("preset", "expected"), [(bert.bert_base, 110_106_428), (bert.bert_large, 336_226_108)]
)
def test_parameters_with_pretraining_heads(preset, expected):
    config = preset()
    assert count(config, MaskedLMHead(config), Pooler(config), Classifier(config, 2)) == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (gpt2.gpt2_small, 124_439_808),
        (gpt2.gpt2_medium, 354_823_168),
        (gpt2.gpt2_large, 774_030_080),
        (gpt2.gpt2_xl, 1_557_611_200),
    ],
)
def test_parameters_of_gpt2(preset, expected):
    assert count(preset()) == expected


@pytest.mark.parametrize("preset", [encoder.encoder_tiny, encoder.encoder_mini, encoder.encoder_small])
def test_encoder_has_no_biases_and_no_position_table(preset):
    shapes = jax.eval_shape(Network(preset(8192).build()).init, jax.random.key(0))
    names = {str(path[-1].key) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    assert names == {"tokens", "kernel", "scale"}


def test_initial_scales_are_the_published_ones():
    config = Gpt2Config(vocab_size=200, layers=2, width=64, heads=2, mlp_width=128, max_positions=200)
    init = jax.jit(Network(config.build()).init, compiler_options=QUICK)
    params = init(jax.random.key(0))["backbone"]
    block = params["layers"]
    residual = 0.02 / math.sqrt(4)
    for leaf, expected in (
        (params["embed"]["tokens"], 0.02),
        (params["embed"]["positions"], 0.01),
        (block["mlp"]["up"]["kernel"], 0.02),
        (block["mlp"]["down"]["kernel"], residual),
        (block["attention"]["out"]["kernel"], residual),
    ):
        assert float(jnp.std(leaf)) == pytest.approx(expected, rel=0.05)
    draws = BertConfig(**SMALL).kernel_init()(jax.random.key(0), (10_000,), jnp.float32)
    assert 0.039 < float(jnp.max(jnp.abs(draws))) <= 0.04  # cut at two standard deviations
