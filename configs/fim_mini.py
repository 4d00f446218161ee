"""A small decoder of Llama's shape (L4 D256) that also learns to fill in the middle of a text, on your text.

Command:  python -m train configs/fim_mini.py --data.files 'corpus/*.txt' --workdir runs/fim_mini
Result:   not yet measured.
"""

from model.llama import llama_mini
from objectives.fill_in_the_middle import FillInTheMiddle
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """The last three ids open prefix, suffix and middle."""
    return Experiment(
        model=llama_mini(vocab_size=8192, max_positions=LENGTH),
        objective=FillInTheMiddle(),
        data=TextData(length=LENGTH),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
