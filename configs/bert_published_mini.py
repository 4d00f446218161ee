"""BERT-mini (L4 H256) as BERT was pretrained: its vocabulary, its rule for pairs, ten fixed maskings of each, on your text.

Command:  python -m finetune.convert import DIR --to runs/bert     # any published uncased BERT, for its vocabulary
          python -m train configs/bert_published_mini.py --data.files 'corpus/*.txt' --workdir runs/bert_published_mini
Result:   not yet measured.
"""

from model.bert import bert_mini
from objectives.bert import bert
from objectives.bert_next_sentence import BertNextSentence
from objectives.masked_lm import MaskedLM
from objectives.masking import Masking
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

# Ids of the published vocabulary.
FULL_STOP, QUESTION, EXCLAMATION = 1012, 1029, 999


def config() -> Experiment:
    """Another vocabulary (--data.tokenizer) has other ids of the ends of sentences, which nobody checks."""
    ends = (FULL_STOP, QUESTION, EXCLAMATION)
    return Experiment(
        model=bert_mini(),
        objective=bert(
            MaskedLM(masking=Masking(fixed_masks=10)),
            BertNextSentence(sentence_ends=ends),
        ),
        data=TextData(length=128, max_segments=4, tokenizer="runs/bert/tokenizer.model"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
