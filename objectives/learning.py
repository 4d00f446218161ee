"""Properties of learning: where terms start, that one batch teaches them, that metrics follow, that states stay apart.

Shape suffixes: B rows, L tokens of a row, N segments of the batch, D model width.
"""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from model.config import TextConfig
from model.network import Params
from objectives.base import LossOut, Objective
from objectives.measuring import (
    Frozen,
    HostBatch,
    adam,
    at_start,
    evaluate,
    fresh,
    frozen,
    gradient_norm,
    network_of,
    thawed,
)
from objectives.probing import trace
from objectives.verdict import Verdict, verdict

STEPS = 120
UNLEARN = 40
"""Steps up the loss after which many answers are wrong."""
AT_FLOOR = 0.05
"""Share of its first gradient at which a term has come to its least."""


def starts_at_its_closed_form(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Fresh parameters give nearly uniform predictions, or what lies within the declared bounds."""
    name = "starts at its closed form"
    expected = objective.claims().initial_loss(config)
    if not expected:
        return Verdict(name, "does not apply", detail="no initial_loss declared")
    ((out, _),) = at_start(objective, config, batch)
    worst, details = 0.0, []
    for term, value in expected.items():
        found = float(out.terms[term][0] / out.terms[term][1])
        if isinstance(value, tuple):
            off = max(0.0, value[0] - found, found - value[1])
            details.append(f"{term} {found:.4f} in {value[0]:.4f} to {value[1]:.4f}")
        else:
            # A term that starts at zero is compared in nats.
            off = abs(found - value) / max(abs(value), 0.1)
            details.append(f"{term} {found:.4f} of {value:.4f}")
        worst = float(np.maximum(worst, off))
    return verdict(name, worst, 0.05, ", ".join(details))


def predictions_are_probabilities(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Over all V tokens that could stand last in a segment, exp(-their loss) sums to one, in every term that scores it.

    It does not if the token is read before it is predicted: then each candidate is scored by another distribution. The rest
    of the loss cancels against the same segment without its last token. Only of terms whose closed form is ln V: others
    (focal, unlikelihood, with a z-loss) are no probabilities.
    """
    name = "predictions are probabilities"
    if objective.family == "encoder":
        return Verdict(name, "does not apply", detail="bidirectional")
    if objective.companions:
        return Verdict(name, "does not apply", detail="its loss knows companions, not only its answers")
    claimed = objective.claims().initial_loss(config)
    plain = {
        k
        for k, v in claimed.items()
        if not isinstance(v, tuple) and abs(v - math.log(config.vocab_size)) < 1e-6
    }
    if not plain:
        return Verdict(name, "does not apply", detail="no term whose closed form is ln V")
    at_one, at_most = _candidates(objective, config, batch, plain, 1.0), {}
    if not at_one:
        return Verdict(name, "does not apply", detail="no such term scores the last token of a segment")
    totals = {k: float(np.sum(np.exp(-nll_V))) for k, nll_V in at_one.items()}
    if any(not abs(total - 1) <= 1e-3 for total in totals.values()):
        at_most = _candidates(objective, config, batch, plain, 1000.0)
        smoothed = [k for k, nll_V in at_most.items() if nll_V.min() > 1.0]
        if smoothed:
            return Verdict(
                name, "does not apply", detail=f"{smoothed[0]}: even the surest answer costs something"
            )
    term = max(totals, key=lambda k: abs(totals[k] - 1))
    return verdict(
        name, abs(totals[term] - 1), 1e-3, f"{term}: probabilities of a last token sum to {totals[term]:.4f}"
    )


def _candidates(
    objective: Objective, config: TextConfig, batch: HostBatch, terms: set[str], sharpness: float
) -> dict[str, np.ndarray]:
    """What each token of the vocabulary would cost as the last one of a segment, [V], in every term that scores it."""
    prefix = "target_" if objective.family == "encoder_decoder" else ""
    tokens, segments = prefix + "tokens", prefix + "segment_ids"
    row = int(np.argmax((batch[segments] > 0).sum(axis=1)))
    at = int(np.flatnonzero(batch[segments][row] == 1)[-1])
    shorter = {**batch, segments: batch[segments].copy()}
    shorter[segments][row, at] = 0
    network = network_of(objective, config)
    params = fresh(network)

    def sums(candidate: HostBatch) -> dict[str, tuple[float, float]]:
        out = jax.device_get(evaluate(objective, network, params, candidate, sharpness=sharpness))[0]
        return {k: (float(out.terms[k][0]), float(out.terms[k][1])) for k in terms}

    rest, whole = sums(shorter), sums(batch)
    scored = [k for k, (_, weight) in whole.items() if weight > rest[k][1]]
    costs: dict[str, list[float]] = {k: [] for k in scored}
    for token in range(config.vocab_size) if scored else ():
        candidate = {**batch, tokens: batch[tokens].copy()}
        candidate[tokens][row, at] = token
        found = sums(candidate)
        for k in scored:
            costs[k].append(found[k][0] - rest[k][0])
    return {k: np.array(v) for k, v in costs.items()}


class Learned(NamedTuple):
    """What many steps on one batch led to."""

    before: dict[str, float]
    """Each term at the start, per weight."""
    after: dict[str, float]
    """At the end."""
    gradients: tuple[float, float]
    """Norms at the start and at the end."""
    params: Params
    out: LossOut


def one_batch_can_be_learned(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Adam on one fixed batch at least halves every term, or brings it to where its gradient ends; none falls below zero.

    Of a term that did not in the sum with the others it is asked alone: a companion of random parameters knows no answers,
    so what follows it contradicts the rest. A term that starts at zero has nothing to learn.
    """
    name = "one batch can be learned"
    premises, kept = objective.claims().premises(), frozen(batch)
    worst, details = 0.0, []
    together = learned(objective, config, kept, None) if not objective.companions else None
    for term in objective.coefficients():
        if term in premises.need_not_fall:
            details.append(f"{term} need not fall")
            continue
        run = together
        if run is None or not run.after[term] <= run.before[term] / 2:
            run = learned(objective, config, kept, term)
        before, after = run.before[term], run.after[term]
        details.append(f"{term} {before:.3f} -> {after:.3f}")
        if min(before, after) < -1e-4 and term not in premises.negative:
            return Verdict(
                name, "fails", min(before, after), detail=f"{details[-1]}: below zero, so its sign is wrong"
            )
        if abs(before) < 1e-5:
            details[-1] += " (starts at zero)"
            continue
        share = after / before if before > 0 else float(after > before - 0.1 * abs(before))
        first, last = run.gradients
        if share > 0.5 and after < 0.97 * before and last < AT_FLOOR * first:
            details[-1] += " (its least)"
            continue
        worst = float(np.maximum(worst, share))
    return verdict(name, worst, 0.5, ", ".join(details))


def accuracy_follows_the_loss(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Every metric called accuracy is near one where the loss was learned, and far from it where it was unlearned."""
    name = "accuracy follows the loss"
    ((start, _),) = at_start(objective, config, batch)
    metrics = [k for k in start.metrics if "accuracy" in k]
    if not metrics:
        return Verdict(name, "does not apply", detail="no metric is called accuracy")
    kept = frozen(batch)
    runs = (
        [learned(objective, config, kept, term) for term in objective.coefficients()]
        if objective.companions
        else [learned(objective, config, kept, None)]
    )
    network = network_of(objective, config)
    worst, details = 0.0, []
    for metric in metrics:
        run = max(runs, key=lambda run: _ratio(run.out.metrics[metric]))
        group = metric.rpartition("/")[0]
        terms = [k for k in start.terms if k.rpartition("/")[0] == group and k in run.after]
        left = max((run.after[k] for k in terms), default=np.inf)
        if left > 0.3:
            continue
        high = _ratio(run.out.metrics[metric])
        params, moments = run.params, None
        for step in range(1, UNLEARN + 1):
            out, grads = jax.device_get(evaluate(objective, network, params, batch))
            if all(_ratio(out.terms[k]) > 3.0 for k in terms):
                break
            params, moments = adam(params, jax.tree.map(np.negative, grads), moments, step)
        if any(_ratio(out.terms[k]) < 3.0 for k in terms):
            continue
        low = _ratio(out.metrics[metric])
        details.append(f"{metric} {high:.2f} when learned, {low:.2f} when unlearned")
        # Every wrong answer costs ln 2 at least.
        worst = float(np.maximum(worst, max(1 - high - left / math.log(2), low - 0.7)))
    if not details:
        return Verdict(
            name,
            "does not apply",
            detail="its terms were not learned to below 0.3 nats, or not unlearned to 3",
        )
    return verdict(name, worst, 0.2, ", ".join(details))


def states_stay_apart(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """After many steps on one batch its segments do not all have the same state."""
    name = "states stay apart"
    network = network_of(objective, config)
    run = learned(objective, config, frozen(batch), None)
    cosines = [
        _cosine(trace(objective, network, params, batch).states, batch)
        for params in (fresh(network), run.params)
    ]
    before, after = cosines
    if np.isnan(after):
        return Verdict(name, "does not apply", detail="no states of two segments")
    detail = f"mean cosine of two segments {before:.3f} -> {after:.3f}"
    return verdict(name, 1.0 if after > 0.995 and after > before else 0.0, 0.0, detail)


def _cosine(states: dict[str, jax.Array], batch: HostBatch) -> float:
    """Mean cosine of the mean states of any two segments, of the last encode."""
    encodes = [x for name, x in states.items() if name.endswith("encode")]
    if not encodes or encodes[-1].shape[:2] != batch["segment_ids"].shape:
        return float("nan")
    means = [
        encodes[-1][row][ids == segment].mean(axis=0)
        for row, ids in enumerate(batch["segment_ids"])
        for segment in np.unique(ids[ids > 0])
    ]
    if len(means) < 2:
        return float("nan")
    unit_ND = np.stack(means) / np.maximum(1e-12, np.linalg.norm(means, axis=1, keepdims=True))
    cosine_NN = unit_ND @ unit_ND.T
    return float(cosine_NN[np.triu_indices(len(means), 1)].mean())


def _ratio(sum_and_weight: tuple[jax.Array, jax.Array]) -> float:
    return float(sum_and_weight[0] / sum_and_weight[1])


@functools.lru_cache(maxsize=4)
def learned(objective: Objective, config: TextConfig, kept: Frozen, only: str | None) -> Learned:
    """Adam on this batch, on all terms with their penalties or on one term."""
    batch, network = thawed(kept), network_of(objective, config)
    params, moments = fresh(network), None
    before: dict[str, float] = {}
    norms = []
    for step in range(1, STEPS + 1):
        out, grads = jax.device_get(evaluate(objective, network, params, batch, only, penalties=only is None))
        if not before:
            before = {k: _ratio(sums) for k, sums in out.terms.items()}
        norms.append(gradient_norm(grads))
        last = params
        params, moments = adam(params, grads, moments, step)
    after = {k: _ratio(sums) for k, sums in out.terms.items()}
    return Learned(before, after, (norms[0], norms[-1]), last, out)
