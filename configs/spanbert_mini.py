"""BERT-mini (L4 H256) that predicts spans of whole words, without next sentences (SpanBERT's masking), on your text.

Command:  python -m train configs/spanbert_mini.py --data.files 'corpus/*.txt' --workdir runs/spanbert_mini
Result:   not yet measured.
"""

import dataclasses

from model.bert import bert_mini
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData


def config() -> Experiment:
    """The experiment; `--objective.masking.unit word` masks whole words one by one, `token` single tokens (RoBERTa)."""
    return Experiment(
        model=dataclasses.replace(bert_mini(), vocab_size=8192),
        objective=MaskedLM(masking=Masking(unit="span")),
        data=TextData(length=128, max_segments=8),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
