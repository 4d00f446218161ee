"""BERT-tiny (L2 H128) that learns masked LM from your text and from a BERT-mini trained before (distillation).

Command:  python -m train configs/bert_mini.py --data.files 'corpus/*.txt' --workdir runs/bert_mini
          python -m train configs/distil_mini.py --data.files 'corpus/*.txt' --workdir runs/distil_mini
Result:   not yet measured.
"""

import dataclasses

from model.bert import bert_tiny
from objectives.distillation import Distillation
from objectives.masked_lm import MaskedLM
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

TEACHER = "runs/bert_mini"


def config() -> Experiment:
    """The experiment; `--companions teacher RUN --data.tokenizer RUN/tokenizer.model` takes another teacher."""
    return Experiment(
        model=dataclasses.replace(bert_tiny(), vocab_size=8192),
        objective=Distillation(base=MaskedLM()),
        data=TextData(length=128, max_segments=8, tokenizer=f"{TEACHER}/tokenizer.model"),
        companions=(("teacher", TEACHER),),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
