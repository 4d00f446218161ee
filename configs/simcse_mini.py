"""A small encoder (L4 D256) that tells sentences apart under two draws of dropout (SimCSE), on your text, on one device.

Command:  python -m train configs/simcse_mini.py --data.files 'corpus/*.txt' --workdir runs/simcse_mini
Result:   not yet measured.
"""

import dataclasses

from model.encoder import encoder_mini
from objectives.simcse import SimCSE
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 128


def config() -> Experiment:
    """From fresh parameters; the loss is over the whole batch, which no launcher and no microbatch may split."""
    return Experiment(
        model=dataclasses.replace(encoder_mini(vocab_size=8192, max_positions=LENGTH), dropout=0.1),
        objective=SimCSE(pooling="mean"),
        data=TextData(length=LENGTH, max_segments=8),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=2000,
        batch_size=32,
    )
