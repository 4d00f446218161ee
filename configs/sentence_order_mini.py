"""BERT-mini (L4 H256) that predicts masked tokens and whether two texts were swapped (ALBERT's objective), on your text.

Command:  python -m train configs/sentence_order_mini.py --data.files 'corpus/*.txt' --workdir runs/sentence_order_mini
Result:   not yet measured.
"""

import dataclasses

from data.tokenizer import CLS, MASK, SEP
from model.bert import bert_mini
from objectives.masked_lm import MaskedLM
from objectives.mixture import Mixture
from objectives.sentence_order import SentenceOrder
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH, PAIRS = 128, 4


def config() -> Experiment:
    """The experiment; every field can be overridden on the command line."""
    masked_lm = MaskedLM(max_segments=PAIRS)
    order = SentenceOrder(cls_id=CLS, sep_id=SEP, length=LENGTH, max_segments=PAIRS)
    return Experiment(
        model=dataclasses.replace(bert_mini(), vocab_size=8192),
        objective=Mixture(parts=(("mlm", masked_lm, 1.0), ("order", order, 1.0))),
        data=TextData(length=LENGTH, max_segments=PAIRS),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
