"""BERT-mini (L4 H256) that tells real tokens from those a small generator put in (ELECTRA), on your text.

Command:  python -m train configs/electra_mini.py --data.files 'corpus/*.txt' --workdir runs/electra_mini
Result:   not yet measured.
"""

import dataclasses

from model.bert import bert_mini
from objectives.replaced_token_detection import ReplacedTokenDetection
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData


def config() -> Experiment:
    """The experiment; the generator is a quarter as wide, and is left behind at the hand-off."""
    return Experiment(
        model=dataclasses.replace(bert_mini(), vocab_size=8192),
        objective=ReplacedTokenDetection(generator_heads=1),
        data=TextData(length=128, max_segments=8),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
