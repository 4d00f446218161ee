"""What every objective must satisfy: pure functions of (objective, config, batch) that return a verdict.

The tests call them on every objective of this package, `python -m objectives.check` on a researcher's own
file. Shape suffixes: B rows, L tokens of a row.
"""

import dataclasses

import jax
import numpy as np
from jax.interpreters import partial_eval

from model.config import TextConfig
from model.network import Params
from objectives.base import Batch, Objective
from objectives.examples import Documents
from objectives.measuring import (
    HostBatch,
    adam,
    add,
    at_start,
    companions_of,
    corruption,
    difference,
    differs_from,
    evaluate,
    fresh,
    gradient_norm,
    hidden_gradient,
    inner_tokens,
    keep_segments,
    least_likely,
    network_of,
    on_device,
    read_states,
    step_key,
)
from objectives.mixture import corrupts
from objectives.segments import is_layout
from objectives.verdict import Property, Verdict, verdict

SAME = 2e-5
"""Relative difference of float32 sums (and of whole gradients, by norm) that only differ in order; measured:
1e-6."""


def declares_its_terms(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Terms are exactly those of coefficients(), float32 scalars, and something is scored."""
    ((out, _),) = at_start(objective, config, batch)
    name = "declares its terms"
    if set(out.terms) != set(objective.coefficients()):
        return Verdict(
            name,
            "fails",
            detail=f"terms {sorted(out.terms)}, coefficients {sorted(objective.coefficients())}",
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

    The rows outside a half are turned into padding; that they might as well not be there is the next property.
    """
    name = "adds over any split"
    if not objective.additive:
        return Verdict(name, "does not apply", detail="additive = False")
    row_B1 = np.arange(len(batch["example_ids"]))[:, None]
    (whole,) = at_start(objective, config, batch)
    worst = 0.0
    for half_B1 in (row_B1 < len(row_B1) // 2, row_B1 % 2 == 0):
        halves = [keep_segments(batch, keep_B1) for keep_B1 in (half_B1, ~half_B1)]
        worst = max(worst, difference(add(*at_start(objective, config, *halves)), whole))
    return verdict(name, worst, SAME)


def padding_is_deleting(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Longer rows and one more row, all padding with any content, change nothing."""
    rng = np.random.default_rng(0)
    length, longer = batch["segment_ids"].shape[1], {}
    for key, value in batch.items():
        wide = value.ndim >= 2 and (key.startswith("target_") or value.shape[1] == length)
        widths = [(0, 1), (0, 4 if wide else 0), *[(0, 0)] * value.ndim][: value.ndim]
        # Whatever stands in padding, a layout of 0 says that it is none of the text.
        longer[key] = np.pad(value, widths) if is_layout(key) else np.pad(value, widths, mode="edge")
    padding_BL = longer["segment_ids"] == 0
    if "tokens" in batch:
        noise_BL = rng.integers(7, config.vocab_size, padding_BL.shape)
        longer["tokens"] = np.where(padding_BL, noise_BL, longer["tokens"]).astype(np.int32)
    short, long = at_start(objective, config, batch, longer)
    return verdict("padding is deleting", difference(long, short), SAME)


def neighbours_are_isolated(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The loss of packed rows is that of every second unit alone plus that of the others alone."""
    if not objective.additive:
        return Verdict("packed neighbours are isolated", "does not apply", detail="additive = False")
    segments = objective.claims().segments_per_unit()
    unit_BL = (batch["segment_ids"] - 1) // segments
    if batch["segment_ids"].max() <= segments:
        return Verdict("packed neighbours are isolated", "does not apply", detail="one unit per row")
    even, odd = (keep_segments(batch, unit_BL % 2 == side) for side in (0, 1))
    whole, *parts = at_start(objective, config, batch, even, odd)
    return verdict("packed neighbours are isolated", difference(add(*parts), whole), SAME)


def order_of_rows_is_irrelevant(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Rotating the rows rotates the corrupted tokens exactly, and leaves sums and gradients."""
    rolled = {k: np.roll(v, 1, axis=0) for k, v in batch.items()}
    if corrupts(objective):
        here, there = (corruption(objective, config, b, step_key())[0] for b in (batch, rolled))
        moved = max(float(np.mean(np.roll(here[k], 1, axis=0) != there[k])) for k in here)
        if moved:
            return verdict(
                "order of rows is irrelevant", moved, 0.0, "share of corrupted entries that changed"
            )
    one, other = at_start(objective, config, batch, rolled)
    return verdict("order of rows is irrelevant", difference(one, other), SAME)


def weights_know_no_parameters(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The weights use no parameter, so the step gets them without running the model, or a companion."""
    network = network_of(objective, config)
    params = (fresh(network), companions_of(network))

    def weights(params: tuple[Params, dict[str, Params]], batch: Batch) -> list[jax.Array]:
        own, companions = params
        out = objective(network.bind(own, None, companions), batch, step_key())
        return [weight for _, weight in out.terms.values()]

    jaxpr = jax.make_jaxpr(weights)(params, on_device(batch)).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    count = len(jax.tree.leaves(params))
    return verdict("weights know no parameters", float(sum(used[:count])), 0.0, f"of {count} parameters")


def weights_are_respected(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """With all parameters zero, logits are equal and each term is its closed form times its weight."""
    name = "weights are respected"
    expected = objective.claims().initial_loss(config)
    if not expected:
        return Verdict(name, "does not apply", detail="no initial_loss declared")
    network = network_of(objective, config)
    zeros = jax.tree.map(np.zeros_like, fresh(network))
    out, _ = evaluate(objective, network, zeros, batch)
    worst = max(abs(float(out.terms[k][0] / out.terms[k][1]) / loss - 1) for k, loss in expected.items())
    return verdict(name, worst, SAME)


def nothing_scored_is_zero(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """A batch of padding has no loss, no weight and no gradient."""
    empty = keep_segments(batch, np.zeros_like(batch["segment_ids"], bool))
    ((out, grads),) = at_start(objective, config, empty)
    figure = float(np.max([abs(float(x)) for x in (*jax.tree.leaves(out[:2]), gradient_norm(grads))]))
    return verdict("nothing scored is zero", figure, 0.0)


def penalties_know_parameters_only(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Half of the rows have the penalties of all, so that they may be added once for a step."""
    name = "penalties know parameters only"
    half = keep_segments(batch, np.arange(len(batch["example_ids"]))[:, None] % 2 == 0)
    (whole, _), (part, _) = at_start(objective, config, batch, half)
    if not whole.penalties:
        return Verdict(name, "does not apply", detail="adds no penalties")
    worst = max(abs(float(part.penalties[k] / x) - 1) if x else 0.0 for k, x in whole.penalties.items())
    return verdict(name, worst, SAME, f"of {', '.join(whole.penalties)}")


def starts_at_its_closed_form(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Fresh parameters give nearly uniform predictions."""
    expected = objective.claims().initial_loss(config)
    if not expected:
        return Verdict("starts at its closed form", "does not apply", detail="no initial_loss declared")
    ((out, _),) = at_start(objective, config, batch)
    found = {k: float(out.terms[k][0] / out.terms[k][1]) for k in expected}
    detail = ", ".join(f"{k} {found[k]:.4f} of {expected[k]:.4f}" for k in expected)
    worst = float(np.max([abs(found[k] / expected[k] - 1) for k in expected]))
    return verdict("starts at its closed form", worst, 0.05, detail)


def gradients_are_finite(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """In float32 and bfloat16 all is finite, something flows, and both agree roughly on the loss."""
    name = "gradients are finite"
    ((full, grads),) = at_start(objective, config, batch)
    low = network_of(objective, dataclasses.replace(config, dtype="bfloat16"))
    half, half_grads = evaluate(objective, low, fresh(network_of(objective, config)), batch)
    for kind, tree in (("float32", grads), ("bfloat16", half_grads)):
        norm = gradient_norm(tree)
        if not np.isfinite(norm) or norm == 0:
            return Verdict(name, "fails", norm, detail=f"{kind} gradient norm {norm}")
    worst = max(abs(float(half.terms[k][0]) / float(loss) - 1) for k, (loss, _) in full.terms.items())
    return verdict(name, worst, 0.05, "bfloat16 against float32 loss")


def causal_loss_sees_no_future(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The loss of a token has no gradient at hidden states from it on, and those before it do not know it.

    The token's own loss is isolated by changing it as a target only: the backbone keeps reading the old tokens.
    """
    name = "causal loss sees no future"
    if objective.family != "decoder":
        return Verdict(name, "does not apply", detail=f"for decoders, not {objective.family}")
    network = network_of(objective, config)
    params = fresh(network)
    hidden = read_states(objective, network, params, batch)
    unchanged = np.asarray(hidden_gradient(objective, network, params, batch, batch))
    scored = 0
    for row, at in inner_tokens(batch):
        changed = {**batch, "tokens": batch["tokens"].copy()}
        changed["tokens"][row, at] = 7 + (changed["tokens"][row, at] - 6) % (config.vocab_size - 7)
        gradient = np.asarray(hidden_gradient(objective, network, params, batch, changed))
        flow_BL = np.abs(gradient - unchanged).max(axis=-1)
        past, future = flow_BL[row, :at].max(), flow_BL[row, at:].max()
        if future > 0:
            what = f"gradient at and after token {at}, relative to before it"
            return verdict(name, float(future / past) if past > 0 else np.inf, 0.0, what)
        if past == 0:
            continue
        scored += 1
        states = read_states(objective, network, params, changed)
        leak = float(np.max(np.abs(hidden - states)[row, :at]))
        if leak > 0:
            what = (
                f"hidden states before token {at}, which is scored, changed with it: the backbone looks ahead"
            )
            return verdict(name, leak, 0.0, what)
    if not scored:
        return Verdict(name, "fails", detail="the loss of no token depends on its past")
    return verdict(name, 0.0, 0.0, f"{scored} tokens, each isolated")


def predictions_are_probabilities(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Over all V tokens that could stand last in a segment, exp(-their loss) sums to one, in every term that scores it.

    It does not if the token is read before it is predicted: then each candidate is scored by another distribution.
    The rest of the loss cancels against the same segment without its last token.
    """
    name = "predictions are probabilities"
    if objective.family == "encoder":
        return Verdict(name, "does not apply", detail="bidirectional")
    if objective.companions:
        return Verdict(name, "does not apply", detail="its loss knows companions, not only its answers")
    prefix = "target_" if objective.family == "encoder_decoder" else ""
    tokens, segments = prefix + "tokens", prefix + "segment_ids"
    row = int(np.argmax((batch[segments] > 0).sum(axis=1)))
    at = int(np.flatnonzero(batch[segments][row] == 1)[-1])
    shorter = {**batch, segments: batch[segments].copy()}
    shorter[segments][row, at] = 0
    network = network_of(objective, config)
    params = fresh(network)

    def sums(candidate: HostBatch) -> dict[str, tuple[float, float]]:
        out, _ = evaluate(objective, network, params, candidate)
        return {k: (float(loss), float(weight)) for k, (loss, weight) in out.terms.items()}

    rest, whole = sums(shorter), sums(batch)
    total = {k: 0.0 for k, (_, weight) in whole.items() if weight > rest[k][1]}
    if not total:
        return Verdict(name, "does not apply", detail="no term scores the last token of a segment")
    for token in range(config.vocab_size):
        candidate = {**batch, tokens: batch[tokens].copy()}
        candidate[tokens][row, at] = token
        found = sums(candidate)
        for k in total:
            total[k] += float(np.exp(rest[k][0] - found[k][0]))
    term = max(total, key=lambda k: abs(total[k] - 1))
    detail = f"{term}: probabilities of token {at} of row {row} sum to {total[term]:.4f}"
    return verdict(name, abs(total[term] - 1), 1e-3, detail)


def corrupts_as_claimed(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Chi-square of every claimed rate over 64 steps; the figure is -log10 of the smallest p-value."""
    name = "corrupts as claimed"
    if not corrupts(objective):
        return Verdict(name, "does not apply", detail="reads the tokens as they are")
    found = [corruption(objective, config, batch, jax.random.fold_in(step_key(), i)) for i in range(64)]
    counts = jax.tree.map(lambda *xs: np.sum(xs, axis=0), *(claims for _, claims in found))
    if not counts:
        changed = any(differs_from(batch, read) for read, _ in found)
        return Verdict(name, "fails" if changed else "does not apply", detail="corruption_claims() is empty")
    return verdict(name, *least_likely(counts))


def makes_examples_as_claimed(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Chi-square of every claim about 256 made rows; equal arguments must make equal rows."""
    name = "makes examples as claimed"
    maker = objective.row_maker()
    if maker is None:
        return Verdict(name, "does not apply", detail="reads packed rows")
    docs = Documents(alphabets=True)
    rows = [maker.make_example(docs, i, np.random.default_rng(i)) for i in range(256)]
    for i in range(8):
        again = maker.make_example(docs, i, np.random.default_rng(i))
        differing = [k for k in rows[i] if not np.array_equal(rows[i][k], again[k])]
        if differing:
            return Verdict(
                name, "fails", detail=f"example {i} made twice from equal arguments differs in {differing}"
            )
    counts = objective.claims().example_claims(docs, rows)
    if not counts:
        return Verdict(name, "holds", detail="equal arguments make equal rows; example_claims() is empty")
    return verdict(name, *least_likely(counts))


def examples_draw_apart(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Copies of the fullest row under other example ids are corrupted differently."""
    name = "examples draw apart"
    if not corrupts(objective):
        return Verdict(name, "does not apply", detail="reads the tokens as they are")
    full = int(np.argmax((batch["segment_ids"] > 0).sum(axis=1)))
    rows = len(batch["example_ids"])
    copies = {k: np.stack([v[full]] * rows) for k, v in batch.items()}
    found = []
    for first in range(0, 8, rows):
        copies["example_ids"] = np.arange(first, first + rows, dtype=np.int32) * 3 + 1
        found.append(corruption(objective, config, copies, step_key())[0])
    if not differs_from(copies, found[-1]):
        return Verdict(name, "does not apply", detail="nothing was corrupted")
    # Of each row all arrays end to end, without what was given.
    read = [
        np.concatenate([x[k].reshape(rows, -1) for k in sorted(x) if k != "example_ids"], 1) for x in found
    ]
    read_RX = np.concatenate(read)
    same = len(read_RX) - len(np.unique(read_RX, axis=0))
    return verdict(name, same, 2, f"{len(read_RX) - same} different corruptions of {len(read_RX)} equal rows")


def one_batch_can_be_learned(
    objective: Objective, config: TextConfig, batch: HostBatch, steps: int = 120
) -> Verdict:
    """Adam on one fixed batch at least halves every term.

    A companion of random parameters knows no answers: terms that follow it contradict the others, so each is learned alone.
    """
    network = network_of(objective, config)
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for only in objective.coefficients() if objective.companions else (None,):
        params, moments = fresh(network), None
        for step in range(1, steps + 1):
            out, grads = jax.device_get(evaluate(objective, network, params, batch, only))
            learned = {k: v for k, v in out.terms.items() if only in (None, k)}
            found = {k: float(loss / weight) for k, (loss, weight) in learned.items()}
            before, after = {**found, **before}, {**after, **found}
            params, moments = adam(params, grads, moments, step)
    shares = [after[k] / before[k] for k in before]
    detail = ", ".join(f"{k} {before[k]:.3f} -> {after[k]:.3f}" for k in before)
    return verdict("one batch can be learned", float(np.max(shares)), 0.5, detail)


PROPERTIES: tuple[Property, ...] = (
    declares_its_terms,
    adds_over_any_split,
    padding_is_deleting,
    neighbours_are_isolated,
    order_of_rows_is_irrelevant,
    weights_know_no_parameters,
    weights_are_respected,
    nothing_scored_is_zero,
    penalties_know_parameters_only,
    starts_at_its_closed_form,
    gradients_are_finite,
    causal_loss_sees_no_future,
    predictions_are_probabilities,
    corrupts_as_claimed,
    examples_draw_apart,
    makes_examples_as_claimed,
    one_batch_can_be_learned,
)


LOCAL: tuple[Property, ...] = (
    adds_over_any_split,
    padding_is_deleting,
    neighbours_are_isolated,
    order_of_rows_is_irrelevant,
    weights_are_respected,
)
"""Those that fail on some rows of a batch and not on others, so that a smaller failing batch can be looked for."""
