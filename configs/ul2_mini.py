"""A small T5 v1.1 (2 + 2 layers of 128) trained on UL2's seven denoisers, on your text.

Command:  python -m train configs/ul2_mini.py --data.files 'corpus/*.txt' --workdir runs/ul2_mini
Result:   not yet measured.
"""

from model.t5 import T5V11Config
from objectives.ul2 import UL2
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """The last 103 ids are the sentinels and, below them, the tokens for R, S and X."""
    return Experiment(
        model=T5V11Config(vocab_size=8192, layers=2, width=128, heads=2, mlp_width=512, max_positions=LENGTH),
        objective=UL2(sentinels=100, targets_row=LENGTH),
        data=TextData(length=LENGTH),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
