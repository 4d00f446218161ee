"""A small decoder of Llama's shape (L4 D256) that writes out the spans dropped from a text, in one row, on your text.

Command:  python -m train configs/decoder_spans_mini.py --data.files 'corpus/*.txt' --workdir runs/decoder_spans_mini
Result:   not yet measured.
"""

from model.llama import llama_mini
from objectives.decoder_span_corruption import DecoderSpanCorruption
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 256


def config() -> Experiment:
    """The last 100 ids are the sentinels."""
    return Experiment(
        model=llama_mini(vocab_size=8192, max_positions=LENGTH),
        objective=DecoderSpanCorruption(sentinels=100),
        data=TextData(length=LENGTH),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.1, warmup=0.05),
        steps=20_000,
        batch_size=32,
    )
