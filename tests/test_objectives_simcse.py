"""SimCSE takes no text for a negative of itself, and a batch of one text is refused at the first step."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from objectives.examples import in_small_rows, small_config
from objectives.measuring import evaluate, fresh, network_of
from objectives.simcse import SimCSE
from tests.tiny import ROWS, RaggedStream, encoder, parts, settings
from train.loop import run
from train.metrics import refuse_no_gradient


def packed(texts):
    """One text a row, in rows of 8."""
    batch = {name: np.zeros((len(texts), 8), np.int32) for name in ("tokens", "segment_ids", "positions")}
    for row, text in enumerate(texts):
        batch["tokens"][row, : len(text)], batch["segment_ids"][row, : len(text)] = text, 1
        batch["positions"][row] = np.arange(8)
    return {**batch, "example_ids": np.arange(len(texts), dtype=np.int32)}


def test_a_text_that_is_in_the_batch_twice_is_no_negative_of_itself():
    objective = in_small_rows(SimCSE(pooling="mean"))
    network = network_of(objective, small_config(objective))
    params = fresh(network)

    def loss(*texts):
        out, _ = evaluate(objective, network, params, packed(texts))
        return float(out.terms["nll"][0] / out.terms["nll"][1])

    one, other, longer = (2, 9, 8, 3), (2, 8, 9, 3), (2, 9, 8, 3, 3)
    # Fresh states are all alike, so that a text costs the logarithm of what it is compared with.
    assert loss(one, other) == pytest.approx(math.log(2), rel=1e-2)
    assert loss(one, one, other) == pytest.approx((2 * math.log(2) + math.log(3)) / 3, rel=1e-2)
    assert loss(one, one, one, one) == 0.0
    # One token more makes another text.
    assert loss(one, longer) > 0.5


def test_a_loss_without_a_gradient_is_found_at_the_first_step(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class OneText(RaggedStream):
        def batch(self, step, rows=None):
            batch = super().batch(step, rows)
            first = np.arange(len(batch["tokens"])) == 0
            return {**batch, "segment_ids": (batch["segment_ids"] == 1) * first[:, None].astype(np.int32)}

    objective = SimCSE(pooling="mean").for_rows(ROWS)
    one_text = parts(objective, stream=OneText(), config=encoder(dropout=0.1))
    with pytest.raises(
        ValueError, match=r"step 0: the loss is 0 over 1 of 'nll', but has no gradient.*batch_size"
    ):
        run(settings(), one_text, tmp_path)


def test_a_step_that_scores_nothing_is_no_mistake():
    sums = {"loss": (0.0, 1.0), "grad_norm": (0.0, 1.0), "nll": (0.0, 0.0)}
    refuse_no_gradient(0, sums, ["nll"])
    refuse_no_gradient(1, {**sums, "nll": (0.0, 4.0)}, ["nll"])
    with pytest.raises(ValueError, match="4 of 'nll'"):
        refuse_no_gradient(0, {**sums, "nll": (jax.numpy.zeros(()), 4.0)}, ["nll"])
