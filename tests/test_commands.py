"""The commands of the README on a toy corpus: train, fine-tune, predict; and their mistakes, one line each."""

import csv
import gzip
import io
import json
import sys

import numpy as np
import pytest

import finetune.__main__ as finetuning
import train.__main__ as training
from data.tokenizer import load_tokenizer
from finetune import predict
from train import certificate
from train.cli import one_line_errors
from train.metrics import read_rows

SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "na", "pu", "ra", "se", "ti", "vo", "wa", "zu")
TINY = (
    "--model.vocab-size 100 --model.layers 1 --model.width 16 --model.heads 2 --model.mlp-width 32 "
    "--steps 4 --batch-size 8 --eval-every 2 --save-every 2 --data.held-out 0.1 --data.eval-rows 8"
).split()


def sentences(rng, count):
    words = ["".join(rng.choice(SYLLABLES, 3)) for _ in range(count * 8)]
    return [" ".join(words[i * 8 : (i + 1) * 8]) + "." for i in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """200 documents in two files: plain text, and gzipped records."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    texts = [" ".join(sentences(rng, 12)) for _ in range(200)]
    (folder / "a.txt").write_text("\n\n".join(texts[:100]))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text, "body": text}) + "\n" for text in texts[100:])
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Nothing is prepared in the user's cache; one for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDOFF_CACHE", str(tmp_path_factory.getbasetemp() / "handoff_cache"))
        yield


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    """A run of `python -m train` on both files."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    files = ["--data.files", f"{corpus}/a.txt", f"{corpus}/b.jsonl.gz"]
    training.main(["configs/bert_mini.py", *files, *TINY, "--workdir", str(folder)])
    return folder


def test_pretraining_writes_a_run_folder(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    assert config["corpora"][0]["documents"] == 200 and config["versions"]["jax"]
    rows = read_rows(pretrained / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/mlm/nll" in row] == [2, 4]


def test_spans_of_words_train_on_real_pieces(corpus, tmp_path):
    run = tmp_path / "spans"
    command = ["configs/spanbert_mini.py", "--data.files", f"{corpus}/a.txt", *TINY, "--workdir", str(run)]
    training.main(command)
    losses = [row["eval/nll"] for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row]
    assert len(losses) == 2 and losses[1] < losses[0]
    tokenizer = load_tokenizer(run / "tokenizer.model")
    assert tokenizer.word_starts[tokenizer.encode("badofi kelo mi")].sum() == 3


def test_an_encoder_decoder_trains_on_dropped_spans(corpus, tmp_path):
    run = tmp_path / "t5"
    # 100 pieces and 20 sentinels.
    command = ["configs/t5_mini.py", "--data.files", f"{corpus}/a.txt", *TINY, "--workdir", str(run)]
    own = "--model.vocab-size 120 --data.sentinels 20 --objective.sentinels 20 --objective.first-sentinel-id 119"
    short = "--data.length 64 --objective.inputs-length 64"
    training.main([*command, *own.split(), *short.split()])
    losses = [row["eval/nll"] for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_a_finished_run_is_not_repeated_and_changed_files_are_noticed(pretrained, corpus, tmp_path, capsys):
    files = ["--data.files", f"{corpus}/a.txt", f"{corpus}/b.jsonl.gz"]
    before = (pretrained / "metrics.jsonl").read_text()
    training.main(["configs/bert_mini.py", *files, *TINY, "--workdir", str(pretrained)])
    assert (pretrained / "metrics.jsonl").read_text() == before
    # The same name, the same tokenizer, other texts.
    (tmp_path / "a.txt").write_text((corpus / "a.txt").read_text())
    tokenizer = ["--data.tokenizer", str(pretrained / "tokenizer.model")]
    command = ["configs/bert_mini.py", "--data.files", str(tmp_path / "a.txt"), *tokenizer, *TINY]
    training.main([*command, "--workdir", str(tmp_path / "run")])
    (tmp_path / "a.txt").write_text(
        (corpus / "a.txt").read_text() + "\n\nba do fi gu ke lo mi na pu ra se ti.\n"
    )
    assert one_line_errors(training.main, [*command, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "holds another experiment" in said and "'documents': 101" in said


def test_from_own_text_to_labels_for_new_text(pretrained, tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(1)
    for name, count in (("train", 60), ("eval", 20)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = [(text, "ba" if i % 2 else "do") for i, text in enumerate(sentences(rng, count))]
            csv.writer(file).writerows([("text", "label"), *rows])
    tables = ["--data.train", f"{tmp_path}/train.csv", "--data.eval", f"{tmp_path}/eval.csv"]
    run = ["--init", str(pretrained), "--workdir", str(tmp_path / "run"), "--epochs", "0", "--steps", "2"]
    finetuning.main(["configs/text_classification.py", *run, *tables])
    assert "eval/accuracy" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bado fi\ngu kelo\n")))
    predict.main([str(tmp_path / "run"), "--format", "jsonl"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2
    for answer in answers:
        assert answer["label"] in ("ba", "do") and sum(answer["probabilities"].values()) == pytest.approx(
            1, abs=1e-3
        )


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (training.main, ["configs/bert_mini.py"], "data.files is empty"),
        (
            training.main,
            ["configs/demo.py"],
            "a Study, not a Experiment: use python -m benchmarks.label_efficiency",
        ),
        (
            training.main,
            ["configs/text_classification.py"],
            "a FineTune, not a Experiment: use python -m finetune",
        ),
        (finetuning.main, ["configs/bert_mini.py"], "a Experiment, not a FineTune: use python -m train"),
        (training.main, ["configs/bert_mini.py", "--data.files", "NOWHERE/*.txt"], "no files match"),
        (training.main, ["configs/nothing.py"], "no experiment file configs/nothing.py; there are"),
        (certificate.main, ["configs/demo.py"], "a Study, not a Experiment"),
    ],
)
def test_each_mistake_is_one_line(main, arguments, words, tmp_path, capsys):
    workdir = [] if main is certificate.main else ["--workdir", str(tmp_path / "run")]
    assert one_line_errors(main, [*arguments, *workdir]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "run").exists()


def test_a_metric_that_no_evaluation_gives_is_named_before_training(corpus, tmp_path, capsys):
    files = ["--data.files", f"{corpus}/a.txt", "--best", "eval/f1", "--workdir", str(tmp_path / "run")]
    assert one_line_errors(training.main, ["configs/bert_mini.py", *files, *TINY]) == 2
    assert "best is 'eval/f1', but evaluations give eval/mlm/accuracy" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_name_of_the_text_column_is_an_option(corpus, tmp_path):
    files = ["--data.files", f"{corpus}/b.jsonl.gz", "--data.column", "body"]
    training.main(["configs/bert_mini.py", *files, *TINY, "--workdir", str(tmp_path / "run")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["corpora"][0]["documents"] == 100


def test_corpora_are_mixed_by_weight_and_evaluated_apart(corpus, tmp_path):
    files = ["--data.files", f"{corpus}/a.txt", f"{corpus}/b.jsonl.gz", "--data.weights", "0.8", "0.2"]
    training.main(["configs/bert_mini.py", *files, *TINY, "--workdir", str(tmp_path / "run")])
    last = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"eval_0/mlm/nll", "eval_1/mlm/nll"} <= set(last)


def test_a_gpt_trains_on_the_same_files(corpus, tmp_path, capsys):
    files = ["--data.files", f"{corpus}/a.txt", f"{corpus}/b.jsonl.gz"]
    training.main(["configs/gpt_mini.py", *files, *TINY, "--workdir", str(tmp_path / "run")])
    assert "real tokens" in capsys.readouterr().err  # what packing did
    assert "eval/nll" in read_rows(tmp_path / "run" / "metrics.jsonl")[-1]


def test_steps_and_epochs_are_not_both_taken(pretrained, tmp_path, capsys):
    run = ["--init", str(pretrained), "--workdir", str(tmp_path / "run"), "--steps", "2"]
    assert one_line_errors(finetuning.main, ["configs/text_classification.py", *run]) == 2
    assert "steps is 2 and epochs is 6.0" in capsys.readouterr().err
