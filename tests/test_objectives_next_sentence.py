"""Next-sentence prediction learns: on documents of a few invented topics, pairs of documents that it never saw."""

import dataclasses
import json

import numpy as np
import pytest

from data.documents import Documents
from data.stream import EvalBatches, MadeRows, Stream
from model.encoder import EncoderConfig
from objectives.bert import bert
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from tests import tiny
from train.loop import run
from train.optimizer import Optimizer

LENGTH, FIRST, COMMON, TOPICS, OWN = 64, 7, 128, 16, 32
"""Tokens of a row; the first id of a word; words of every topic; topics; words of each topic alone."""


def documents(count, seed):
    """Each of one topic: half of its 200 words are words that no other topic has."""
    rng = np.random.default_rng(seed)
    found = []
    for topic in rng.integers(TOPICS, size=count):
        own = FIRST + COMMON + topic * OWN + rng.integers(OWN, size=200)
        found.append(np.where(rng.random(200) < 0.5, own, FIRST + rng.integers(COMMON, size=200)))
    return Documents.from_tokens(found)


@pytest.mark.thorough
def test_held_out_pairs_of_invented_topics_are_told_apart(tmp_path):
    """Chance is 0.5; two documents in sixteen pairs share their topic by accident, so that 0.97 is the most."""
    config = EncoderConfig(
        vocab_size=FIRST + COMMON + TOPICS * OWN,
        layers=2,
        width=64,
        heads=2,
        mlp_width=128,
        max_positions=LENGTH,
        types=2,
        unroll=2,
    )
    rows = dataclasses.replace(tiny.ROWS, length=LENGTH)
    objective = bert(MaskedLM(), NextSentence(shortest_pair=32, longest_pair=LENGTH)).for_rows(rows)
    make_example = objective.row_maker().make_example
    training, held_out = (MadeRows(documents(n, n), make_example, seed=n) for n in (600, 200))
    stream = Stream(training, batch_size=32, seed=0)
    parts = dataclasses.replace(
        tiny.parts(objective, config, stream), eval_sets={"eval": EvalBatches(held_out, batch_size=40)}
    )
    settings = tiny.settings(
        steps=600,
        batch_size=32,
        log_every=100,
        eval_every=600,
        save_every=600,
        optimizer=Optimizer(learning_rate=3e-3, warmup=0.05),
    )
    run(settings, parts, tmp_path)
    *_, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert last["eval/nsp/accuracy"] > 0.8
