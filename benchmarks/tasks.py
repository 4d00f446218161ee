"""The two downstream tasks that studies share: word labels and sentence labels."""

from benchmarks.study import Task
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.tasks.text_classification import TextClassification
from finetune.tasks.token_classification import TokenClassification
from train.optimizer import Optimizer

LENGTH = 128


def optimizer(learning_rate: float, layer_decay: float = 1.0, weight_decay: float = 0.01) -> Optimizer:
    """AdamW with a tenth of the steps to warm up."""
    return Optimizer(
        learning_rate=learning_rate, layer_decay=layer_decay, weight_decay=weight_decay, warmup=0.1
    )


def pos(optimizers: tuple[Optimizer, ...] = (optimizer(3e-3), optimizer(5e-3)), batch_size: int = 4) -> Task:
    """Part-of-speech tags of CoNLL-2003, one per word; a row packs six or seven sentences."""
    return Task(
        name="pos",
        optimizers=optimizers,
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
            batch_size=batch_size,
        ),
    )


def sentiment(
    optimizers: tuple[Optimizer, ...] = (optimizer(3e-4), optimizer(1e-3)), dropout: float = 0.1
) -> Task:
    """Rotten Tomatoes: is a film reviewer's sentence positive?"""
    return Task(
        name="sentiment",
        optimizers=optimizers,
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
            model=ModelChanges(dropout=dropout, attention_dropout=0.0),
            batch_size=8,
        ),
    )
