"""Properties of sums: they add over any split of the rows, and nothing but a unit's own tokens and answers is in them.

Shape suffixes: B rows, L tokens of a row, G segments of a row.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.interpreters import partial_eval

from model.config import TextConfig
from model.network import Params
from objectives.answers import changes
from objectives.base import Batch, LossOut, Objective
from objectives.examples import packed_rows
from objectives.learning import learned
from objectives.measuring import (
    HostBatch,
    add,
    at_start,
    companions_of,
    corruption,
    difference,
    evaluate,
    fresh,
    frozen,
    gradient_norm,
    keep_segments,
    network_of,
    on_device,
    step_key,
)
from objectives.mixture import corrupts
from objectives.segments import is_layout
from objectives.verdict import Verdict, verdict

SAME = 2e-5
"""Relative difference of float32 sums (and of whole gradients, by norm) that only differ in order; measured:
1e-6."""
WIDER = 4
"""Columns of padding that a row gets."""
CROWD = (5, 2, 4, 3, 4, 4)
"""Sizes of the segments of a row that holds more of them than the other examples do."""


def declares_its_terms(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Terms are exactly those of coefficients() and claims, float32 scalars, and something is scored."""
    ((out, _),) = at_start(objective, config, batch)
    name = "declares its terms"
    claimed, premises = objective.claims().initial_loss(config), objective.claims().premises()
    named = {
        "initial_loss": set(claimed),
        **{
            f"premises {f}": set(getattr(premises, f))
            for f in ("probes", "bounded", "negative", "need_not_fall")
        },
    }
    for who, terms in named.items():
        if unknown := sorted(terms - set(out.terms)):
            return Verdict(
                name, "fails", detail=f"{who} names {unknown}, but the terms are {sorted(out.terms)}"
            )
    for key, (value, weight) in {**out.terms, **out.metrics}.items():
        if {(value.shape, str(value.dtype)), (weight.shape, str(weight.dtype))} != {((), "float32")}:
            return Verdict(
                name, "fails", detail=f"{key}: {value.shape} {value.dtype}, {weight.shape} {weight.dtype}"
            )
    empty = [key for key, (_, weight) in out.terms.items() if not weight > 0]
    return Verdict(name, "fails" if empty else "holds", detail=f"nothing scored in {empty}" if empty else "")


def adds_over_any_split(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Loss, weights, metrics and gradients of the batch are those of its halves, added.

    The rows outside a half are turned into padding; that they might as well not be there is the next property. So at the
    start, and where all but one segment has been learned: a limit on what stands out of a batch would be seen.
    """
    name = "adds over any split"
    if not objective.additive:
        return Verdict(name, "does not apply", detail="additive = False")
    row_B1 = np.arange(len(batch["example_ids"]))[:, None]
    network, worst = network_of(objective, config), 0.0
    trained = learned(objective, config, frozen(batch), None).params
    for params, some in ((fresh(network), batch), (trained, _one_segment_changed(objective, batch))):
        for half_B1 in (row_B1 < len(row_B1) // 2, row_B1 % 2 == 0):
            parts = [_kept(objective, some, keep_B1) for keep_B1 in (half_B1, ~half_B1)]
            whole, *halves = (jax.device_get(evaluate(objective, network, params, x)) for x in (some, *parts))
            worst = float(np.maximum(worst, difference(add(*halves), whole)))
    return verdict(name, worst, SAME)


def _one_segment_changed(objective: Objective, batch: HostBatch) -> HostBatch:
    """The batch with other answers in its shortest segment."""
    ids_BL = batch["segment_ids"]
    sizes = {(b, s): int((row == s).sum()) for b, row in enumerate(ids_BL) for s in np.unique(row[row > 0])}
    row, segment = min(sizes, key=lambda k: sizes[k])
    changed = dict(batch)
    for array, column, other in changes(objective, batch):
        layout = batch["target_segment_ids" if array.startswith("target_") else "segment_ids"]
        by_token = batch[array].shape[1] == layout.shape[1]
        if layout[row, column] == segment if by_token else column == segment - 1:
            value = changed[array].copy()
            value[row, column] = other[array][row, column]
            changed[array] = value
    return changed


def padding_is_deleting(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Longer rows and more rows, all padding with any content, change nothing."""
    rng = np.random.default_rng(0)
    roomy = _roomy(objective)
    longer = _widened(batch, objective, roomy, rows_of(objective, batch))
    padding_BL = longer["segment_ids"] == 0
    if "tokens" in batch:
        noise_BL = rng.integers(7, config.vocab_size, padding_BL.shape)
        longer["tokens"] = np.where(padding_BL, noise_BL, longer["tokens"]).astype(np.int32)
    (short,), (long,) = at_start(objective, config, batch), at_start(roomy, config, longer)
    return verdict("padding is deleting", difference(long, short), SAME)


def packing_is_irrelevant(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """One unit a row, from its first column on, has the sums and gradients of several in a row, six even."""
    name = "packing is irrelevant"
    roomy = _roomy(objective)
    unit = objective.claims().segments_per_unit()
    crowded = batch
    if objective.row_maker() is None:
        sizes = [CROWD, CROWD[::-1], CROWD[:2], (batch["segment_ids"].shape[1],)]
        crowded = packed_rows(sizes, like=batch)
    if crowded["segment_ids"].max() <= unit:
        return Verdict(name, "does not apply", detail="one unit per row")
    rows = rows_of(objective, batch)
    packed = _widened(crowded, objective, roomy, rows)
    alone = _one_unit_a_row(packed, unit, rows)
    together, apart_ = at_start(roomy, config, packed, alone)
    return verdict(name, difference(apart_, together), SAME, f"at most {len(CROWD)} segments a row")


def neighbours_are_isolated(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The loss of packed rows is that of every second unit alone plus that of the others alone."""
    if not objective.additive:
        return Verdict("packed neighbours are isolated", "does not apply", detail="additive = False")
    segments = objective.claims().segments_per_unit()
    unit_BL = (batch["segment_ids"] - 1) // segments
    if batch["segment_ids"].max() <= segments:
        return Verdict("packed neighbours are isolated", "does not apply", detail="one unit per row")
    even, odd = (_kept(objective, batch, unit_BL % 2 == side) for side in (0, 1))
    whole, *parts = at_start(objective, config, batch, even, odd)
    return verdict("packed neighbours are isolated", difference(add(*parts), whole), SAME)


def order_of_rows_is_irrelevant(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Other neighbours leave the corrupted tokens of a row exactly, and sums and gradients."""
    rows = np.arange(len(batch["example_ids"]))
    # Rotated, every row would keep its neighbour.
    order = np.roll(np.concatenate([rows[::2], rows[1::2]]), 1)
    moved_batch = {k: v[order] for k, v in batch.items()}
    if corrupts(objective):
        here, there = (corruption(objective, config, b, step_key())[0] for b in (batch, moved_batch))
        moved = max(float(np.mean(np.asarray(here[k])[order] != there[k])) for k in here)
        if moved:
            return verdict(
                "order of rows is irrelevant", moved, 0.0, "share of corrupted entries that changed"
            )
    one, other = at_start(objective, config, batch, moved_batch)
    return verdict("order of rows is irrelevant", difference(one, other), SAME)


def weights_know_no_parameters(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The weights use no parameter, so the step gets them without running the model, or a companion; nor any bfloat16."""
    name = "weights know no parameters"
    network = network_of(objective, dataclasses.replace(config, dtype="bfloat16"))
    params = (fresh(network_of(objective, config)), companions_of(network_of(objective, config)))

    def weights(params: tuple[Params, dict[str, Params]], batch: Batch) -> list[jax.Array]:
        own, companions = params
        out = objective(network.bind(own, None, companions), batch, step_key())
        return [weight for _, weight in (*out.terms.values(), *out.metrics.values())]

    def terms(params: tuple[Params, dict[str, Params]], batch: Batch) -> list[jax.Array]:
        own, companions = params
        out = objective(network.bind(own, None, companions), batch, step_key())
        return [weight for _, weight in out.terms.values()]

    count = len(jax.tree.leaves(params))
    jaxpr = jax.make_jaxpr(terms)(params, on_device(batch)).jaxpr
    needed, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    if rounded := [
        str(e.primitive) for e in needed.eqns for v in e.outvars if str(v.aval).startswith("bfloat16")
    ]:
        return Verdict(name, "fails", len(rounded), detail=f"a weight goes through bfloat16 ({rounded[0]})")
    return verdict(name, float(sum(used[:count])), 0.0, f"of {count} parameters")


def weights_are_respected(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """With all parameters zero, logits are equal and each term is its closed form times its weight."""
    name = "weights are respected"
    claimed = objective.claims().initial_loss(config)
    expected = {k: value for k, value in claimed.items() if not isinstance(value, tuple)}
    if not expected:
        return Verdict(name, "does not apply", detail="initial_loss declares no closed form")
    network = network_of(objective, config)
    zeros = jax.tree.map(np.zeros_like, fresh(network))
    out, _ = evaluate(objective, network, zeros, batch)
    worst = max(
        abs(float(out.terms[k][0] / out.terms[k][1]) - loss) / max(1e-3, abs(loss))
        for k, loss in expected.items()
    )
    return verdict(name, worst, SAME)


def nothing_scored_is_zero(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """A batch of padding has no loss, no weight and no gradient."""
    empty = keep_segments(batch, np.zeros_like(batch["segment_ids"], bool))
    ((out, grads),) = at_start(objective, config, empty)
    figure = float(np.max([abs(float(x)) for x in (*jax.tree.leaves(out[:2]), gradient_norm(grads))]))
    return verdict("nothing scored is zero", figure, 0.0)


def penalties_know_parameters_only(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Half of the rows have the penalties of all, so that they may be added once for a step; none is below zero."""
    name = "penalties know parameters only"
    half = keep_segments(batch, np.arange(len(batch["example_ids"]))[:, None] % 2 == 0)
    (whole, _), (part, _) = at_start(objective, config, batch, half)
    if not whole.penalties:
        return Verdict(name, "does not apply", detail="adds no penalties")
    if below := {k: float(x) for k, x in whole.penalties.items() if x < 0}:
        return Verdict(
            name,
            "fails",
            min(below.values()),
            detail=f"{below} is below zero, so it is no penalty but a prize",
        )
    worst = max(abs(float(part.penalties[k] / x) - 1) if x else 0.0 for k, x in whole.penalties.items())
    return verdict(name, worst, SAME, f"of {', '.join(whole.penalties)}")


def sums_stay_float32(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """In a bfloat16 model terms add over rows as exactly as in float32, and their sums have bits that bfloat16 has not."""
    name = "sums stay float32"
    network = network_of(objective, dataclasses.replace(config, dtype="bfloat16"))
    params = fresh(network_of(objective, config))

    def sums(some: HostBatch) -> LossOut:
        out: LossOut = jax.device_get(evaluate(objective, network, params, some))[0]
        return out

    whole, rows_B1 = sums(batch), np.arange(len(batch["example_ids"]))[:, None]
    rows = [sums(_kept(objective, batch, rows_B1 == row)) for row in range(len(rows_B1))]
    for key, (loss, _) in whole.terms.items():
        if {loss.dtype.name} != {"float32"}:
            return Verdict(name, "fails", detail=f"{key} is {loss.dtype.name}")
        found = [float(one.terms[key][0]) for one in (whole, *rows)]
        nonzero = np.array([x for x in found if x], np.float32)
        if len(nonzero) > 2 and not np.any(nonzero.view(np.uint32) & 0xFFFF):
            return Verdict(name, "fails", 2**-9, detail=f"{key}: its sums were rounded to bfloat16")
    if not objective.additive:
        return Verdict(name, "holds", detail="additive = False: only how the sums are rounded")
    worst = 0.0
    for key, (loss, _) in whole.terms.items():
        parts = [float(one.terms[key][0]) for one in rows]
        scale = max(1e-6, sum(map(abs, parts)))
        worst = max(worst, abs(sum(parts) - float(loss)) / scale)
    return verdict(name, worst, 10 * SAME, "sum of the rows against the batch")


def _kept(objective: Objective, batch: HostBatch, keep_BL: np.ndarray) -> HostBatch:
    return keep_segments(batch, keep_BL, objective.rows.max_segments)


def _roomy(objective: Objective) -> Objective:
    """The objective in rows that are longer and may hold more segments."""
    rows = dataclasses.replace(objective.rows, max_segments=max(len(CROWD), objective.rows.max_segments))
    return objective.for_rows(rows)


def rows_of(objective: Objective, batch: HostBatch) -> int:
    """Rows enough for every unit to have one of its own."""
    unit = objective.claims().segments_per_unit()
    units = [len({(s - 1) // unit for s in row[row > 0]}) for row in batch["segment_ids"]]
    return max(16, sum(units), len(batch["example_ids"]) + 1)


def _widened(batch: HostBatch, objective: Objective, roomy: Objective, rows: int) -> HostBatch:
    """The batch in longer rows, so many of them, with room for more segments: all that is new is padding."""
    length, longer = batch["segment_ids"].shape[1], {}
    segments = roomy.rows.max_segments
    for key, value in batch.items():
        widths = [(0, rows - len(value)), *[(0, 0)] * (value.ndim - 1)]
        if value.ndim >= 2 and (key.startswith("target_") or value.shape[1] == length):
            widths[1] = (0, WIDER)
        elif value.ndim >= 2 and value.shape[1] == objective.rows.max_segments:
            widths[1] = (0, segments - value.shape[1])
        # Whatever stands in padding, a layout of 0 says that it is none of the text.
        longer[key] = np.pad(value, widths) if is_layout(key) else np.pad(value, widths, mode="edge")
    return longer


def _one_unit_a_row(batch: HostBatch, unit: int, rows: int) -> HostBatch:
    """Every unit at the start of a row of its own, under its example's number and its segments' ids."""
    layouts = [name for name in batch if is_layout(name)]
    alone = {name: np.repeat(value[:1], rows, axis=0) for name, value in batch.items()}
    for name in layouts:
        alone[name] = np.zeros_like(alone[name])
    for number, (row, ids) in enumerate(_units(batch, unit)):
        for name, value in batch.items():
            alone[name][number] = value[row]
        for layout in layouts:
            here = np.flatnonzero(np.isin(batch[layout][row], ids))
            if not len(here):
                alone[layout][number] = 0
                continue
            rest = np.setdiff1d(np.arange(batch[layout].shape[1]), here)
            order = np.concatenate([here, rest])
            prefix = layout.removesuffix("segment_ids")
            for name, value in batch.items():
                follows = name.startswith("target_") == bool(prefix)
                if follows and value.ndim >= 2 and value.shape[1] == len(order):
                    alone[name][number] = value[row][order]
            alone[layout][number, len(here) :] = 0
    return alone


def _units(batch: HostBatch, unit: int) -> Iterator[tuple[int, np.ndarray]]:
    """(row, segment ids) of every unit."""
    for row, ids in enumerate(batch["segment_ids"]):
        present = np.unique(ids[ids > 0])
        for number in np.unique((present - 1) // unit):
            yield row, present[(present - 1) // unit == number]
