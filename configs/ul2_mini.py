"""A small T5 v1.1 (2 + 2 layers of 128) trained on UL2's seven denoisers, on your text.

Command:  python -m train configs/ul2_mini.py --data.files 'corpus/*.txt' --workdir runs/ul2_mini
Result:   not yet measured.
"""

from data.tokenizer import EOS
from model.t5 import T5V11Config
from objectives.ul2 import UL2
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

VOCABULARY, SENTINELS, LENGTH = 8192, 100, 256


def config() -> Experiment:
    """The last 103 ids are the sentinels and, below them, the tokens for R, S and X."""
    lowest = VOCABULARY - SENTINELS
    return Experiment(
        model=T5V11Config(
            vocab_size=VOCABULARY, layers=2, width=128, heads=2, mlp_width=512, max_positions=LENGTH
        ),
        objective=UL2(
            first_sentinel_id=VOCABULARY - 1,
            sentinels=SENTINELS,
            eos_id=EOS,
            inputs_length=LENGTH,
            targets_row=LENGTH,
            mode_ids=(lowest - 1, lowest - 2, lowest - 3),
        ),
        data=TextData(length=LENGTH, sentinels=SENTINELS + 3),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
