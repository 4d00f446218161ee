"""A small encoder (L4 D256) in which each part of a document predicts the words of the others, on your text.

Command:  python -m train configs/neighbour_words_mini.py --data.files 'corpus/*.txt' --workdir runs/neighbour_words_mini
Result:   not yet measured; beside masked LM it makes the study's gain in sentiment (configs/study.py).
"""

from model.encoder import encoder_mini
from objectives.neighbour_words import NeighbourWords
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH, SEGMENTS = 128, 8


def config() -> Experiment:
    """One document a row, in as many parts as it may hold."""
    return Experiment(
        model=encoder_mini(vocab_size=8192, max_positions=LENGTH),
        objective=NeighbourWords(
            segments_per_document=SEGMENTS,
            shortest_document=LENGTH,
            longest_document=LENGTH,
        ),
        data=TextData(length=LENGTH, max_segments=SEGMENTS),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
