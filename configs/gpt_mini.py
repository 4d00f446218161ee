"""A GPT of BERT-mini's size (L4 H256), causal language modelling on your text.

Command:  python -m train configs/gpt_mini.py --data.files 'corpus/*.txt' --workdir runs/gpt_mini
Result:   not yet measured.
"""

from model.gpt2 import Gpt2Config
from objectives.causal_lm import CausalLM
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 128


def config() -> Experiment:
    """The experiment; every field can be overridden on the command line."""
    return Experiment(
        model=Gpt2Config(
            vocab_size=8192,
            layers=4,
            width=256,
            heads=4,
            mlp_width=1024,
            max_positions=LENGTH,
            attention_dropout=0.0,
        ),
        objective=CausalLM(),
        data=TextData(length=LENGTH, framing="bos_eos"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
