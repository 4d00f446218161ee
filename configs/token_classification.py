r"""Fine-tune a pretrained run to label words, here the named entities of CoNLL-2003.

    python -m finetune configs/token_classification.py --init runs/pretrain --workdir runs/ner \
        --data.test tfds:conll2003:test

Your own: --data.train train.conll --data.eval dev.conll --data.label tags (one word a line, its tag last,
a blank line between sentences), or .jsonl with a list of words and a list of tags.

Result: not yet measured.
"""

from finetune.experiment import FineTune, LabelledData
from finetune.tasks.token_classification import TokenClassification
from train.launch import Pmap
from train.optimizer import Optimizer


def config() -> FineTune:
    """14,041 training sentences in IOB2; the final table also gives the F1 of whole entities on the test
    split.
    """
    return FineTune(
        task=TokenClassification(),
        data=LabelledData(
            train="tfds:conll2003:train",
            eval="tfds:conll2003:validation",
            text="tokens",
            label="ner",
            length=128,
        ),
        epochs=5.0,
        batch_size=16,
        optimizer=Optimizer(learning_rate=2e-4, warmup=0.1, b2=0.999, eps=1e-6),
        launcher=Pmap(),
        log_every=50,
        eval_every=200,
        save_every=1000,
    )
