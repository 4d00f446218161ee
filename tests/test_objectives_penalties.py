"""A penalty on the parameters counts once for a step, however the rows are split."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from objectives import masked_lm, properties
from objectives.base import Objective
from objectives.check import verdicts
from objectives.examples import in_small_rows, small_batch, small_config
from objectives.measuring import QUICK, companions_of, fresh, network_of
from objectives.wrapper import Wrapper
from tests.tiny import RaggedStream
from train.adapter import FULL
from train.certificate import certify
from train.launch import Pmap
from train.optimizer import Optimizer
from train.state import create_state
from train.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2SP(Wrapper):
    """Keeps parameters near those of a frozen network (Li et al., arXiv 1802.01483)."""

    own_companions: ClassVar[tuple[str, ...]] = ("anchor",)

    base: Objective
    strength: float = 0.01

    def inner(self):
        return (("", self.base),)

    def score(self, network, hidden_BLD, batch, corrupted):
        out = super().score(network, hidden_BLD, batch, corrupted)
        squares = jax.tree.map(
            lambda p, anchor: jnp.sum((p - anchor) ** 2), network.params, network.companion["anchor"].params
        )
        distance = jnp.sum(jnp.stack(jax.tree.leaves(squares)))
        return out._replace(penalties={**out.penalties, "distance": self.strength * distance})


class GrowsWithItsBatch(L2SP):
    def score(self, network, hidden_BLD, batch, corrupted):
        out = super().score(network, hidden_BLD, batch, corrupted)
        rows = jnp.sum(jnp.any(batch["segment_ids"] > 0, axis=1))
        return out._replace(penalties={k: rows * penalty for k, penalty in out.penalties.items()})


OBJECTIVE = in_small_rows(L2SP(base=masked_lm.example()))
CONFIG, BATCH = small_config(OBJECTIVE), small_batch(OBJECTIVE)


def test_a_penalty_is_sound():
    found = {verdict.name: verdict for verdict in verdicts(OBJECTIVE)}
    assert all(found.values()), "\n".join(str(v) for v in found.values() if not v)
    assert found["penalties know parameters only"].verdict == "holds"


def test_a_penalty_that_depends_on_the_batch_is_caught():
    mutant = in_small_rows(GrowsWithItsBatch(base=masked_lm.example()))
    verdict = properties.penalties_know_parameters_only(mutant, CONFIG, BATCH)
    assert verdict.verdict == "fails" and "distance" in verdict.detail, verdict


def test_every_launcher_and_split_adds_it_once():
    network, batches = network_of(OBJECTIVE, CONFIG), [RaggedStream(batch_size=32).batch(i) for i in range(3)]
    rows = certify(
        network,
        OBJECTIVE,
        batches,
        Optimizer(learning_rate=1e-3),
        ways={"pmap": Pmap()},
        splits=(4,),
        companions=companions_of(network),
    )
    found = list(rows)
    assert [(row.launcher, row.microbatches) for row in found] == [("one device", 4), ("pmap", 4)]
    assert all(row.agrees for row in found), found


def test_without_anything_scored_a_step_moves_towards_the_anchor_as_computed_by_hand():
    network, batch = network_of(OBJECTIVE, CONFIG), RaggedStream().batch(0)
    params, companions = fresh(network), companions_of(network)
    state = create_state(params, jax.random.key(0), tx=optax.sgd(1.0), adapter=FULL)
    step = functools.partial(
        train_step, network=network, objective=OBJECTIVE, adapter=FULL, tx=optax.sgd(1.0)
    )
    rng = jax.random.key(0)
    # A penalty alone: nothing of this batch is scored.
    empty = {**batch, "segment_ids": np.zeros_like(batch["segment_ids"])}
    next_state, sums = jax.jit(step, compiler_options=QUICK)(
        state._replace(companions=companions), empty, rng
    )
    strength = OBJECTIVE.strength
    away = jax.tree.map(lambda p, anchor: np.asarray(p) - np.asarray(anchor), params, companions["anchor"])
    distance = strength * sum(float(np.sum(x**2)) for x in jax.tree.leaves(away))
    assert float(sums["loss"][0]) == float(sums["distance"][0])
    np.testing.assert_allclose(sums["distance"], (distance, 1.0), rtol=1e-5)
    moved = jax.tree.map(lambda p, x: p - 2 * strength * x, params, away)
    for a, b in zip(*map(jax.tree.leaves, (next_state.trainable, moved)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
