"""Hand-off end to end: a tiny pretrained run, fine-tuned on toy data, scored, asked and mishandled."""

import csv
import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from finetune import evaluate
from finetune.__main__ import main
from finetune.adapters.frozen import Frozen
from finetune.adapters.lora import LoRA
from finetune.build import build, fine_tune
from finetune.predict import Arguments as PredictArguments
from finetune.predict import answer, load, predict
from finetune.tasks.base import Columns
from finetune.tasks.text_classification import TextClassification
from finetune.tasks.token_classification import entity_scores
from tests.tuned import BAD, GOOD, settings, write_csv
from train.checkpoint import flat, load_params
from train.cli import one_line_errors
from train.describe import read_json
from train.metrics import read_rows
from train.restore import open_run


def test_fine_tuning_learns_and_is_scored_the_same_everywhere(sentiment, tables):
    folder, result = sentiment
    assert result.step == 40 and result.best_value > 0.9, "chance is 0.5"
    row = next(
        r for r in read_rows(folder / "metrics.jsonl") if r["step"] == result.best_step and "eval/nll" in r
    )
    scores = evaluate.score(folder, f"{tables}/eval.csv")
    assert scores["accuracy"] == pytest.approx(result.best_value) == pytest.approx(row["eval/accuracy"])
    assert scores["nll"] == pytest.approx(row["eval/nll"], rel=1e-4) and scores["examples"] == 40
    assert row["train_sample/accuracy"] > 0.9
    assert read_json(folder / "config.json")["learned"] == ["bad", "good"]


def test_predictions_are_those_that_were_scored(sentiment, tables):
    folder, _ = sentiment
    with open(f"{tables}/test.csv") as file:
        records = list(csv.DictReader(file))
    model = load(folder)
    predictions = predict(model, [r["text"] for r in records], batch_size=3)
    right = np.mean([p.label == r["label"] for p, r in zip(predictions, records, strict=True)])
    assert right == pytest.approx(evaluate.score(model, f"{tables}/test.csv")["accuracy"])
    for prediction in predictions:
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.get)
    alone = predict(model, [records[5]["text"]])[0]
    assert alone.probabilities["good"] == pytest.approx(predictions[5].probabilities["good"], abs=1e-5)
    assert {p.label for p in predictions} == {"bad", "good"}


def test_lines_stream_through_in_chunks(sentiment):
    folder, _ = sentiment
    texts = [f"film {GOOD[i % 5] if i % 2 else BAD[i % 5]} story" for i in range(7)]
    whole, parts = io.StringIO(), io.StringIO()
    answer(PredictArguments(run=folder), [t + "\n" for t in texts], whole)
    answer(PredictArguments(run=folder, format="jsonl", chunk=2), iter(texts), parts)
    lines = [json.loads(line) for line in parts.getvalue().splitlines()]
    assert [line["label"] for line in lines] == whole.getvalue().splitlines()
    assert len(lines) == 7 and lines[0]["probabilities"].keys() == {"bad", "good"}
    # A tab is white space where there are no pairs, and a line without a text is answered, too.
    odd = io.StringIO()
    answer(PredictArguments(run=folder), ["fine\n", "fine\tfilm\n", "\n"], odd)
    assert len(odd.getvalue().splitlines()) == 3
    with pytest.raises(ValueError, match="line 2 has 3 tab-separated fields.*pairs of texts"):
        TextClassification().parse("a\tb\tc", Columns(text="a", text_pair="b", label="c"), "line 2")


def test_words_are_labelled_and_entities_scored(pretrained, tables, tmp_path):
    experiment = settings(pretrained, tables, "jsonl", steps=60)
    result = fine_tune(experiment, tmp_path / "run", quiet=True)
    scores = evaluate.score(tmp_path / "run", f"{tables}/test.jsonl")
    assert result.best_value > 0.8 and scores["f1"] > 0.5
    model = load(tmp_path / "run")
    records = [json.loads(line) for line in open(f"{tables}/test.jsonl")]
    predictions = predict(model, [r["tokens"] for r in records])
    pairs = [
        pair
        for p, r in zip(predictions, records, strict=True)
        for pair in zip(p.labels, r["tags"], strict=True)
    ]
    assert np.mean([a == b for a, b in pairs]) == pytest.approx(scores["accuracy"])
    out = io.StringIO()
    answer(PredictArguments(run=tmp_path / "run"), ["anna film\n", "\n", "film " * 40], out)
    first, empty, long = out.getvalue().split("\n")[:3]
    assert len(first.split()) == 2 and empty == ""
    assert len(long.split()) == 40 and long.split()[-1] == "?", "words beyond the row are marked, not dropped"


@pytest.mark.parametrize(
    ("adapter", "moved"), [(Frozen(layers=1), [False, True]), (LoRA(rank=2), [True, True])]
)
def test_frozen_parameters_keep_every_bit(pretrained, tables, tmp_path, adapter, moved):
    experiment = settings(pretrained, tables, steps=4, eval_every=4, adapter=adapter)
    fine_tune(experiment, tmp_path / "run", quiet=True)
    before = flat(open_run(pretrained).params)
    frozen = flat(load_params(tmp_path / "run" / "checkpoints", 4)["frozen"])
    assert frozen
    for path, leaf in frozen.items():
        expected = before[path] if leaf.shape == before[path].shape else before[path][:1]
        np.testing.assert_array_equal(leaf, expected, err_msg="/".join(path))
    after = flat(open_run(tmp_path / "run").params)
    query = ("backbone", "layers", "attention", "query", "kernel")
    assert np.any(after[query] != before[query], axis=(1, 2, 3)).tolist() == moved
    if isinstance(adapter, Frozen):
        assert set(frozen) & set(flat(load_params(tmp_path / "run" / "checkpoints", 4)["trainable"])), (
            "layer 2"
        )
    assert np.isfinite(evaluate.score(tmp_path / "run", f"{tables}/test.csv")["nll"])


# -- building


def test_both_arms_start_with_the_same_heads(pretrained, tables):
    restored = build(settings(pretrained, tables, seed=3))
    fresh = build(settings(pretrained, tables, seed=3, init_parameters="fresh"))
    assert fresh.parts.initial is None and {e.status for e in fresh.passport.entries} == {"re-initialised"}
    drawn = flat(fresh.parts.network.init(jax.random.split(jax.random.key(3), 3)[0]))
    given = flat(restored.parts.initial)
    for path, leaf in drawn.items():
        if path[0] == "heads":
            np.testing.assert_array_equal(leaf, given[path])
    tokens = ("backbone", "embed", "tokens")
    assert np.all(given[tokens] != drawn[tokens])


def test_labels_draw_a_nested_subset_but_classes_come_from_all(pretrained, tables):
    def texts(built):
        rows, found = built.parts.stream.batch(0), set()
        for row, segments in zip(rows["tokens"], rows["segment_ids"], strict=True):
            found |= {tuple(row[segments == i]) for i in range(1, segments.max() + 1)}
        return found

    def drawn(labels):
        data = {"labels": labels, "max_segments": 1}
        return texts(build(settings(pretrained, tables, batch_size=32, data=data)))

    few, more = drawn(3), drawn(12)
    assert few < more and 3 >= len(few) and 8 < len(more) <= 12
    built = build(settings(pretrained, tables, data={"labels": 1}))
    assert built.learned == ("bad", "good")


def test_epochs_set_the_steps(pretrained, tables):
    built = build(settings(pretrained, tables, steps=0, epochs=3.0, data={"max_segments": 1}))
    assert built.experiment.steps == 3 * 120 / 8
    assert built.description["experiment"]["steps"] == 45


def test_pairs_carry_type_ids(pretrained, tmp_path, tables):
    rows = [("fine film", "dull plot", "0"), ("warm story", "great scene", "1")] * 8
    table = write_csv(tmp_path / "pairs.csv", rows, ("a", "b", "label"))
    data = {"train": table, "eval": table, "text": "a", "text_pair": "b"}
    batch = build(settings(pretrained, tables, data=data)).parts.stream.batch(0)
    assert batch["type_ids"].max() == 1 and (batch["type_ids"] <= (batch["segment_ids"] > 0)).all()


# -- the command line


@pytest.fixture
def config_file(pretrained, tables, tmp_path):
    """A config file whose experiment is the `sentiment` fixture's, so that nothing compiles twice."""
    path = tmp_path / "config.py"
    path.write_text(
        "from tests.tuned import settings\n\n\n"
        f"def config():\n    return settings({str(pretrained)!r}, {str(tables)!r})\n"
    )
    return str(path)


def test_the_command_trains_scores_and_does_not_repeat_itself(config_file, tables, tmp_path, capsys):
    arguments = [config_file, "--workdir", f"{tmp_path}/run", "--data.test", f"{tables}/test.csv"]
    assert one_line_errors(main, arguments) == 0
    first = capsys.readouterr()
    for word in ("train_sample/accuracy", "eval/accuracy", "test/accuracy", "seconds"):
        assert word in first.out
    assert "re-initialised" in first.err and "packed 120 examples" in first.err
    passport = read_json(tmp_path / "run" / "passport.json")
    assert {e["status"] for e in passport["entries"]} == {"restored", "re-initialised", "dropped"}
    rows = len(read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert one_line_errors(main, arguments) == 0
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == rows, "a finished run is left as it is"
    assert one_line_errors(main, [*arguments, "--seed", "5"]) == 2
    assert "another experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--init", "/nowhere"], ("no run folder", "/nowhere")),
        (["--init", ""], ("--init",)),
        (["--data.train", "/nowhere.csv"], ("/nowhere.csv",)),
        (["--data.length", "64"], ("64", "32")),
        (["--batch-size", "12"], ("12", "8")),
        (["--data.labels", "500"], ("500", "120")),
        (["--data.text", "body"], ("body", "'text', 'label'")),
        (["--best", "eval/acuracy"], ("eval/acuracy", "eval/accuracy")),
        (["--reuse-heads", "nsp"], ("nsp", "pooler")),
        (["adapter:lora", "--adapter.rank", "99"], ("99", "16 x 16")),
        (["launcher:mesh", "--launcher.fsdp", "3"], ("fsdp=3", "8")),
    ],
)
def test_each_mistake_is_one_line(config_file, tmp_path, capsys, overrides, words):
    assert one_line_errors(main, [config_file, "--workdir", f"{tmp_path}/run", *overrides]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "run").exists(), "nothing is written before all checks have passed"


@pytest.mark.parametrize(
    ("train", "evaluated", "words"),
    [
        ([("a", "x"), ("b", "x")], [("a", "x")], ("'x'", "nothing to learn")),
        ([("a", "x"), ("b", "y")], [("a", "z")], ("eval.csv", "record 1", "'z'", "x, y")),
        ([("a", "x"), ("b", "")], [("a", "x")], ("train.csv", "record 2")),
    ],
)
def test_labels_that_cannot_work_are_named(config_file, tmp_path, capsys, train, evaluated, words):
    files = [write_csv(tmp_path / "train.csv", train), write_csv(tmp_path / "eval.csv", evaluated)]
    flags = ["--data.train", files[0], "--data.eval", files[1], "--workdir", f"{tmp_path}/run"]
    assert one_line_errors(main, [config_file, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_a_typo_is_answered_with_what_was_meant(config_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([config_file, "--workdir", str(tmp_path / "run"), "--data.lenght", "16"])
    assert end.value.code == 2 and "--data.length" in capsys.readouterr().err


def test_a_pretraining_run_cannot_predict(pretrained):
    done = subprocess.run(
        [sys.executable, "-m", "finetune.predict", str(pretrained)],
        input="fine\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "not a fine-tuned run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- entities


def test_entities_count_only_when_type_and_both_ends_agree():
    true = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"], ["O", "O"]]
    found = [["B-PER", "O", "O", "B-ORG", "B-LOC"], ["B-LOC", "I-LOC"]]
    scores = entity_scores(true, found)
    assert scores == {"f1": pytest.approx(2 / 7), "precision": 0.25, "recall": pytest.approx(1 / 3)}
    assert entity_scores([["O"]], [["O"]])["f1"] == 0.0
