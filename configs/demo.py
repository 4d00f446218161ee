"""The main job in minutes: masked LM + next sentences on 25,000 film reviews, handed off to two tasks.

Command:  make demo   (python -m benchmarks.label_efficiency configs/demo.py --workdir runs/demo)
Result:   14.0 minutes from a fresh clone, installation included, on 2 cores of an AMD EPYC (Zen 4), CPU only, Python 3.11,
          jax 0.10.2, 2026-11-22. Test accuracy, mean of 3 seeds, from the checkpoint / from scratch: part of speech 0.782 /
          0.657 at 128 sentences, 0.861 / 0.807 at 1,024; sentiment 0.643 / 0.596 and 0.738 / 0.686 (linear: 0.591 and
          0.692). The whole table: benchmarks/results/demo.md.
"""

from benchmarks.study import Study
from benchmarks.tasks import pos, sentiment
from model.encoder import encoder_tiny
from objectives.bert import bert
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH = 128


def pretraining() -> Experiment:
    """Two layers of 128 with rotary positions: learned ones stay on the unigram plateau for the first 10 M tokens."""
    return Experiment(
        model=encoder_tiny(vocab_size=8192, max_positions=LENGTH),
        objective=bert(MaskedLM(), NextSentence()),
        data=TextData(files=("imdb_reviews_text",), length=LENGTH, max_segments=4, eval_rows=256),
        # A few seconds that give sentiment what a masked LM of this budget does not learn.
        table="semantic",
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=2000,
        batch_size=16,
        eval_every=500,
        save_every=500,
    )


def config() -> Study:
    """Pretraining, and both tasks at 128 and 1,024 labels."""
    return Study(pretrain=pretraining(), tasks=(pos(), sentiment()), labels=(128, 1024), steps=(120, 240))
