"""The honest row: TF-IDF features and a linear model on the same labels and splits as the networks."""

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from data.labelled import SequenceExample, subset
from finetune.build import read_records
from finetune.experiment import FineTune

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse regularisation strengths to choose from on the eval split, as the networks' rates are."""


def linear_baseline(experiment: FineTune, labels: int, seed: int) -> float:
    """Test accuracy of the best linear model, by eval accuracy, on the training labels that a run with `seed` draws."""
    task, data = experiment.task, experiment.data
    splits = {
        name: task.examples(read_records(getattr(data, name), name), data.columns)
        for name in ("train", "eval", "test")
    }
    train: list[SequenceExample] = splits["train"]
    train = subset(train, labels, seed) if labels else train
    held, test = splits["eval"], splits["test"]
    best, best_score = None, -1.0
    for penalty in PENALTIES:
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
            LogisticRegression(C=penalty, max_iter=1000),
        )
        model.fit([e.text for e in train], [e.label for e in train])
        score = model.score([e.text for e in held], [e.label for e in held])
        if score > best_score:
            best, best_score = model, score
    assert best is not None
    return float(best.score([e.text for e in test], [e.label for e in test]))
