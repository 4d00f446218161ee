"""Properties of gradients: finite, those of the loss, through all of the backbone, and never clipped away.

Shape suffixes: B rows, L tokens of a row, D model width, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import TextConfig
from model.network import BoundNetwork, Network, Params
from objectives.base import Batch, LossOut, Objective
from objectives.measuring import (
    QUICK,
    HostBatch,
    at_start,
    companions_of,
    corruption,
    evaluate,
    fresh,
    gradient_norm,
    minimised,
    network_of,
    step_key,
)
from objectives.mixture import corrupts
from objectives.probing import Recording, pull, trace
from objectives.verdict import Verdict, verdict

LARGE = 70_000
"""More ids than 16 bits can tell apart."""
FIRM, FIRMER = 1e3, 1e4
"""Factors of the logits at which a wrong answer costs hundreds of nats."""


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
    worst = 0.0
    for key, (loss, weight) in full.terms.items():
        # A term near zero (it begins there) is compared in nats.
        scale = max(abs(float(loss)), 1e-3 * float(weight))
        worst = float(np.maximum(worst, abs(float(half.terms[key][0]) - float(loss)) / scale))
    return verdict(name, worst, 0.05, "bfloat16 against float32 loss")


def gradients_reach_the_backbone(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Every parameter of the backbone that the states depend on gets a gradient, and every term gives the states one."""
    name = "gradients reach the backbone"
    ((out, grads),) = at_start(objective, config, batch)
    network = network_of(objective, config)
    params = fresh(network)
    found = trace(objective, network, params, batch)
    if not found.states:
        return Verdict(name, "does not apply", detail="encodes nothing")
    none = _empty_leaves(grads["backbone"])
    if none:
        reached = jax.device_get(_reach(objective, network, params, companions_of(network), batch))
        lost = sorted(none - _empty_leaves(reached["backbone"]))
        if lost:
            return Verdict(name, "fails", len(lost), detail=f"no gradient reaches {', '.join(lost[:3])}")
    premises, still = objective.claims().premises(), []
    for term in objective.coefficients():
        if term in premises.probes:
            continue
        flow = pull(objective, network, params, found, batch, only=term)
        if all(not np.any(x) for x in flow.values()):
            _, own = evaluate(objective, network, params, batch, only=term)
            # A term that starts at its least (two equal views, without dropout) has no gradient at all.
            still += [term] if gradient_norm(jax.device_get(own)) > 0 else []
    detail = (
        f"{still[0]!r} trains its head alone"
        if still
        else f"{len(jax.tree.leaves(grads['backbone']))} arrays"
    )
    return verdict(name, len(still), 0, detail)


def gradients_are_those_of_the_loss(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """Along random directions the minimised sum changes as its gradient says: nothing was stopped on the way."""
    name = "gradients are those of the loss"
    if objective.claims().premises().stops_gradients:
        return Verdict(name, "does not apply", detail="premises: some gradient is stopped on purpose")
    network = network_of(objective, config)
    params, rng = jax.device_get(fresh(network)), np.random.default_rng(0)
    factors = objective.coefficients()

    def total(moved: Params) -> float:
        out = jax.device_get(evaluate(objective, network, moved, batch, penalties=True))[0]
        return float(
            sum(f * float(out.terms[k][0]) for k, f in factors.items())
            + sum(map(float, out.penalties.values()))
        )

    grads = jax.device_get(evaluate(objective, network, params, batch, penalties=True))[1]
    off = []
    for _ in range(3):
        along = jax.tree.map(
            lambda x: rng.normal(size=x.shape).astype(np.float32) * (0.01 + np.std(x)), params
        )
        products = [
            np.sum(g.astype(np.float64) * a)
            for g, a in zip(*map(jax.tree.leaves, (grads, along)), strict=True)
        ]
        size = float(np.sqrt(np.sum(np.square(products))))
        # So small that the curve is straight, so large that float32 sees it.
        step = 0.02
        there, back = (
            total(jax.tree.map(lambda x, a, s=sign * step: x + np.float32(s) * a, params, along))
            for sign in (1, -1)
        )
        off.append(abs((there - back) / (2 * step) - float(np.sum(products))) / max(size, 1e-6))
    return verdict(
        name, float(np.median(off)), 0.2, "change of the loss along a direction, against its gradient"
    )


def wrong_answers_cost(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """A term with a closed form goes on growing as wrong answers become more certain: no probability is clipped."""
    name = "wrong answers cost"
    bounded = objective.claims().premises().bounded
    terms = [k for k in objective.claims().initial_loss(config) if k not in bounded]
    if not terms:
        return Verdict(
            name, "does not apply", detail="no term with a closed form that is not bounded on purpose"
        )
    network = network_of(objective, config)
    params = fresh(network)
    firm, firmer = (
        jax.device_get(evaluate(objective, network, params, batch, sharpness=s))[0].terms
        for s in (FIRM, FIRMER)
    )
    worst, detail = 0.0, ""
    for term in terms:
        before, after = float(firm[term][0]), float(firmer[term][0])
        if before < float(firm[term][1]):
            # No wrong answer among them.
            continue
        share = abs(before / after) if after else np.inf
        if not share <= worst:
            worst, detail = (
                share,
                f"{term}: {before:.4g} for logits times {FIRM:g}, {after:.4g} for {FIRMER:g}",
            )
    return verdict(name, worst, 0.4, detail)


class Foreign(Recording):
    """Its logits come from a table of its own, as those of a model whose tables are not tied."""

    def __init__(self, bound: BoundNetwork, table_VD: jax.Array):
        super().__init__(bound)
        self._table_VD = table_VD

    @property
    def embedding_VD(self) -> jax.Array:
        """That table."""
        return self._table_VD.astype(self.config.compute_dtype)


def any_vocabulary(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """With 70,000 ids and a table of their own for the logits the closed form holds, and no gradient goes to the other.

    Random tokens come from all of the vocabulary.
    """
    name = "any vocabulary"
    large = dataclasses.replace(config, vocab_size=LARGE)
    small, network = network_of(objective, config), network_of(objective, large)
    params = _enlarged(fresh(small), network)
    batch = {k: _far_up(objective, v) if k.endswith("tokens") else v for k, v in batch.items()}
    table_VD = np.zeros((LARGE, config.width), np.float32)
    companions = {k: _enlarged(v, dict(network.companions)[k]) for k, v in companions_of(small).items()}
    out, (grads, d_table_VD), read = jax.device_get(
        _foreign(objective, network, params, table_VD, companions, batch)
    )
    for term, value in objective.claims().initial_loss(large).items():
        loss = float(out.terms[term][0] / out.terms[term][1])
        least, most = value if isinstance(value, tuple) else (0.95 * value, 1.05 * value)
        if not min(least, most) <= loss <= max(least, most):
            return Verdict(
                name,
                "fails",
                loss,
                detail=f"{term} starts at {loss:.4f} with {LARGE} ids, claimed are {value}",
            )
    known = {
        int(t) for array in (*read, batch["tokens"], batch.get("target_tokens", [])) for t in np.unique(array)
    }
    elsewhere = np.setdiff1d(np.arange(LARGE), list(known))
    stray = np.abs(grads["backbone"]["embed"]["tokens"][elsewhere]).max()
    if stray > 0:
        return Verdict(
            name,
            "fails",
            float(stray),
            detail="logits come from the input table, not from network.embedding_VD",
        )
    size_V = np.abs(d_table_VD).max(axis=1)
    asked = np.flatnonzero(size_V > max(1e-12, 0.1 * size_V.max()))
    if not objective.companions and (others := np.setdiff1d(asked, list(known)).tolist()):
        what = f"the loss asks for the ids {others[:3]}, which are not in the batch: ids were cut off"
        return Verdict(name, "fails", len(others), detail=what)
    if corrupts(objective):
        drawn = _random_tokens(objective, large, batch)
        if len(drawn) >= 10 and drawn.max() < LARGE / 2:
            return Verdict(
                name,
                "fails",
                float(drawn.max()),
                detail=f"no random token of {len(drawn)} is above {drawn.max()}",
            )
    used = "table of the logits used" if np.any(d_table_VD) else "no logits over the vocabulary"
    return verdict(name, 0, 0, f"{LARGE} ids; {used}")


def _far_up(objective: Objective, tokens: np.ndarray) -> np.ndarray:
    """The same tokens with ids of more than 16 bits; special ones and the objective's own stay."""
    ordinary = (tokens >= objective.rows.first_ordinary_id) & (tokens < objective.rows.own_start)
    return np.where(ordinary, tokens + 2**16, tokens).astype(tokens.dtype)


def _random_tokens(objective: Objective, config: TextConfig, batch: HostBatch) -> np.ndarray:
    """Ordinary tokens that were read where the text has others."""
    found = []
    for step in range(24):
        read = np.asarray(
            corruption(objective, config, batch, jax.random.fold_in(step_key(), step))[0]["tokens"]
        )
        if read.shape == batch["tokens"].shape:
            found.append(read[(read != batch["tokens"]) & (read >= objective.rows.first_ordinary_id)])
    return np.concatenate(found) if found else np.zeros(0, np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _foreign(
    objective: Objective,
    network: Network,
    params: Params,
    table_VD: jax.Array,
    companions: dict[str, Params],
    batch: Batch,
) -> tuple[LossOut, tuple[Params, jax.Array], list[jax.Array]]:
    def total(params: Params, table_VD: jax.Array) -> tuple[jax.Array, tuple[LossOut, list[jax.Array]]]:
        bound = Foreign(network.bind(params, None, companions), table_VD)
        out = objective(bound, batch, step_key())
        names = ("tokens", "decoder_tokens")
        read = [x for one in bound.kept.reads.values() for k, x in one.items() if k in names]
        return minimised(out, objective.coefficients()), (out, read)

    (_, (out, read)), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, table_VD)
    return out, grads, read


def _enlarged(params: Params, network: Network) -> Params:
    """The same parameters for a larger vocabulary, repeated as often as it takes: drawing others would be compiled."""
    wanted = jax.eval_shape(network.init, jax.ShapeDtypeStruct((), jax.random.key(0).dtype))

    def grown(x: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.resize(np.asarray(x), like.shape) if x.shape != like.shape else np.asarray(x)

    grown_params: Params = jax.tree.map(grown, jax.device_get(params), wanted)
    return grown_params


def _empty_leaves(grads: Params) -> set[str]:
    """Names of the arrays without any gradient."""
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, x in leaves if not np.any(x)}


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def _reach(
    objective: Objective, network: Network, params: Params, companions: dict[str, Params], batch: Batch
) -> Params:
    """Gradient of an arbitrary sum of all states that the objective makes."""

    def total(params: Params) -> jax.Array:
        recording = Recording(network.bind(params, None, companions))
        objective(recording, batch, step_key())
        there_BL1 = (batch["segment_ids"] > 0)[..., None]
        sums = []
        for name, states_BLD in recording.kept.states.items():
            weights_BLD = jax.random.normal(jax.random.key(3), states_BLD.shape)
            same = states_BLD.shape[:2] == there_BL1.shape[:2]
            sums.append(jnp.sum(states_BLD * weights_BLD * (there_BL1 if same else 1.0)))
            del name
        return jnp.sum(jnp.stack(sums))

    return jax.grad(total)(params)
