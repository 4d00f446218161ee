"""Count the capitalised words of a text."""

from finetune.experiment import FineTune, ModelChanges
from tests.newcomer.capitals import CountCapitals
from train.launch import Mesh
from train.optimizer import Optimizer


def config():
    """Seconds on a CPU."""
    return FineTune(
        task=CountCapitals(),
        model=ModelChanges(dropout=0.1, attention_dropout=0.0),
        optimizer=Optimizer(learning_rate=1e-2),
        launcher=Mesh(),
        steps=40,
        batch_size=8,
        eval_every=10,
        save_every=20,
    )
