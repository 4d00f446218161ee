"""Properties of what is drawn: as claimed, anew in every step, apart for examples and segments; claims can fail.

Shape suffixes: R rows, L tokens of a row.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from model.config import TextConfig
from model.network import Network, Params
from objectives.base import Objective
from objectives.counts import chi_square_p, least_likely
from objectives.examples import Documents
from objectives.measuring import HostBatch, claims_of, corruption, differs_from, fresh, network_of, step_key
from objectives.mixture import corrupts
from objectives.probing import trace
from objectives.rows import Row, RowMaker
from objectives.segments import is_layout
from objectives.verdict import Verdict, verdict

STEPS = 12
NUMBERS = np.array(
    [*range(8), 16, 32, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096, 8192, 10_000, 65_536, 10**5, 2**20],
    np.int32,
)
"""Example ids that a modulus, a mask of bits or a product may confuse."""
ALIKE = 0.3
"""Correlation of two draws from which on they are taken to be one; of a thousand tokens it is 0.03 for independent ones."""
UNLIKELY = 6.0
"""-log10 of a p-value that is no accident."""


def corrupts_as_claimed(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Chi-square of every claimed rate over 64 steps; the figure is -log10 of the smallest p-value."""
    name = "corrupts as claimed"
    if not corrupts(objective):
        return Verdict(name, "does not apply", detail="reads the tokens as they are")
    found = [corruption(objective, config, batch, jax.random.fold_in(step_key(), i)) for i in range(64)]
    counts = jax.tree.map(lambda *xs: np.sum(xs, axis=0), *(claims for _, claims, _ in found))
    if not counts:
        changed = any(differs_from(batch, read) for read, _, _ in found)
        return Verdict(name, "fails" if changed else "does not apply", detail="corruption_claims() is empty")
    return verdict(name, *least_likely(counts))


def makes_examples_as_claimed(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Chi-square of every claim about 256 made rows; equal arguments make equal rows, and what is drawn is claimed."""
    name = "makes examples as claimed"
    maker = objective.row_maker()
    if maker is None:
        return Verdict(name, "does not apply", detail="reads packed rows")
    docs = Documents(alphabets=True)
    rows = _made(maker, docs)
    for i in range(8):
        again = maker.make_example(docs, i, np.random.default_rng(i))
        differing = [k for k in rows[i] if not np.array_equal(rows[i][k], again[k])]
        if differing:
            return Verdict(
                name, "fails", detail=f"example {i} made twice from equal arguments differs in {differing}"
            )
    counts = objective.claims().example_claims(docs, rows)
    if not counts:
        other = maker.make_example(docs, 0, np.random.default_rng(1))
        if any(not np.array_equal(rows[0][k], other[k]) for k in other):
            return Verdict(
                name, "fails", detail="rows are drawn, but example_claims() is empty: say what is drawn"
            )
        return Verdict(name, "holds", detail="equal arguments make equal rows; nothing is drawn")
    return verdict(name, *least_likely(counts))


def made_rows_tell_no_labels(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """No array but the tokens tells the label of a segment: not its types, its positions or its length."""
    name = "made rows tell no labels"
    maker = objective.row_maker()
    if maker is None or "labels" not in batch or batch["labels"].ndim != 2:
        return Verdict(name, "does not apply", detail="makes no rows with labels")
    labels, features = [], []
    for row in _made(maker, Documents(alphabets=True)):
        for segment, label in enumerate(row["labels"], start=1):
            here = row["segment_ids"] == segment
            if not here.any() or label < 0:
                continue
            labels.append(label)
            arrays = {
                k: v[here] for k, v in row.items() if v.shape == here.shape and not k.endswith("tokens")
            }
            own = {
                f"{k}, {how.__name__}": how(v) for k, v in arrays.items() for how in (np.min, np.max, np.mean)
            }
            features.append({**own, "length": here.sum(), "place": np.argmax(here)})
    told = {
        k: _correlation(np.array([f[k] for f in features], float), np.array(labels, float))
        for k in features[0]
    }
    most = max(told, key=lambda k: told[k])
    return verdict(name, told[most], ALIKE, f"correlation of the label with {most}, {len(labels)} segments")


def examples_draw_apart(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Copies of the fullest row under other example ids, near and far, are corrupted differently."""
    name = "examples draw apart"
    draws_SRL = _draws(objective, config, _copies(batch, _fullest(batch)))
    if draws_SRL is None:
        return Verdict(name, "does not apply", detail="nothing was corrupted")
    of_row = [draws_SRL[:, row].tobytes() for row in range(draws_SRL.shape[1])]
    same = [
        (int(NUMBERS[i]), int(NUMBERS[j]))
        for i, j in itertools.combinations(range(len(of_row)), 2)
        if of_row[i] == of_row[j]
    ]
    if same:
        return verdict(
            name, len(same), 0, f"examples {same[0][0]} and {same[0][1]} are corrupted alike in {STEPS} steps"
        )
    figure, detail = _alike_under_shifts(draws_SRL != _plain(draws_SRL))
    return verdict(name, figure, ALIKE, detail)


def steps_draw_anew(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """No two of a dozen steps corrupt all rows alike."""
    name = "steps draw anew"
    if objective.claims().premises().repeats_draws:
        return Verdict(name, "does not apply", detail="premises: draws are repeated on purpose")
    draws_SRL = _draws(objective, config, _copies(batch, _fullest(batch)))
    if draws_SRL is None:
        return Verdict(name, "does not apply", detail="nothing was corrupted")
    if all(np.array_equal(row_L, draws_SRL[0, 0]) for row_L in draws_SRL.reshape(-1, draws_SRL.shape[-1])):
        return Verdict(name, "does not apply", detail="what is read follows from the row")
    different = len({step.tobytes() for step in draws_SRL})
    return verdict(
        name, STEPS - different, 0, f"{different} different corruptions of the same rows in {STEPS} steps"
    )


def segments_draw_apart(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Of two equal texts in one row, under any two examples, no two are corrupted alike."""
    name = "segments draw apart"
    if objective.row_maker() is not None:
        return Verdict(name, "does not apply", detail="makes its own rows")
    twice = _twice_the_same(batch)
    draws_SRL = _draws(objective, config, _copies(twice, 0))
    if draws_SRL is None:
        return Verdict(name, "does not apply", detail="nothing was corrupted")
    changed_SRL = draws_SRL != _plain(draws_SRL)
    half = int((twice["segment_ids"][0] == 1).sum())
    first, second = changed_SRL[..., :half], changed_SRL[..., half : 2 * half]
    worst, detail = -1.0, ""
    # One more of the one may be one less of the other: keys that are added up collide so.
    for step in (-1, 0, 1):
        pairs = [(i, i + step) for i in range(8) if 0 <= i + step < 8]
        for shift in (-1, 0, 1):
            a = np.stack([_shifted(first[:, i], shift) for i, _ in pairs])
            b = np.stack([_shifted(second[:, j], -shift) for _, j in pairs])
            found = _correlation_of_cells(a, b)
            if found > worst:
                worst, detail = (
                    found,
                    f"correlation of segment 1 with segment 2 of example {step:+d}, shifted by {2 * shift}",
                )
    return verdict(name, worst, ALIKE, detail)


def encodes_differ(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Two encodes of one batch differ in dropout or in what they read: else one of them says nothing."""
    name = "encodes differ"
    network = network_of(objective, config)
    params = fresh(network)
    names = [k for k in trace(objective, network, params, batch).states if k.endswith("encode")]
    if len(names) < 2:
        return Verdict(name, "does not apply", detail="encodes once")
    dropping = network_of(objective, dataclasses.replace(config, dropout=0.3))
    found = trace(objective, dropping, params, batch, dropout=jax.random.key(2))
    there = batch["segment_ids"] > 0
    same = [
        (a, b)
        for a, b in itertools.combinations(names, 2)
        if found.states[a].shape[:2] == there.shape
        and found.states[a].shape == found.states[b].shape
        and np.array_equal(found.states[a][there], found.states[b][there])
    ]
    detail = (
        f"states {same[0][0]!r} and {same[0][1]!r} are the same, dropout included"
        if same
        else f"{len(names)} encodes"
    )
    return verdict(name, len(same), 0, detail)


def claims_can_fail(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Claims are false of some corruption or row that is wrong on purpose, and none expects whatever it observes."""
    name = "claims can fail"
    tried: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for counts in itertools.chain(_wrong_corruptions(objective, config, batch), _wrong_rows(objective)):
        for claim, (observed, expected) in counts.items():
            tried.setdefault(claim, []).append((np.asarray(observed, float), np.asarray(expected, float)))
    if not tried:
        return Verdict(name, "does not apply", detail="claims no counts")
    rejected = [k for k, found in tried.items() if any(_surprise(*one) > UNLIKELY for one in found)]
    if not rejected:
        return Verdict(
            name, "fails", detail=f"{sorted(tried)} hold whatever was done to tokens, plans and labels"
        )
    follow = [
        k
        for k, found in tried.items()
        if all(np.array_equal(o, e) and np.all(e > 0) for o, e in found)
        and any(not np.array_equal(o, found[0][0]) for o, _ in found)
    ]
    if follow:
        return Verdict(name, "fails", len(follow), detail=f"{follow[0]!r} expects whatever it observes")
    return verdict(name, 0, 0, f"{len(rejected)} of {len(tried)} claims were false of something wrong")


def _made(maker: RowMaker, docs: Any) -> list[Row]:
    return [maker.make_example(docs, i, np.random.default_rng(i)) for i in range(256)]


def _surprise(observed: np.ndarray, expected: np.ndarray) -> float:
    return float(-np.log10(max(chi_square_p(observed, expected), 1e-300)))


def _wrong_corruptions(
    objective: Objective, config: TextConfig, batch: HostBatch
) -> Iterator[Mapping[str, Any]]:
    """Claims about corruptions that are not what `corrupt` made: other tokens, other plans; summed over steps."""
    if not corrupts(objective):
        return
    rng = np.random.default_rng(0)
    ordinary = rng.integers(objective.rows.first_ordinary_id, config.vocab_size, batch["segment_ids"].shape)

    def wrong(read: dict[str, Any], plan: Any) -> Iterator[tuple[Any, Any]]:
        tokens = batch["tokens"]
        for other in (
            tokens,
            ordinary.astype(np.int32),
            np.full_like(tokens, objective.rows.first_ordinary_id),
        ):
            yield {**read, "tokens": other}, plan
        yield read, jax.tree.map(_one_everywhere, plan)
        yield read, jax.tree.map(_turned, plan)
        yield {k: np.zeros_like(v) if v.dtype == bool else v for k, v in read.items()}, plan

    found: list[Any] = []
    for step in range(8):
        key = jax.random.fold_in(step_key(), step)
        read, claims, plan = jax.device_get(corruption(objective, config, batch, key))
        if not claims:
            return
        counted = [claims_of(objective, config, batch, r, p) for r, p in wrong(read, plan)]
        found.append(jax.device_get(counted))
    yield from jax.tree.map(lambda *xs: np.sum(xs, axis=0), *found)


def _one_everywhere(x: np.ndarray) -> np.ndarray:
    """1 in place of whatever stands there."""
    return np.ones_like(x) if x.ndim > 1 else x


def _turned(x: np.ndarray) -> np.ndarray:
    """Every row in the other order."""
    return x[:, ::-1].copy() if x.ndim > 1 else x


def _wrong_rows(objective: Objective) -> Iterator[Mapping[str, Any]]:
    """Claims about rows that `make_example` would not make."""
    maker = objective.row_maker()
    if maker is None:
        return
    docs, rng = Documents(alphabets=True), np.random.default_rng(0)
    rows = _made(maker, docs)
    shuffled = [
        {**row, **{k: rng.permutation(v) for k, v in row.items() if k.endswith("tokens")}} for row in rows
    ]
    other = [
        {**row, **{k: np.where(v >= 0, 1 - v, v) for k, v in row.items() if k == "labels"}} for row in rows
    ]
    for some in (shuffled, other, rows[:1] * len(rows)):
        try:
            yield objective.claims().example_claims(docs, some)
        except (ValueError, LookupError):
            # What cannot even be counted has been found out.
            yield {"can be counted": (np.ones(1), np.zeros(1))}


def _fullest(batch: HostBatch) -> int:
    return int(np.argmax((batch["segment_ids"] > 0).sum(axis=1)))


def _copies(batch: HostBatch, row: int) -> HostBatch:
    """One row under every one of NUMBERS."""
    copies = {k: np.repeat(v[row : row + 1], len(NUMBERS), axis=0) for k, v in batch.items()}
    return {**copies, "example_ids": NUMBERS}


def _twice_the_same(batch: HostBatch) -> HostBatch:
    """A row with the first half of its fullest text twice."""
    row = _fullest(batch)
    length = batch["segment_ids"].shape[1]
    half = min(length // 2, int((batch["segment_ids"][row] == 1).sum()))
    twice = {k: v[row : row + 1].copy() for k, v in batch.items()}
    for value in twice.values():
        if value.ndim >= 2 and value.shape[1] == length:
            value[:, half : 2 * half] = value[:, :half]
    twice["segment_ids"][0] = np.repeat([1, 2, 0], [half, half, length - 2 * half])
    return twice


def _draws(objective: Objective, config: TextConfig, copies: HostBatch) -> np.ndarray | None:
    """What the backbone reads in the place of each token, int64 [S, R, L], in every step; None if nothing else."""
    network = network_of(objective, config)
    params = fresh(network)
    if not corrupts(objective) and not _draws_anything(objective, network, params, copies):
        return None
    shape, found = copies["segment_ids"].shape, []
    for step in range(STEPS):
        key = jax.random.fold_in(step_key(), step)
        if corrupts(objective):
            reads = [corruption(objective, config, copies, key)[0]]
        else:
            reads = list(trace(objective, network, params, copies, key).reads.values())
        mixed = np.zeros(shape, np.int64)
        for read in reads:
            for array, value in sorted(read.items()):
                value = np.asarray(value)
                new = array not in copies or not np.array_equal(value, copies[array])
                if new and value.shape == shape and not is_layout(array):
                    mixed = mixed * 1009 + value.astype(np.int64)
        found.append(mixed)
    draws_SRL = np.stack(found)
    return draws_SRL if np.any(draws_SRL != draws_SRL[:1, :1]) else None


def _draws_anything(objective: Objective, network: Network, params: Params, copies: HostBatch) -> bool:
    """Whether two steps read four rows differently; four, because a program for so many is there already."""
    few = {k: v[:4] for k, v in copies.items()}
    one, other = (trace(objective, network, params, few, key) for key in (step_key(), jax.random.key(7)))
    return any(
        np.any(np.asarray(x) != np.asarray(other.reads[name][k]))
        for name, read in one.reads.items()
        for k, x in read.items()
    )


def _plain(draws_SRL: np.ndarray) -> np.ndarray:
    """At each column what is read there most often, [1, 1, L]."""
    flat = draws_SRL.reshape(-1, draws_SRL.shape[-1])
    common = []
    for column in flat.T:
        values, counts = np.unique(column, return_counts=True)
        common.append(values[np.argmax(counts)])
    return np.array(common)[None, None]


def _shifted(x_SL: np.ndarray, by: int) -> np.ndarray:
    """Columns moved by so many; those at the ends are lost."""
    return x_SL[..., max(0, by) : x_SL.shape[-1] + min(0, by)]


def _alike_under_shifts(changed_SRL: np.ndarray) -> tuple[float, str]:
    """Largest correlation of what happens to neighbouring examples, one of them moved by a few tokens."""
    worst, detail = -1.0, ""
    for apart, shift in itertools.product((1, 2), range(-3, 4)):
        a = changed_SRL[:, : 8 - apart, max(0, shift) : changed_SRL.shape[2] + min(0, shift)]
        b = changed_SRL[:, apart:8, max(0, -shift) : changed_SRL.shape[2] + min(0, -shift)]
        found = _correlation_of_cells(np.moveaxis(a, 1, 0), np.moveaxis(b, 1, 0))
        if found > worst:
            worst, detail = (
                found,
                f"correlation of example n at token t with example n{apart:+d} at token t{-shift:+d}",
            )
    return worst, detail


def _correlation_of_cells(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays [pairs, steps, tokens], each token about its own mean."""
    a, b = (x.astype(float) - x.mean(axis=(0, 1), keepdims=True) for x in (a, b))
    return _correlation(a.ravel(), b.ravel())


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt(np.sum(x**2) * np.sum(y**2))
    return float(abs(np.sum(x * y)) / scale) if scale > 0 else 0.0
