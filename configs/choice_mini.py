"""BERT-mini (L4 H256) that predicts single tokens in half of the rows and spans of words in the others, on your text.

Command:  python -m train configs/choice_mini.py --data.files 'corpus/*.txt' --workdir runs/choice_mini
Result:   not yet measured.
"""

import dataclasses

from model.bert import bert_mini
from objectives.choice import Choice
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData


def config() -> Experiment:
    """One objective for each row, drawn anew in every step; the last numbers are their shares."""
    tokens = MaskedLM()
    spans = MaskedLM(masking=Masking(unit="span"))
    return Experiment(
        model=dataclasses.replace(bert_mini(), vocab_size=8192),
        objective=Choice(parts=(("tokens", tokens, 1.0), ("spans", spans, 1.0))),
        data=TextData(length=128, max_segments=8),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
