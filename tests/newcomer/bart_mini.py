"""Token deletion on a small encoder-decoder."""

from model.t5 import T5V11Config
from tests.newcomer.deletion import TokenDeletion
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData


def config():
    """Seconds on a CPU."""
    return Experiment(
        model=T5V11Config(vocab_size=100, layers=1, width=16, heads=2, mlp_width=32),
        objective=TokenDeletion(),
        data=TextData(length=64, held_out=0.1, eval_rows=8),
        optimizer=Optimizer(learning_rate=3e-3),
        steps=30,
        batch_size=8,
        eval_every=10,
        save_every=30,
    )
