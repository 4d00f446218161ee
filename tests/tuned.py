"""A tiny pretrained run, toy tables and a run fine-tuned on them, which several test files share."""

import csv
import json

import numpy as np
import pytest

from data.documents import Documents
from data.packing import Framing, PackedRows
from data.stream import Stream
from data.tokenizer import train_sentencepiece
from finetune.build import fine_tune
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.tasks.text_classification import TextClassification
from finetune.tasks.token_classification import TokenClassification
from model.bert import BertConfig
from model.network import Network
from objectives.masked_lm import MaskedLM
from train.describe import encode
from train.experiment import Run
from train.launch import Mesh
from train.loop import Parts, run
from train.optimizer import Optimizer
from train.rows import row_shape_of
from train.workdir import claim

GOOD = ("fine", "lovely", "great", "warm", "clever")
BAD = ("dull", "awful", "weak", "cold", "silly")
NEUTRAL = ("film", "plot", "actor", "scene", "music", "story", "ending", "camera")
NAMES = ("anna", "peter", "maria", "oskar")


def sentence(rng, kind):
    words = list(rng.choice(NEUTRAL, rng.integers(2, 7)))
    words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if kind else BAD)))
    return " ".join(words)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A run folder of masked-LM pretraining: two checkpoints, none marked best."""
    folder = tmp_path_factory.mktemp("pretrain")
    rng = np.random.default_rng(0)
    texts = [sentence(rng, i % 2) for i in range(200)] + [" ".join(rng.permutation(NAMES)) for _ in range(20)]
    tokenizer = train_sentencepiece(texts, vocab_size=120, lowercase=True, path=folder / "tokenizer.model")
    docs = Documents.from_tokens([tokenizer.encode(text) for text in texts])
    rows = PackedRows(docs, length=32, framing=Framing.named("cls_sep", tokenizer), max_segments=4)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, layers=2, width=16, heads=2, mlp_width=32, max_positions=32, types=2
    )
    shape = row_shape_of(tokenizer, pieces=120, length=32, max_segments=4, vocab_size=120)
    objective = MaskedLM().for_rows(shape)
    parts = Parts(
        network=Network(config.build(), tuple(objective.heads(config))),
        objective=objective,
        stream=Stream(rows, batch_size=8, seed=0),
        eval_sets={},
    )
    settings = Run(
        steps=4, batch_size=8, save_every=2, launcher=Mesh(), optimizer=Optimizer(learning_rate=3e-3)
    )
    description = {
        "experiment": encode(settings),
        "model": encode(config),
        "objective": encode(objective),
        "rows": encode(shape),
        "adapter": encode(parts.adapter),
    }
    claim(folder / "run", description, tokenizer)
    run(settings, parts, folder / "run")
    return folder / "run"


def write_csv(path, rows, header=("text", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """Sentiment tables and tagged sentences."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(1)
    for name, count in (("train", 120), ("eval", 40), ("test", 40)):
        kinds = rng.integers(0, 2, count)
        write_csv(folder / f"{name}.csv", [(sentence(rng, k), ("bad", "good")[k]) for k in kinds])
        with (folder / f"{name}.jsonl").open("w") as file:
            for _ in range(count):
                words = [str(w) for w in rng.choice([*NAMES, *NEUTRAL], rng.integers(2, 6))]
                tags = ["B-PER" if word in NAMES else "O" for word in words]
                file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return folder


def settings(pretrained, tables, suffix="csv", **changes):
    data = {"train": f"{tables}/train.{suffix}", "eval": f"{tables}/eval.{suffix}", "length": 32}
    if suffix == "jsonl":
        data |= {"text": "tokens", "label": "tags"}
    data |= changes.pop("data", {})
    values = {
        "init": str(pretrained),
        "steps": 40,
        "batch_size": 8,
        "eval_every": 20,
        "save_every": 40,
        "log_every": 20,
        "launcher": Mesh(),
        "optimizer": Optimizer(learning_rate=1e-2),
        "task": TokenClassification() if suffix == "jsonl" else TextClassification(pooling="cls"),
        "data": LabelledData(**data),
        "model": ModelChanges(dropout=0.0, attention_dropout=0.0),
    }
    return FineTune(**{**values, **changes})


@pytest.fixture(scope="session")
def sentiment(pretrained, tables, tmp_path_factory):
    """A fine-tuned run folder and its result."""
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    return folder, fine_tune(settings(pretrained, tables), folder, quiet=True)
