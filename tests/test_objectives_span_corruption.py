"""Span corruption has T5's published lengths, loses nothing of a text, and fills its rows."""

import dataclasses

import numpy as np
import pytest

from data.documents import Documents
from model.t5 import t5_small
from objectives.counts import chi_square_p
from objectives.examples import small_config
from objectives.rows import NO_ID, RowShape
from objectives.span_corruption import SpanCorruption, _stretches, example
from objectives.spans import Noise, replace_spans, restore
from objectives.ul2 import UL2

SENTINELS = range(32099, 31999, -1)
ROWS = RowShape(length=512, eos_id=6, own_start=31990, own_stop=32100)


def told(objective, **rows):
    return objective.for_rows(dataclasses.replace(ROWS, **rows))


def corpus(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    return Documents.from_tokens([rng.integers(7, 30000, n) for n in rng.integers(2, longest, count)])


@pytest.mark.parametrize(
    ("inputs", "raw", "targets"), [(128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)]
)
def test_lengths_are_those_of_the_published_code(inputs, raw, targets):
    assert Noise().raw_length(inputs) == raw
    assert Noise().lengths(raw) == (inputs, targets)
    objective = told(SpanCorruption(), length=inputs)
    assert objective.targets_length == targets


def test_the_published_long_spans_make_588_tokens_of_512():
    noise = Noise(mean_span=8.0)
    assert noise.raw_length(512) == 588 and noise.lengths(588)[1] == 100


def test_a_thousand_documents_come_back():
    docs, rng, noise = corpus(1000, 600), np.random.default_rng(1), Noise()
    for i in range(len(docs)):
        dropped = noise.draw(len(docs[i]), rng)
        assert (dropped.sum(), (np.diff(dropped.astype(int)) == 1).sum()) == noise.counts(len(docs[i]))
        inputs, targets = (replace_spans(docs[i], mask, 32099) for mask in (dropped, ~dropped))
        np.testing.assert_array_equal(restore(inputs, targets, SENTINELS), docs[i])


def test_every_way_to_drop_is_equally_likely():
    # 5 kept tokens in 2 runs, 3 dropped ones in 2 runs: 4 x 2 masks.
    rng, noise = np.random.default_rng(0), Noise(density=0.375, mean_span=1.5)
    masks, counts = np.unique([noise.draw(8, rng) for _ in range(8000)], axis=0, return_counts=True)
    assert len(masks) == 8 and not masks[:, 0].any() and masks[:, -1].all()
    assert chi_square_p(counts, np.full(8, 1000.0)) > 1e-3


@pytest.mark.parametrize("longest", [40, 3000])
def test_rows_are_full_and_come_back(longest):
    docs = corpus(60, longest)
    objective = told(SpanCorruption())
    used = []
    for index in range(20):
        row = objective.make_example(docs, index, np.random.default_rng(index))
        assert row["tokens"].shape == (512,) and row["target_tokens"].shape == (114,)
        used.append((row["segment_ids"] > 0).mean())
        for inputs, targets in _stretches(row):
            assert inputs[-1] == targets[-1] == 6
            text = restore(inputs[:-1], targets[:-1], SENTINELS)
            assert any(np.isin(text, docs[i]).all() for i in range(len(docs)))
    # One token of short ones in five is a sentinel or an end: their targets fill first.
    assert np.mean(used) > (0.99 if longest == 3000 else 0.75), np.mean(used)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(density=1.0), "density must be above 0 and below 1, got 1.0"),
        (lambda: told(SpanCorruption(sentinels=8)).check(t5_small()), "28 spans.* 8 sentinels"),
        (
            lambda: told(SpanCorruption(), own_start=32001).check(t5_small()),
            "100 sentinels are asked for, but only 99 ids are in no text",
        ),
        (lambda: told(SpanCorruption(), length=2).check(t5_small()), "data.length 2 cannot"),
        (lambda: told(SpanCorruption(), eos_id=NO_ID).check(t5_small()), "SpanCorruption needs eos_id"),
        (
            lambda: told(example(), length=64).check(small_config(example())),
            "inputs of 64 and targets of 14 tokens exceed max_positions 48",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ul2_opens_rows_with_the_kind_of_their_noise():
    objective = told(UL2())
    docs = corpus(20, 3000)
    dropped = {mode: [] for mode in (31999, 31998, 31997)}
    for index in range(140):
        row = objective.make_example(docs, index, np.random.default_rng(index))
        for inputs, targets in _stretches(row):
            kept = np.sum(inputs < 31997) - 1
            dropped[inputs[0]].append((np.sum(targets < 31997) - 1) / (kept + np.sum(targets < 31997) - 1))
            assert inputs[0] == row["tokens"][0]
            if inputs[0] == 31998:
                # S: one span, the end of the text.
                assert inputs[-2] == 32099 and np.sum(targets > 31999) == 1
    assert all(abs(share - 0.15) < 0.1 for share in dropped[31999])
    assert all(abs(share - 0.25) < 0.15 for share in dropped[31998])
    assert np.mean([share > 0.4 for share in dropped[31997]]) > 0.5


def test_ul2_refuses_rows_without_room_for_its_tokens():
    with pytest.raises(ValueError, match="103 sentinels are asked for, but only 102 ids are in no text"):
        told(UL2(), own_start=31998).check(t5_small())
    with pytest.raises(ValueError, match="targets_row 2 cannot hold a text under Noise"):
        told(UL2(targets_row=2, sentinels=9), length=64).check(t5_small())


def test_inputs_and_targets_of_different_texts_are_told():
    with pytest.raises(ValueError, match="no sentinel"):
        restore(np.array([7, 99]), np.array([8, 99]), range(99, 89, -1))
    with pytest.raises(ValueError, match="input sentinel 2 is 98; the targets have 1 spans"):
        restore(np.array([99, 7, 98]), np.array([99, 8]), range(99, 89, -1))
