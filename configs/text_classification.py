r"""Fine-tune a pretrained run to put texts into classes, here the sentiment of Rotten Tomatoes sentences.

    python -m finetune configs/text_classification.py --init runs/pretrain --workdir runs/sentiment \
        --data.test tfds:rotten_tomatoes:test

Your own tables: --data.train train.csv --data.eval eval.csv, with columns text and label (--data.text and
--data.label name others). Low-rank: append adapter:lora --adapter.rank 8. Sharded parameters: append
launcher:mesh --launcher.fsdp 2.

Result: not yet measured.
"""

from finetune.experiment import FineTune, LabelledData
from finetune.tasks.text_classification import TextClassification
from train.launch import Pmap
from train.optimizer import Optimizer


def config() -> FineTune:
    """5,969 training sentences of about 25 tokens, some 5 to a row of 128."""
    return FineTune(
        task=TextClassification(pooling="mean"),
        data=LabelledData(
            train="tfds:rotten_tomatoes:train",
            eval="tfds:rotten_tomatoes:validation",
            length=128,
        ),
        epochs=6.0,
        batch_size=8,
        optimizer=Optimizer(learning_rate=1e-4, warmup=0.1, b2=0.999, eps=1e-6),
        launcher=Pmap(),
        log_every=50,
        eval_every=100,
        save_every=500,
        patience=8,
    )
