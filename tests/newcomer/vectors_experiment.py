"""Learn from vectors without labels."""

from tests.newcomer.vectors import HeldBackVector, VectorConfig, VectorData
from train.experiment import Experiment
from train.launch import Mesh
from train.optimizer import Optimizer


def config():
    """Seconds on a CPU."""
    return Experiment(
        model=VectorConfig(width=16, features=4),
        objective=HeldBackVector(),
        data=VectorData(eval_rows=20),
        optimizer=Optimizer(learning_rate=1e-2),
        launcher=Mesh(),
        steps=40,
        batch_size=8,
        log_every=10,
        eval_every=20,
        save_every=20,
    )
