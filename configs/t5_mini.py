"""A small T5 v1.1 (2 + 2 layers of 128) that writes out the spans dropped from its text, on your text.

Command:  python -m train configs/t5_mini.py --data.files 'corpus/*.txt' --workdir runs/t5_mini
Result:   not yet measured.
"""

from model.t5 import T5V11Config
from objectives.span_corruption import SpanCorruption
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """256 input tokens make 58 target tokens; the last 100 ids are sentinels."""
    return Experiment(
        model=T5V11Config(vocab_size=8192, layers=2, width=128, heads=2, mlp_width=512, max_positions=LENGTH),
        objective=SpanCorruption(sentinels=100),
        data=TextData(length=LENGTH),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
