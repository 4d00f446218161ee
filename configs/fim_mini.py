"""A small decoder of Llama's shape (L4 D256) that also learns to fill in the middle of a text, on your text.

Command:  python -m train configs/fim_mini.py --data.files 'corpus/*.txt' --workdir runs/fim_mini
Result:   not yet measured.
"""

from data.tokenizer import EOS
from model.llama import llama_mini
from objectives.fill_in_the_middle import FillInTheMiddle
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

VOCABULARY, LENGTH = 8192, 256


def config() -> Experiment:
    """The last three ids open prefix, suffix and middle."""
    marks = (VOCABULARY - 1, VOCABULARY - 2, VOCABULARY - 3)
    return Experiment(
        model=llama_mini(vocab_size=VOCABULARY, max_positions=LENGTH),
        objective=FillInTheMiddle(mark_ids=marks, eos_id=EOS, length=LENGTH),
        data=TextData(length=LENGTH, sentinels=len(marks)),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
