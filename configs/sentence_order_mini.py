"""BERT-mini (L4 H256) that predicts masked tokens and whether two texts were swapped (ALBERT's objective), on your text.

Command:  python -m train configs/sentence_order_mini.py --data.files 'corpus/*.txt' --workdir runs/sentence_order_mini
Result:   not yet measured.
"""

import dataclasses

from model.bert import bert_mini
from objectives.masked_lm import MaskedLM
from objectives.mixture import Mixture
from objectives.sentence_order import SentenceOrder
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData


def config() -> Experiment:
    """The experiment; every field can be overridden on the command line."""
    return Experiment(
        model=dataclasses.replace(bert_mini(), vocab_size=8192),
        objective=Mixture(parts=(("mlm", MaskedLM(), 1.0), ("order", SentenceOrder(), 1.0))),
        data=TextData(length=128, max_segments=4),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
