"""Inputs that are no text: float vectors pretrain, hand off, are fine-tuned and answered with no edit elsewhere."""

import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import finetune.__main__ as tuning
import finetune.evaluate as evaluating
import train.__main__ as training
from finetune.predict import Arguments, answer, load, predict
from tests.newcomer.vectors import draw_vectors
from train.checkpoint import flat, load_params
from train.cli import one_line_errors
from train.describe import read_json
from train.metrics import read_rows
from train.restore import open_run

ROOT = Path(__file__).parent.parent
PRETRAINING, TASK = "tests/newcomer/vectors_experiment.py", "tests/newcomer/vectors_task.py"

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A run of 40 steps that was pretrained on vectors."""
    folder = tmp_path_factory.mktemp("vectors") / "pretrained"
    training.main([PRETRAINING, "--workdir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Files of lists of numbers with a label."""
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(3)
    for name, count in (("train", 60), ("eval", 21)):
        kinds = rng.integers(0, 2, count)
        lines = [
            json.dumps(
                {"numbers": draw_vectors(rng, 4, kind).ravel().tolist(), "label": ("flat", "tilted")[kind]}
            )
            for kind in kinds
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def tuned(vectors, labelled, tmp_path_factory):
    """The pretrained run, fine-tuned to tell kinds of vectors."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    tables = ["--data.train", f"{labelled}/train.jsonl", "--data.eval", f"{labelled}/eval.jsonl"]
    tuning.main([TASK, "--init", str(vectors), *tables, "--workdir", str(folder)])
    return folder


def test_it_learns_without_labels(vectors):
    rows = [row for row in read_rows(vectors / "metrics.jsonl") if "train/squared_error" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["train/squared_error"] < 0.5 * rows[0]["train/squared_error"]
    scores = [
        row["eval/squared_error"]
        for row in read_rows(vectors / "metrics.jsonl")
        if "eval/squared_error" in row
    ]
    assert len(scores) == 2 and scores[1] < scores[0]


def test_it_goes_on_where_it_was_stopped(vectors, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(vectors, run)
    shutil.rmtree(run / "checkpoints" / "40")
    training.main([PRETRAINING, "--workdir", str(run)])
    assert "resuming from step 20" in capsys.readouterr().err
    whole, resumed = (load_params(folder / "checkpoints", 40) for folder in (vectors, run))
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_its_run_has_no_tokenizer(vectors):
    source = open_run(vectors)
    assert not source.has_tokenizer and not (vectors / "tokenizer.model").exists()
    assert (source.model.features, source.rows.length, source.step) == (4, 6, 40)
    assert source.params["heads"].keys() == {"vector"}


def test_the_backbone_is_handed_off(vectors, tuned):
    entries = read_json(tuned / "passport.json")["entries"]
    fates = {(entry["path"].rpartition("/")[0], entry["status"]) for entry in entries}
    assert fates == {
        ("backbone/read", "restored"),
        ("backbone/mix", "restored"),
        ("heads/class/dense", "re-initialised"),
        ("heads/vector/dense", "dropped"),
    }
    held = flat(open_run(vectors).params["backbone"])
    assert {tuple(entry["shape"]) for entry in entries if entry["status"] == "restored"} == {
        leaf.shape for leaf in held.values()
    }
    assert read_json(tuned / "config.json")["learned"] is not None


def test_it_is_scored(tuned, labelled, capsys):
    evaluating.main([str(tuned), f"{labelled}/eval.jsonl"])
    scores = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert scores.keys() == {"nll", "accuracy", "examples"} and scores["examples"] == "21"
    assert float(scores["accuracy"]) > 0.9
    rows = read_rows(tuned / "metrics.jsonl")
    best = max(row["eval/accuracy"] for row in rows if "eval/accuracy" in row)
    assert float(scores["accuracy"]) == pytest.approx(best, abs=1e-4)


def test_it_answers_lines(tuned):
    rng = np.random.default_rng(8)
    numbers = [draw_vectors(rng, 4, kind).ravel().tolist() for kind in (0, 1, 1, 0, 1)]
    lines, out = [json.dumps(one) + "\n" for one in numbers], io.StringIO()
    answer(Arguments(run=tuned, chunk=2), lines, out)
    assert out.getvalue().split() == ["flat", "tilted", "tilted", "flat", "tilted"]
    assert [one.label for one in predict(load(open_run(tuned)), numbers)] == out.getvalue().split()
    with pytest.raises(ValueError, match="line 2: .* is no list of vectors of 4 numbers"):
        answer(Arguments(run=tuned), [lines[0], "[1, 2, 3]"], io.StringIO())


def test_it_does_not_go_on_from_text_nor_text_from_it(vectors, pretrained, tmp_path, capsys):
    for command, words in (
        (
            ["configs/bert_mini.py", "--data.files", "none.txt", "--init", str(vectors)],
            "TextData makes rows of tokens, but VectorConfig reads none",
        ),
        (
            [PRETRAINING, "--init", str(pretrained)],
            f"init {pretrained} has a BertConfig, the experiment a VectorConfig: choose an experiment of that model",
        ),
    ):
        assert one_line_errors(training.main, [*command, "--workdir", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {words}")
        assert not (tmp_path / "run").exists()


def test_nothing_else_names_it():
    own = {Path(__file__), *(ROOT / "tests" / "newcomer").glob("*")}
    files = [path for kind in ("py", "md", "toml") for path in ROOT.rglob(f"*.{kind}") if path not in own]
    rooms = [path for path in files if not path.relative_to(ROOT).parts[0].startswith((".", "runs"))]
    assert len(rooms) > 200
    names = (
        "newcomer.vectors",
        "newcomer/vectors",
        "VectorConfig",
        "VectorData",
        "HeldBackVector",
        "ClassifyVectors",
    )
    assert not [path for path in rooms if any(name in path.read_text("utf-8") for name in names)]
