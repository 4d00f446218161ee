"""Masking: exact counts, claimed rates, uniform places, nothing dropped, the same under any layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.encoder import EncoderConfig
from objectives.base import Corrupted
from objectives.counts import chi_square_p
from objectives.masked_lm import MaskedLM
from objectives.masking import LONGEST_SPAN, Masking, count_tables, span_words
from objectives.measuring import QUICK, evaluate, fresh, network_of
from objectives.randomness import token_bits
from objectives.rows import NO_ID, RowShape

CONFIG = EncoderConfig(vocab_size=64, layers=1, width=16, heads=2, mlp_width=32, max_positions=512)
ROWS = RowShape(length=512, cls_id=2, sep_id=3, mask_id=4, first_ordinary_id=7)


def _masked_lm(max_segments=1, kind=MaskedLM, **masking):
    """An objective with this masking, told of rows of so many segments."""
    return kind(masking=Masking(**masking)).for_rows(dataclasses.replace(ROWS, max_segments=max_segments))


def _batch(sizes_by_row, length, seed=0, specials=True):
    rng = np.random.default_rng(seed)
    shape = (len(sizes_by_row), length)
    tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    for row, sizes in enumerate(sizes_by_row):
        start = 0
        for number, size in enumerate(sizes):
            here = slice(start, start + size)
            tokens[row, here] = rng.integers(7, 64, size)
            if specials and size > 1:
                tokens[row, start], tokens[row, start + size - 1] = 2, 3
            segments[row, here], positions[row, here] = number + 1, np.arange(size)
            start += size
    ids = np.arange(len(sizes_by_row), dtype=np.int32) + 100
    return {
        k: jnp.asarray(v)
        for k, v in dict(tokens=tokens, segment_ids=segments, positions=positions, example_ids=ids).items()
    }


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _corrupt(objective, batch, rng):
    return objective.corrupt(CONFIG, batch, rng)


def _scored(objective, batch, seed=0):
    """[B, L] how often each position is scored."""
    plan = _corrupt(objective, batch, jax.random.key(seed)).plan
    rows = np.arange(batch["tokens"].shape[0])[:, None]
    scored = np.zeros(batch["tokens"].shape)
    np.add.at(scored, (rows, np.asarray(plan["positions"])), np.asarray(plan["weights"]))
    return scored


@pytest.mark.parametrize("rate", [0.15, 0.3, 1.0])
@pytest.mark.parametrize("cap_rate", [20 / 128, 1.0])
def test_counts_are_exact_and_nothing_is_dropped(rate, cap_rate):
    rows = [(128,), (1, 2, 3, 4, 5, 6, 50), (17,) * 7, (3, 4) * 4, (1,) * 8, ()]
    batch = _batch(rows, 128)
    objective = _masked_lm(8, rate=rate, cap_rate=cap_rate)
    scored = _scored(objective, batch)
    assert scored.max() <= 1
    assert not np.any(scored[np.asarray(batch["tokens"]) < 7])
    for row, sizes in enumerate(rows):
        for number, size in enumerate(sizes):
            ordinary = size - 2 if size > 1 else size
            wanted = max(1, round(rate * ordinary)) if ordinary else 0
            here = np.asarray(batch["segment_ids"][row]) == number + 1
            assert scored[row, here].sum() == min(wanted, int(np.ceil(cap_rate * size - 1e-9))), (row, number)


def test_bert_scores_at_most_20_of_128_and_80_of_512():
    for length, cap in ((128, 20), (512, 80)):
        batch = _batch([(length,)], length, specials=False)
        assert _scored(_masked_lm(1, rate=0.4, cap_rate=20 / 128), batch).sum() == cap


@pytest.mark.parametrize(("length", "segments"), [(128, 1), (128, 8), (40, 5), (20, 30), (64, 64)])
@pytest.mark.parametrize(
    ("rate", "cap_rate"), [(0.15, 20 / 128), (0.15, 1.0), (0.4, 0.3), (1.0, 1.0), (0.01, 0.01)]
)
def test_columns_are_the_exact_bound(length, segments, rate, cap_rate):
    best = np.minimum(*count_tables(rate, cap_rate, length))
    reach = np.zeros(length + 1, int)
    for _ in range(segments):
        reach = np.array([max(reach[n - k] + best[k] for k in range(n + 1)) for n in range(length + 1)])
    objective = _masked_lm(segments, rate=rate, cap_rate=cap_rate)
    assert objective.masking.scored_positions(length, segments) == reach.max()


def test_rates_and_places_over_many_steps():
    batch = _batch([(64, 30), (10, 80)] * 4, 96)
    objective = _masked_lm(2)

    def one(rng):
        corrupted = objective.corrupt(CONFIG, batch, rng)
        rows = jnp.arange(8)[:, None]
        scored = jnp.zeros((8, 96)).at[rows, corrupted.plan["positions"]].add(corrupted.plan["weights"])
        return objective.corruption_claims(CONFIG, batch, corrupted), scored

    total = jax.jit(lambda rngs: jax.tree.map(lambda x: x.sum(0), jax.lax.map(one, rngs)))
    claims, scored = jax.device_get(total(jax.random.split(jax.random.key(5), 1500)))
    for claim, (observed, expected) in claims.items():
        assert observed.sum() > 10_000 and chi_square_p(observed, expected) > 1e-3, claim
    ordinary = np.asarray(batch["tokens"]) >= 7
    for row in range(8):
        for segment in (1, 2):
            counts = scored[row, ordinary[row] & (np.asarray(batch["segment_ids"][row]) == segment)]
            # Without replacement counts vary less than chi-square allows: only the upper side can fail.
            assert chi_square_p(counts, np.full(len(counts), counts.mean())) > 1e-3


def _words(batch, lengths, seed=0):
    """The batch with words of random lengths up to `lengths`."""
    starts = np.random.default_rng(seed).random(batch["tokens"].shape) < 1 / lengths
    return {**batch, "word_starts": jnp.asarray(starts, jnp.int32)}


def _word_ids(batch):
    """[B, L] number of the word in its row, 0 for what is no word; written the slow way."""
    tokens, segments, starts = (np.asarray(batch[k]) for k in ("tokens", "segment_ids", "word_starts"))
    words = np.zeros_like(tokens)
    for row in range(len(tokens)):
        count, inside = 0, 0
        for at in range(tokens.shape[1]):
            if tokens[row, at] < 7 or segments[row, at] == 0:
                inside = 0
                continue
            if not inside or starts[row, at] or segments[row, at] != segments[row, at - 1]:
                count += 1
            words[row, at] = inside = count
    return words


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_scored_whole_up_to_the_count(unit):
    batch = _words(_batch([(128,), (60, 40, 20), (17,) * 7, (3, 4) * 4, ()], 128), 2)
    objective = _masked_lm(8, rate=0.3, cap_rate=1.0, unit=unit)
    words, segments = _word_ids(batch), np.asarray(batch["segment_ids"])
    shares = []
    for seed in range(8):
        scored = _scored(objective, batch, seed)
        assert scored.max() <= 1 and not np.any(scored[words == 0])
        for row in range(len(scored)):
            for word in range(1, words[row].max() + 1):
                assert len(set(scored[row, words[row] == word])) == 1, (row, word)
            for segment in range(1, segments[row].max() + 1):
                here = (segments[row] == segment) & (words[row] > 0)
                count, wanted = scored[row, here].sum(), max(1, round(0.3 * here.sum()))
                longest = max(np.sum(words[row] == w) for w in set(words[row, here]))
                # Every word that is left out would not have fitted.
                assert wanted - longest < count <= wanted, (row, segment)
                shares += [count / wanted] if wanted >= 10 else []
    assert np.mean(shares) > 0.95


def test_spans_have_published_lengths_and_one_fate():
    lengths = np.asarray(span_words(jax.random.bits(jax.random.key(0), (1, 200_000), jnp.uint32)))[0]
    expected = 0.8 ** np.arange(LONGEST_SPAN)
    counts = np.bincount(lengths, minlength=LONGEST_SPAN + 1)[1:]
    assert chi_square_p(counts, expected / expected.sum() * len(lengths)) > 1e-3
    assert 3.75 < lengths.mean() < 3.85
    # One token a word and a low rate: the runs that are scored are the spans, cut where the count is full.
    batch = {**_batch([(512,)] * 16, 512), "word_starts": jnp.ones((16, 512), jnp.int32)}
    objective = _masked_lm(1, rate=0.05, cap_rate=1.0, unit="span")
    corrupted = _corrupt(objective, batch, jax.random.key(1))
    scored = _scored(objective, batch, 1)
    masked = np.asarray(corrupted.batch["tokens"]) == 4
    runs = [run for row in range(16) for run in _runs(scored[row])]
    assert 2 < np.mean([stop - start for start, stop in runs]) < 4.5
    mixed = sum(
        len(set(masked[row, start:stop])) > 1 for row in range(16) for start, stop in _runs(scored[row])
    )
    # Runs of both fates are spans that happen to touch.
    assert mixed < 0.1 * len(runs)


def _runs(scored):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], scored, [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_a_segment_is_masked_alike_wherever_it_lies():
    objective = _masked_lm(3)
    batch = _batch([(20, 30, 10), (40,)], 64)
    here = np.asarray(_corrupt(objective, batch, jax.random.key(3)).batch["tokens"])
    # Segment 2 of row 0, alone in a longer row that lies second: same example id, segment id, positions.
    tokens, segments, positions = (np.zeros((2, 100), np.int32) for _ in range(3))
    tokens[1, 5:35], segments[1, 5:35] = np.asarray(batch["tokens"])[0, 20:50], 2
    positions[1, 5:35] = np.arange(30)
    moved = dict(tokens=tokens, segment_ids=segments, positions=positions, example_ids=np.array([7, 100]))
    there = _corrupt(objective, moved, jax.random.key(3)).batch["tokens"]
    np.testing.assert_array_equal(here[0, 20:50], np.asarray(there)[1, 5:35])
    assert np.any(here[0, 20:50] != np.asarray(batch["tokens"])[0, 20:50])


def test_steps_examples_and_segments_are_masked_differently():
    objective = _masked_lm(2)
    batch = _batch([(40, 40), (40, 40)], 80)
    one, other = _scored(objective, batch, seed=0), _scored(objective, batch, seed=1)
    assert np.any(one != other)
    assert np.any(one[0] != one[1]) and np.any(one[:, :40] != one[:, 40:])


def test_fixed_masks_come_back():
    batch = _batch([(40,), (40,)], 40)
    for count in (1, 3):
        objective = _masked_lm(1, fixed_masks=count)
        seen = np.stack([_scored(objective, batch, seed) for seed in range(30)])
        for row in range(2):
            assert len(np.unique(seen[:, row], axis=0)) == count
        assert np.any(seen[0, 0] != seen[0, 1])


def test_every_key_implementation_draws_per_token():
    batch = _batch([(10,), (10,)], 10)
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        bits = np.asarray(token_bits(jax.random.key(0, impl=impl), batch, 2))
        flipped = {k: v[::-1] for k, v in batch.items()}
        again = np.asarray(token_bits(jax.random.key(0, impl=impl), flipped, 2))
        np.testing.assert_array_equal(bits, again[::-1])
        assert len(np.unique(bits)) == bits.size


class AtEveryPosition(MaskedLM):
    """Scores the whole row, with weight 0 where nothing is to be predicted."""

    def corrupt(self, config, batch, rng):
        read, plan = super().corrupt(config, batch, rng)
        tokens_BL = batch["tokens"]
        rows_B1 = jnp.arange(tokens_BL.shape[0])[:, None]
        weights_BL = jnp.zeros(tokens_BL.shape).at[rows_B1, plan["positions"]].add(plan["weights"])
        every_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
        own = {"positions": every_BL, "targets": tokens_BL, "weights": weights_BL}
        return Corrupted(read, {**plan, **own})


def test_gathering_changes_nothing_but_the_work():
    batch = _batch([(20, 30, 10), (40,), ()], 64)
    losses = []
    for kind in (MaskedLM, AtEveryPosition):
        objective = _masked_lm(3, kind)
        network = network_of(objective, CONFIG)
        losses.append(evaluate(objective, network, fresh(network), batch))
    for a, b in zip(*map(jax.tree.leaves, losses), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_more_segments_than_declared_is_no_silent_loss():
    objective = _masked_lm(2)
    network = network_of(objective, CONFIG)
    out, _ = evaluate(objective, network, fresh(network), _batch([(8, 8, 8), (), ()], 64))
    assert np.isnan(out.terms["nll"][0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(mask_id=64), "mask_id 64 must be below first_ordinary_id 7"),
        (dict(mask_id=9), "mask_id 9 must be below first_ordinary_id 7"),
        (dict(first_ordinary_id=64), "first_ordinary_id 64, and that in the vocabulary of 64"),
        (dict(mask_id=NO_ID), "MaskedLM needs mask_id, but the tokenizer has no such token"),
    ],
)
def test_impossible_vocabularies_are_refused_early(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskedLM().for_rows(dataclasses.replace(ROWS, **fields)).check(CONFIG)


def test_an_objective_that_was_told_no_rows_says_so():
    with pytest.raises(ValueError, match="MaskedLM was not told what its rows are"):
        MaskedLM().check(CONFIG)


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="must not exceed 1"):
        Masking(mask_share=0.9, random_share=0.2)


def test_a_schedule_has_exact_counts_at_every_rate():
    objective = _masked_lm(1, rate=0.3, final_rate=0.15, rate_examples=3200, cap_rate=1.0)
    batch = _batch([(100,)] * 5, 100)
    batch["example_ids"] = jnp.array([0, 99, 1600, 3200, 2**31 - 1])
    scored = _scored(objective, batch).sum(axis=1)
    ordinary = int(((np.asarray(batch["tokens"])[0] >= 7) & (np.asarray(batch["segment_ids"])[0] > 0)).sum())
    rates = [0.3, 0.3, 0.225, 0.15, 0.15]  # the first of 32 steps is at example 100
    np.testing.assert_array_equal(scored, [round(rate * ordinary) for rate in rates])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_rate": 0.1}, "are a schedule together"),
        ({"rate_examples": 10}, "are a schedule together"),
        ({"final_rate": 1.5, "rate_examples": 10}, "final_rate must be above 0 and at most 1, got 1.5"),
        ({"rate": 0.0}, "rate must be above 0 and at most 1, got 0.0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Masking(**changes)


def test_a_higher_rate_raises_the_cap_that_was_not_chosen():
    assert Masking().cap == 20 / 128
    assert Masking(rate=0.3).cap == 0.3
    assert Masking(rate=0.3, cap_rate=0.2).cap == 0.2
