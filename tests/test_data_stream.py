"""The stream: pure in (seed, step), each row once per epoch, mixtures, evaluation, reading ahead."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import stream as stream_module
from data.documents import Documents
from data.labelled import LabelledRows
from data.packing import Framing, PackedRows
from data.stream import EvalBatches, MadeRows, Stream, WithLookups
from data.tokenizer import SentencePieceTokenizer

FRAMING = Framing.named("cls_sep", SentencePieceTokenizer)


class Numbered:
    """Rows that say who they are."""

    fill = {}

    def __init__(self, length, offset=0):
        self.length, self.offset = length, offset

    def __len__(self):
        return self.length

    def take(self, numbers):
        return {"tokens": np.asarray(numbers, np.int64)[:, None] % self.length + self.offset}


def docs(count=40):
    rng = np.random.default_rng(0)
    return Documents.from_tokens([rng.integers(7, 100, n) for n in rng.integers(5, 60, count)])


def pair(documents, number, rng):
    tokens = np.zeros(12, np.int32)
    document = documents[number % len(documents)]
    tokens[0] = number % len(documents)
    tokens[1:4] = rng.integers(7, 1000, 3)
    tokens[4:9] = document[:5]
    return {
        "tokens": tokens,
        "segment_ids": np.ones(12, np.int32),
        "positions": np.arange(12, dtype=np.int32),
    }


def every_kind():
    packed = PackedRows(docs(), length=32, framing=FRAMING)
    other = PackedRows(docs(9), length=32, framing=FRAMING)
    return {
        "packed": Stream(packed, batch_size=6, seed=5),
        "mixed": Stream([packed, other], weights=[0.7, 0.3], batch_size=6, seed=5),
        "made": Stream(MadeRows(docs(), pair, seed=5), batch_size=6, seed=5),
    }


def digest(batch):
    return {name: array.tolist() for name, array in batch.items()}


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("kind", ["packed", "mixed", "made"])
def test_a_batch_is_a_pure_function_of_seed_and_step(kind):
    one, two = every_kind()[kind], every_kind()[kind]
    expected = [one.batch(step) for step in range(12)]
    for step in (7, 3, 11, 0):
        equal(two.batch(step), expected[step])
    # Resume: a new object that starts in the middle goes on as the first one did.
    rest = every_kind()[kind]
    for step in range(5, 12):
        equal(rest.batch(step), expected[step])


@pytest.mark.parametrize("kind", ["packed", "mixed", "made"])
@pytest.mark.parametrize("processes", [2, 3])
def test_process_slices_join_to_the_global_batch(kind, processes):
    stream = every_kind()[kind]
    each = stream.batch_size // processes
    for step in (0, 9):
        parts = [stream.batch(step, slice(p * each, (p + 1) * each)) for p in range(processes)]
        joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        equal(joined, stream.batch(step))


def test_a_fresh_process_gives_the_same_batches():
    code = (
        "import json, tests.test_data_stream as t\n"
        "print(json.dumps({k: t.digest(s.batch(4)) for k, s in t.every_kind().items()}))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {k: digest(s.batch(4)) for k, s in every_kind().items()}


@pytest.mark.parametrize("large", [False, True])
def test_an_epoch_visits_every_row_once_and_the_next_in_another_order(large, monkeypatch):
    if large:
        monkeypatch.setattr(stream_module, "_SMALL", 0)
    stream = Stream(Numbered(60), batch_size=10, seed=3)
    epochs = [
        [int(t) for s in range(6 * e, 6 * e + 6) for t in stream.batch(s)["tokens"][:, 0]] for e in (0, 1, 2)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(60))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(60))
    other = Stream(Numbered(60), batch_size=10, seed=4)
    # Neighbouring seeds share no epoch.
    assert [int(t) for s in range(6) for t in other.batch(s)["tokens"][:, 0]] not in epochs


def test_without_shuffling_the_order_is_that_of_the_rows():
    stream = Stream(Numbered(7), batch_size=5, seed=0, shuffle=False)
    assert stream.batch(1)["tokens"][:, 0].tolist() == [5, 6, 0, 1, 2]
    assert stream.epoch_steps == pytest.approx(1.4)


def test_example_ids_count_through_the_stream():
    stream = Stream(Numbered(7), batch_size=5, seed=0)
    ids = stream.batch(3)["example_ids"]
    assert ids.dtype == np.int32 and ids.tolist() == [15, 16, 17, 18, 19]
    assert Stream(Numbered(7), batch_size=2**30, seed=0).batch(2, slice(0, 2))["example_ids"].tolist() == [
        0,
        1,
    ]


def test_mixture_weights_hold_at_every_point():
    stream = Stream([Numbered(50), Numbered(1000, 10_000)], weights=[0.25, 0.75], batch_size=100, seed=1)
    for step in range(10):
        second = (stream.batch(step)["tokens"] >= 10_000).mean()
        assert second == pytest.approx(0.75, abs=0.02)
    # Each part is still a permutation of its own rows, epoch by epoch.
    first = np.concatenate([stream.batch(s)["tokens"][:, 0] for s in range(2)])
    assert sorted(first[first < 10_000][:50]) == list(range(50))


def test_no_weights_mix_by_size():
    stream = Stream([Numbered(100), Numbered(300, 10_000)], batch_size=400, seed=1)
    tokens = stream.batch(0)["tokens"][:, 0]
    assert sorted(tokens) == [*range(100), *range(10_000, 10_300)]


def test_made_examples_visit_every_document_and_change_between_epochs():
    documents = docs(30)
    stream = Stream(MadeRows(documents, pair, seed=2), batch_size=30, seed=2)
    first, second = stream.batch(0)["tokens"], stream.batch(1)["tokens"]
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(30))
    by_document = [dict(zip(t[:, 0].tolist(), t[:, 1:4].tolist(), strict=True)) for t in (first, second)]
    assert all(by_document[0][d] != by_document[1][d] for d in range(30))


def test_evaluation_reads_every_row_once_and_pads_without_weight():
    rows = PackedRows(docs(), length=32, framing=FRAMING)
    assert len(rows) % 8
    batches = EvalBatches(rows, batch_size=8)
    together = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
    equal({n: a[: len(rows)] for n, a in together.items() if n != "example_ids"}, rows.take(range(len(rows))))
    assert not together["segment_ids"][len(rows) :].any()
    assert together["example_ids"].tolist() == list(range(8 * len(batches)))
    assert len(EvalBatches(rows, batch_size=8, limit=16)) == 2
    last = len(batches) - 1
    halves = [batches.batch(last, slice(0, 4)), batches.batch(last, slice(4, 8))]
    equal({n: np.concatenate([h[n] for h in halves]) for n in halves[0]}, batches[-1])
    with pytest.raises(IndexError):
        batches[len(batches)]


class Supervised(Numbered):
    """Rows with a layout of targets too, and with labels, whatever those are called."""

    fill = {"grade": -7}

    def take(self, numbers):
        shape = (len(numbers), 3)
        return {
            **super().take(numbers),
            "segment_ids": np.ones(shape, np.int32),
            "target_segment_ids": np.ones(shape, np.int32),
            "grade": np.full(shape[:1], 0.5, np.float32),
        }


def test_surplus_rows_of_an_evaluation_are_real_rows_outside_every_segment():
    batch = EvalBatches(Supervised(3), batch_size=5)[0]
    assert batch["tokens"][:, 0].tolist() == [0, 1, 2, 2, 2] and batch["grade"].tolist() == [0.5] * 5
    for name in ("segment_ids", "target_segment_ids"):
        assert batch[name].tolist() == [[1, 1, 1]] * 3 + [[0, 0, 0]] * 2
    # A process whose rows are all surplus reads one, too.
    assert not EvalBatches(Supervised(3), batch_size=8).batch(0, slice(4, 8))["segment_ids"].any()
    with pytest.raises(
        ValueError, match="1 rows too few, and rows of tokens cannot say that they weigh nothing"
    ):
        EvalBatches(Numbered(3), batch_size=4)[0]


def test_sources_with_other_arrays_are_filled_and_rows_say_whence_they_are():
    stream = Stream([Numbered(50), Supervised(50, 10_000)], weights=[0.5, 0.5], batch_size=20, seed=1)
    for step in range(3):
        batch = stream.batch(step)
        second = batch["tokens"][:, 0] >= 10_000
        assert (
            batch["source"].dtype == np.int32 and (batch["source"] == second).all() and 0 < second.sum() < 20
        )
        assert (batch["grade"] == np.where(second, 0.5, -7)).all() and batch["grade"].dtype == np.float32
        assert (batch["segment_ids"] == second[:, None]).all()
        halves = [stream.batch(step, slice(0, 1)), stream.batch(step, slice(1, 20))]
        equal({name: np.concatenate([h[name] for h in halves]) for name in batch}, batch)
    assert "source" not in Stream(Numbered(3), batch_size=2, seed=0).batch(0)


def test_labelled_rows_say_that_no_label_is_not_a_class():
    assert LabelledRows.fill == {"labels": -1, "token_labels": -1}
    made = MadeRows(docs(), pair, seed=5, fill={"labels": -1})
    assert WithLookups(made, {}).fill == {"labels": -1} and not PackedRows.fill


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 sources of rows with 1 weights"):
        Stream([Numbered(3), Numbered(3)], weights=[1.0], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="weights must be positive"):
        Stream([Numbered(3), Numbered(3)], weights=[1.0, 0.0], batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"sources \[0\] have no rows"):
        Stream(Numbered(0), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Stream(Numbered(3), batch_size=0, seed=0)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        Stream(Numbered(3), batch_size=2, seed=0).batch(-1)
    short = PackedRows(docs(), length=32, framing=FRAMING)
    long = PackedRows(docs(), length=64, framing=FRAMING)
    expected = r"source 0 gives 'tokens' as int32\[32\] filled with 0, source 1 as int32\[64\] filled with 0"
    with pytest.raises(ValueError, match=expected):
        Stream([short, long], batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"source 0 gives 'tokens' as int64\[1\].*, source 1 as int32\[32\]"):
        Stream([Numbered(3), short], batch_size=2, seed=0)
    taken = WithLookups(Numbered(3), {"source": np.zeros(9)})
    with pytest.raises(ValueError, match="source 1 gives an array 'source', which the stream itself makes"):
        Stream([Numbered(3), taken], batch_size=2, seed=0)
    with pytest.raises(ValueError, match="nothing to make examples from"):
        MadeRows(docs(0), pair, seed=0)


def test_reading_costs_far_less_than_a_step():
    rows = PackedRows(docs(2000), length=128, framing=FRAMING)
    for stream, most in (
        (Stream(rows, batch_size=16, seed=0), 0.005),
        (Stream(MadeRows(docs(), pair, seed=0), batch_size=64, seed=0), 0.02),
    ):
        stream.batch(0)
        best = np.inf
        for _ in range(5):
            started = time.perf_counter()
            for step in range(10):
                stream.batch(step)
            best = min(best, (time.perf_counter() - started) / 10)
        # About 0.2 and 1.5 ms on an idle core; a loaded machine gets room.
        assert best < most


def test_rows_say_what_tables_say_of_their_tokens():
    rows = PackedRows(docs(), length=32, framing=FRAMING)
    rng = np.random.default_rng(0)
    tables = {"word_starts": rng.random(1000) < 0.5, "token_bytes": rng.integers(0, 9, 1000)}
    batch = Stream(WithLookups(rows, tables), batch_size=4, seed=0).batch(0)
    for name, table in tables.items():
        assert batch[name].dtype == np.int32
        np.testing.assert_array_equal(batch[name], table[batch["tokens"]])
