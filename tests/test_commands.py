"""The commands of the README on a toy corpus: train, look, fine-tune, predict; and their mistakes, one line each."""

import csv
import gzip
import io
import json
import math
import shutil
import sys

import numpy as np
import pytest

import finetune.__main__ as finetuning
import train.__main__ as training
from data.tokenizer import load_tokenizer
from finetune import predict, states
from train import certificate, evaluate
from train.checkpoint import flat
from train.cli import one_line_errors
from train.describe import read_json
from train.metrics import read_rows
from train.restore import open_run

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


pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_spans_of_words_train_on_real_pieces(corpus, tmp_path, capsys):
    run = tmp_path / "spans"
    command = ["configs/spanbert_mini.py", "--data.files", f"{corpus}/a.txt", *TINY, "--workdir", str(run)]
    training.main(command)
    assert "real tokens" in capsys.readouterr().err  # what packing did
    losses = [row["eval/nll"] for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row]
    assert len(losses) == 2 and losses[1] < losses[0]
    tokenizer = load_tokenizer(run / "tokenizer.model")
    assert tokenizer.word_starts[tokenizer.encode("badofi kelo mi")].sum() == 3


@pytest.mark.slow
def test_an_encoder_decoder_trains_on_dropped_spans(corpus, tmp_path):
    run = tmp_path / "t5"
    # 100 pieces and 20 sentinels.
    command = ["configs/t5_mini.py", "--data.files", f"{corpus}/a.txt", *TINY, "--workdir", str(run)]
    own = "--model.vocab-size 120 --data.sentinels 20 --objective.sentinels 20"
    short = "--data.length 64"
    training.main([*command, *own.split(), *short.split()])
    losses = [row["eval/nll"] for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row]
    assert len(losses) == 2 and losses[1] < losses[0]

    # Its encoder alone labels texts; the decoder is carried along and not trained.
    table = ["--data.train", f"{tmp_path}/train.csv", "--data.eval", f"{tmp_path}/train.csv"]
    (tmp_path / "train.csv").write_text("text,label\n" + "ba do fi,ba\ngu ke lo,do\n" * 8)
    tuned = ["--init", str(run), "--workdir", str(tmp_path / "tuned"), "--epochs", "0", "--steps", "2"]
    finetuning.main(["configs/text_classification.py", *tuned, *table, "--optimizer.weight-decay", "0"])
    before, after = (flat(open_run(folder).params) for folder in (run, tmp_path / "tuned"))
    moved = {path[1] for path, leaf in before.items() if not np.array_equal(leaf, after[path])}
    kept = {path[1] for path in before} - moved
    assert any("decoder" in name for name in kept), (kept, moved)
    assert moved and not any("decoder" in name for name in moved), (kept, moved)


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
        (certificate.main, ["configs/simcse_mini.py"], "SimCSE is no sum over examples"),
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


@pytest.fixture(scope="module")
def gpt(corpus, tmp_path_factory):
    """A run of `python -m train` with a causal model."""
    folder = tmp_path_factory.mktemp("runs") / "gpt"
    files = ["--data.files", f"{corpus}/a.txt", f"{corpus}/b.jsonl.gz"]
    training.main(["configs/gpt_mini.py", *files, *TINY, "--workdir", str(folder)])
    return folder


def test_a_gpt_trains_on_the_same_files(gpt):
    assert "eval/nll" in read_rows(gpt / "metrics.jsonl")[-1]
    model = states.load(gpt)
    ids = model.tokenizer.encode("badofi kelo")
    framed = [model.tokenizer.bos_id, *ids, model.tokenizer.eos_id]
    assert states.rows(model, ["badofi kelo"])["tokens"][0, : len(framed)].tolist() == framed


def test_steps_and_epochs_are_not_both_taken(pretrained, tmp_path, capsys):
    run = ["--init", str(pretrained), "--workdir", str(tmp_path / "run"), "--steps", "2"]
    assert one_line_errors(finetuning.main, ["configs/text_classification.py", *run]) == 2
    assert "steps is 2 and epochs is 6.0" in capsys.readouterr().err


# Views of a finished run


def numbers(path, name="eval"):
    """{view: {number: (value, weight)}} of a written file."""
    views = read_json(path)["views"][name]
    return {
        view: {one["name"]: (one["value"], one["weight"]) for one in found} for view, found in views.items()
    }


def own_numbers(run):
    last = [row for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row or "eval/mlm/nll" in row][-1]
    return {name.removeprefix("eval/"): value for name, value in last.items() if name.startswith("eval/")}


def assert_own_numbers_again(found, run):
    own = own_numbers(run)
    assert found.keys() == own.keys()
    for name, (value, _) in found.items():
        assert value == pytest.approx(own[name], rel=1e-5), name


def test_a_causal_run_gives_its_own_numbers_again_and_bits_per_byte(gpt, capsys):
    # Another batch size and launcher than in training: sums do not care.
    evaluate.main([str(gpt), "--batch-size", "16"])
    said = capsys.readouterr()
    assert "bits/byte" in said.out and "in-context use" in said.out and "eval: bits_per_byte" in said.err
    found = numbers(gpt / "views.json")
    assert list(found) == ["objective", "bits_per_byte", "per_position"]
    assert_own_numbers_again(found["objective"], gpt)
    (nll, tokens), (bits, size) = found["objective"]["nll"], found["bits_per_byte"]["bits_per_byte"]
    assert bits == pytest.approx(nll * tokens / math.log(2) / size, rel=1e-5)
    positions = [v for name, v in found["per_position"].items() if name.startswith("position")]
    assert sum(weight for _, weight in positions) == tokens
    assert sum(value * weight for value, weight in positions) == pytest.approx(nll * tokens, rel=1e-5)


def test_other_files_are_read_whole_to_the_last_byte(gpt, tmp_path):
    texts = ["badofi kelo mi", "guke lomi napu rase"]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    out = tmp_path / "new.json"
    files = ["--data.files", str(tmp_path / "new.jsonl"), "--data.column", "body", "--out", str(out)]
    evaluate.main([str(gpt), *files, "--views", "bits_per_byte", "launcher:pmap"])
    tokenizer = load_tokenizer(gpt / "tokenizer.model")
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]
    # Each text with the mark before its first word; BOS predicts the first token, EOS has no bytes.
    expected = sum(len(text.encode()) + 1 for text in texts)
    assert numbers(out, "files")["bits_per_byte"]["bits_per_byte"][1] == expected


def test_a_masked_run_gives_masked_accuracy_and_pseudo_perplexity(pretrained, tmp_path):
    out = tmp_path / "views.json"
    checkpoint = open_run(pretrained).checkpoint
    evaluate.main([str(checkpoint), "--views", "objective", "pseudo_log_likelihood", "--out", str(out)])
    found = numbers(out)
    assert_own_numbers_again(found["objective"], pretrained)
    assert 0 <= found["objective"]["mlm/accuracy"][0] <= 1
    pseudo = found["pseudo_log_likelihood"]
    likelihood, segments = pseudo["pseudo_log_likelihood"]
    perplexity, tokens = pseudo["pseudo_perplexity"]
    bits, size = pseudo["pseudo_bits_per_byte"]
    assert tokens > 5 * found["objective"]["mlm/accuracy"][1] and perplexity == pytest.approx(100, rel=0.2)
    assert likelihood * segments == pytest.approx(-math.log(perplexity) * tokens, rel=1e-5)
    assert bits * size == pytest.approx(math.log2(perplexity) * tokens, rel=1e-5)
    assert read_json(out)["checkpoint"] == f"checkpoints/{checkpoint.name}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--views", "pseudo_log_likelihood"],
            "view pseudo_log_likelihood does not apply here: it masks one",
        ),
        (["--views", "per_positon"], "no view 'per_positon'"),
        (["--batch-size", "12"], "batch_size 12 is not divisible by 8 data-parallel devices"),
        (["--data.files", "NOWHERE/*.txt"], "no files match"),
    ],
)
def test_each_mistake_about_views_is_one_line(gpt, arguments, words, tmp_path, capsys):
    out = tmp_path / "views.json"
    assert one_line_errors(evaluate.main, [str(gpt), *arguments, "--out", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and words in said and not out.exists()


def test_a_run_that_cannot_be_read_says_why(gpt, pretrained, corpus, tmp_path, capsys):
    copy = shutil.copytree(gpt, tmp_path / "run")
    (copy / "tokenizer.model").unlink()
    assert one_line_errors(evaluate.main, [str(copy), "--views", "bits_per_byte"]) == 2
    assert "view bits_per_byte does not apply here: it reads token_bytes, which a tokenizer gives" in (
        capsys.readouterr().err
    )
    assert one_line_errors(evaluate.main, [str(pretrained), "--views", "bits_per_byte"]) == 2
    assert "a mixture of MaskedLM and NextSentence" in capsys.readouterr().err
    assert one_line_errors(evaluate.main, ["--views", "objective"]) == 2
    assert "usage: python -m train.evaluate RUN" in capsys.readouterr().err
    before = (corpus / "a.txt").read_text()
    (corpus / "a.txt").write_text(before + "\n\nba do fi gu ke lo mi na pu ra se ti.\n")
    try:
        assert one_line_errors(evaluate.main, [str(gpt)]) == 2
    finally:
        (corpus / "a.txt").write_text(before)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "'documents': 201" in said and "the files have changed" in said
