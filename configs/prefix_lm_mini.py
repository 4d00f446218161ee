"""A small decoder of Llama's shape (L4 D256) that reads the first part of a text whole and writes the rest, on your text.

Command:  python -m train configs/prefix_lm_mini.py --data.files 'corpus/*.txt' --workdir runs/prefix_lm_mini
Result:   not yet measured.
"""

from model.llama import llama_mini
from objectives.prefix_lm import PrefixLM
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """The experiment; every field can be overridden on the command line."""
    return Experiment(
        model=llama_mini(vocab_size=8192, max_positions=LENGTH),
        objective=PrefixLM(),
        data=TextData(length=LENGTH, framing="bos_eos"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
