"""Every experiment file builds: its network takes shape, its checks pass, its description survives JSON."""

import dataclasses
from pathlib import Path

import jax
import pytest

from benchmarks import objective_comparison
from benchmarks.study import Comparison, Study
from finetune.experiment import FineTune
from model.network import Network
from train.build import check_model
from train.cli import load_config
from train.describe import decode, encode
from train.experiment import Experiment

FILES = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def told_of_rows(experiment):
    """Its objective; of a tokenizer that another run makes, such rows as one trained here would give."""
    data = dataclasses.replace(experiment.data, tokenizer="")
    return experiment.objective.for_rows(data.row_shape(experiment, None))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_config(file):
    value = load_config(str(file), object)
    assert isinstance(value, Study | Comparison | FineTune | Experiment)
    text = file.read_text()
    assert "python -m " in text and "Result:" in text
    if isinstance(value, FineTune):
        assert decode(encode(value)) == value
        return
    experiments = [value.pretrain] if isinstance(value, Study) else [value]
    if isinstance(value, Comparison):
        objective_comparison.check(value)
        experiments = [experiment for _, experiment in value.pretraining]
    for experiment in experiments:
        assert decode(encode(experiment)) == experiment
        check_model(experiment.model, told_of_rows(experiment))
        network = Network(experiment.model.build(), tuple(experiment.objective.heads(experiment.model)))
        assert jax.eval_shape(network.init, jax.random.key(0))["backbone"]
