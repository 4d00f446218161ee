"""The main job in minutes: masked LM + next sentences on 25,000 film reviews, handed off to two tasks.

Command:  make demo   (python -m benchmarks.label_efficiency configs/demo.py --workdir runs/demo)
Result:   not yet measured.
"""

from benchmarks.study import Study, Task
from data.tokenizer import CLS, MASK, SEP
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.tasks import TextClassification, TokenClassification
from model.encoder import encoder_tiny
from objectives.bert import bert
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from train.experiment import Experiment, TextData
from train.optimizer import Optimizer

LENGTH, PAIRS = 128, 4


def pretraining() -> Experiment:
    """Two layers of 128 with rotary positions: learned ones stay on the unigram plateau for the first 10 M tokens."""
    return Experiment(
        model=encoder_tiny(vocab_size=8192, max_positions=LENGTH),
        objective=bert(
            MaskedLM(mask_id=MASK, max_segments=PAIRS),
            NextSentence(cls_id=CLS, sep_id=SEP, length=LENGTH, max_segments=PAIRS),
        ),
        data=TextData(files=("imdb_reviews_text",), length=LENGTH, max_segments=PAIRS, eval_rows=256),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
        steps=2500,
        batch_size=16,
        eval_every=500,
        save_every=500,
    )


def pos() -> Task:
    """Part-of-speech tags of CoNLL-2003, one per word."""
    return Task(
        name="pos",
        learning_rates=(3e-3, 1e-2),
        finetune=FineTune(
            task=TokenClassification(),
            data=LabelledData(
                train="conll2003:train",
                eval="conll2003:validation",
                test="conll2003:test",
                text="tokens",
                label="pos",
                length=LENGTH,
                max_segments=16,
                eval_sample=512,
                train_sample=128,
            ),
            model=ModelChanges(dropout=0.1, attention_dropout=0.0),
            optimizer=Optimizer(warmup=0.1),
            batch_size=8,
        ),
    )


def sentiment() -> Task:
    """Rotten Tomatoes: is a film reviewer's sentence positive?"""
    return Task(
        name="sentiment",
        learning_rates=(3e-4, 1e-3),
        linear=True,
        finetune=FineTune(
            task=TextClassification(pooling="mean"),
            data=LabelledData(
                train="rotten_tomatoes:train",
                eval="rotten_tomatoes:validation",
                test="rotten_tomatoes:test",
                length=LENGTH,
                max_segments=8,
                train_sample=128,
            ),
            model=ModelChanges(dropout=0.1, attention_dropout=0.0),
            optimizer=Optimizer(warmup=0.1),
            batch_size=8,
        ),
    )


def config() -> Study:
    """Pretraining, and both tasks at 128 and 1,024 labels."""
    return Study(pretrain=pretraining(), tasks=(pos(), sentiment()), labels=(128, 1024), steps=(60, 240))
