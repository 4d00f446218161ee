"""BERT's objective on text whose pairs can be told apart: pages about 439 services, many short pairs.

Command:  python -m train configs/next_sentence.py --workdir runs/next_sentence
Result:   not yet measured.

Why this text: a pair can be judged only by what its two halves share. Of film reviews, at the demo's 66 tokens a pair, word
overlap and topics tell 0.71 of the pairs apart; a page about one service names it. Whether the network learns it here
is open: 200 steps on a busy machine ended at chance. The figures: docs/objectives.md.
"""

import dataclasses

from model.encoder import encoder_tiny
from objectives.bert import bert
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 128


def config() -> Experiment:
    """The demo's network with types, so that the two texts of a pair differ from the first layer on."""
    return Experiment(
        model=dataclasses.replace(encoder_tiny(vocab_size=4096, max_positions=LENGTH), types=2),
        objective=bert(MaskedLM(), NextSentence(shortest_pair=32, longest_pair=64)),
        data=TextData(
            files=("aws_documentation",), length=LENGTH, max_segments=4, held_out=0.05, eval_rows=256
        ),
        # Words that share pages start near each other.
        table="semantic",
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=1200,
        batch_size=16,
        eval_every=100,
        save_every=600,
    )
