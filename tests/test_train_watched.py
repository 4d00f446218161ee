"""The best checkpoint is the best one: every metric knows its own direction, and something is scored for it."""

import dataclasses
from types import MappingProxyType

import jax
import numpy as np
import pytest

from finetune.experiment import FineTune
from model.network import Network
from objectives import mixture
from objectives.base import LossOut, Objective
from objectives.causal_lm import CausalLM
from objectives.examples import examples, small_batch, small_config
from objectives.token_classification import TokenClassification
from tests.tiny import ROWS, RaggedStream, encoder, masked_lm, parts, settings
from train.adapter import FULL
from train.experiment import Run
from train.loop import run
from train.metrics import read_rows
from train.optimizer import Optimizer
from train.watched import check_evaluations


def settled(objective, batch=None, config=None, **changes):
    config = encoder() if config is None else config
    network = Network(config.build(), tuple(objective.heads(config)))
    sets = {"eval": [RaggedStream().batch(0) if batch is None else batch]}
    return check_evaluations(Run(steps=2, batch_size=16, **changes), network, objective, FULL, sets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watches(Objective):
    """One term that is paid for and one that is paid out, a metric that is named and one that is not, a penalty."""

    metric_modes = MappingProxyType({"errors": "min", "accuracy": "max"})

    def coefficients(self):
        return {"nll": 1.0, "entropy": -0.1}

    def __call__(self, network, batch, rng):
        one = (jax.numpy.ones(()), jax.numpy.ones(()))
        names = ("accuracy", "errors", "length")
        return LossOut({"nll": one, "entropy": one}, dict.fromkeys(names, one), {"far": jax.numpy.ones(())})


@pytest.mark.parametrize(
    ("best", "mode"),
    [("nll", "min"), ("entropy", "max"), ("accuracy", "max"), ("errors", "min"), ("far", "min")],
)
def test_a_metric_knows_its_own_direction_and_a_contradiction_is_refused(best, mode):
    other = "max" if mode == "min" else "min"
    assert settled(Watches(), best=f"eval/{best}").best_mode == mode
    assert settled(Watches(), best=f"eval/{best}", best_mode=mode).best_mode == mode
    with pytest.raises(ValueError, match=f"best_mode is {other}, but of eval/{best} "):
        settled(Watches(), best=f"eval/{best}", best_mode=other)


def test_of_a_metric_that_nobody_speaks_for_the_direction_is_asked():
    with pytest.raises(
        ValueError, match="Watches does not say whether more of it is better: set --best-mode"
    ):
        settled(Watches(), best="eval/length")
    assert settled(Watches(), best="eval/length", best_mode="min").best_mode == "min"
    inside = mixture.Mixture(parts=(("a", Watches(), 1.0),), encode="each")
    assert settled(inside, best="eval/a/errors").best_mode == "min"
    # As older versions stored it.
    assert settled(Watches()).best_mode == "max"


@pytest.mark.slow
def test_every_metric_of_every_objective_here_has_a_direction():
    for name, objective in [*examples(), ("z_loss", CausalLM(z_loss=1e-4))]:
        if objective.companions:
            continue
        config, batch = small_config(objective), small_batch(objective)
        network = Network(config.build(), tuple(objective.heads(config)))
        params = jax.eval_shape(network.init, jax.random.key(0))
        out = jax.eval_shape(
            lambda p, b, n=network, o=objective: o(n.bind(p), b, jax.random.key(0)), params, batch
        )
        missing = set(out.metrics) - set(objective.metric_modes)
        assert not missing, (name, missing)


def test_the_best_mode_of_a_task_is_not_contradicted():
    assert FineTune(batch_size=8).with_metric().best_mode == "max"
    with pytest.raises(
        ValueError, match="best_mode is min, but of accuracy, the metric of TextClassification, more is"
    ):
        FineTune(batch_size=8, best_mode="min").with_metric()


def test_what_is_never_scored_is_found_before_training():
    batch = RaggedStream().batch(0)
    objective = TokenClassification(classes=2).for_rows(ROWS)
    unlabelled = {**batch, "token_labels": np.full_like(batch["tokens"], -1)}
    with pytest.raises(
        ValueError, match="best is 'eval/nll', but in the rows of eval nothing is scored for it"
    ):
        settled(objective, unlabelled, best="eval/nll")
    assert (
        settled(objective, {**batch, "token_labels": np.ones_like(batch["tokens"])}, best="eval/nll").sign
        == -1
    )


def test_the_smallest_loss_is_kept_and_patience_counts_from_it(tmp_path):
    changes = dict(steps=4, eval_every=2, save_every=4, optimizer=Optimizer(learning_rate=0.01), patience=3)
    wanted = settled(masked_lm(), best="eval/nll").best_mode
    result = run(settings(best="eval/nll", best_mode=wanted, **changes), parts(), tmp_path)
    losses = {
        row["step"]: row["eval/nll"] for row in read_rows(tmp_path / "metrics.jsonl") if "eval/nll" in row
    }
    assert result.best_value == min(losses.values()) and result.best_step == min(losses, key=losses.get)
    with pytest.raises(ValueError, match="is not settled yet"):
        settings(best="eval/nll").sign  # noqa: B018
