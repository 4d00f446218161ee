"""BERT-mini (L4 H256) as BERT was pretrained: its vocabulary, its rule for pairs, ten fixed maskings of each, on your text.

Command:  python -m finetune.convert import DIR --to runs/bert     # any published uncased BERT, for its vocabulary
          python -m train configs/bert_published_mini.py --data.files 'corpus/*.txt' --workdir runs/bert_published_mini
Result:   not yet measured.
"""

from model.bert import bert_mini
from objectives.bert import bert
from objectives.bert_next_sentence import BertNextSentence
from objectives.masked_lm import MaskedLM
from train.experiment import Experiment
from train.optimizer import Optimizer
from train.text import TextData

LENGTH, PAIRS = 128, 4
# Ids of the published vocabulary.
CLS, SEP, MASK = 101, 102, 103
FULL_STOP, QUESTION, EXCLAMATION = 1012, 1029, 999


def config() -> Experiment:
    """Another vocabulary (--data.tokenizer) has other ids: the first three are checked, ends of sentences are not."""
    ends = (FULL_STOP, QUESTION, EXCLAMATION)
    return Experiment(
        model=bert_mini(),
        objective=bert(
            MaskedLM(first_ordinary_id=MASK + 1, max_segments=PAIRS, fixed_masks=10),
            BertNextSentence(cls_id=CLS, sep_id=SEP, length=LENGTH, max_segments=PAIRS, sentence_ends=ends),
        ),
        data=TextData(length=LENGTH, max_segments=PAIRS, tokenizer="runs/bert/tokenizer.model"),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, warmup=0.05),
        steps=20_000,
        batch_size=64,
    )
