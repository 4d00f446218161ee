"""Forward parity with the published PyTorch models; benchmarks/make_goldens.py made the golden outputs."""

import numpy as np
import pytest

from model.bert import BertConfig, RobertaConfig
from model.gpt2 import Gpt2Config
from model.heads import Classifier, MaskedLMHead, Pooler
from model.network import Network
from tests.golden.weights import SHAPE, inputs
from tests.published import golden, published

GOLDEN = golden("published")
BATCH = inputs()
REAL = BATCH["segment_ids"] != 0


def assert_agrees(ours, name: str) -> None:
    ours, theirs = np.asarray(ours), GOLDEN[name]
    rows = REAL if theirs.ndim == 3 else slice(None)
    assert np.abs(theirs[rows]).max() > 0.1  # the golden says something
    np.testing.assert_allclose(ours[rows], theirs[rows], rtol=1e-5, atol=1e-5)


def test_bert_with_all_its_heads():
    config = BertConfig(**SHAPE)
    heads = (
        ("masked_lm", MaskedLMHead(config)),
        ("pooler", Pooler(config)),
        ("next_sentence", Classifier(config, 2)),
    )
    network = published(Network(config.build(), heads))
    hidden = network.encode(BATCH)
    assert_agrees(hidden, "bert_hidden")
    assert_agrees(network.unembed(*network.head("masked_lm", hidden)), "bert_masked_lm")
    assert_agrees(network.head("next_sentence", network.head("pooler", hidden[:, 0])), "bert_next_sentence")


def test_roberta_masked_lm():
    config = RobertaConfig(**SHAPE)
    network = published(Network(config.build(), (("masked_lm", MaskedLMHead(config)),)))
    hidden = network.encode(BATCH)
    assert_agrees(hidden, "roberta_hidden")
    assert_agrees(network.unembed(*network.head("masked_lm", hidden)), "roberta_masked_lm")


@pytest.mark.parametrize("unroll", (1, 2))
def test_gpt2(unroll):
    network = published(Network(Gpt2Config(**SHAPE, unroll=unroll).build()))
    hidden = network.encode(BATCH)
    assert_agrees(hidden, "gpt2_hidden")
    assert_agrees(network.unembed(hidden), "gpt2_logits")
