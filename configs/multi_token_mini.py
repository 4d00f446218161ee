"""A small GPT (L4 D256) that predicts the next three tokens at once, on your text.

Command:  python -m train configs/multi_token_mini.py --data.files 'corpus/*.txt' --workdir runs/multi_token_mini
Result:   not yet measured.
"""

from model.gpt2 import Gpt2Config
from objectives.multi_token import MultiToken
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """The experiment; the blocks for the second and third token are left behind at the hand-off."""
    return Experiment(
        model=Gpt2Config(
            vocab_size=8192,
            layers=4,
            width=256,
            heads=4,
            mlp_width=1024,
            max_positions=LENGTH,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        objective=MultiToken(ahead=3),
        data=TextData(length=LENGTH, framing="bos_eos"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
