"""Fine-tuning on odd tables: which columns are read, what tables share, and how a run is scored on other ones."""

import json

import numpy as np
import pytest

from data.records import DataError
from finetune import evaluate
from finetune.__main__ import main
from finetune.build import build, fine_tune
from finetune.evaluate import score
from finetune.predict import load, predict
from finetune.tables import read_tables
from finetune.tasks.base import Columns
from finetune.tasks.token_classification import TokenClassification
from tests.tuned import settings, write_csv
from train.cli import one_line_errors


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def pairs(count, first=0):
    return [
        {"text": f"film {i}", "text_pair": f"plot {i}", "label": ("bad", "good")[i % 2]}
        for i in range(first, first + count)
    ]


SINGLE = {"text": "warm film", "label": "good"}


@pytest.mark.parametrize(
    ("train", "evaluated", "place"),
    [
        ([SINGLE, *pairs(4)], pairs(2, 9), "train.jsonl: line 1"),
        ([*pairs(4), SINGLE], pairs(2, 9), "train.jsonl: line 5"),
        (pairs(4), [SINGLE, *pairs(2, 9)], "eval.jsonl: line 1"),
        ([SINGLE, {**SINGLE, "label": "bad"}], pairs(2, 9), "train.jsonl: line 1"),
    ],
)
def test_second_texts_are_never_dropped(pretrained, tmp_path, train, evaluated, place):
    files = {
        "train": write_jsonl(tmp_path / "train.jsonl", train),
        "eval": write_jsonl(tmp_path / "eval.jsonl", evaluated),
    }
    with pytest.raises(DataError, match=f"{place}: no column 'text_pair'; found 'text', 'label'"):
        read_tables(settings(pretrained, tmp_path, data=files))


def test_a_pair_is_read_by_its_column(pretrained, tmp_path):
    files = {
        name: write_jsonl(tmp_path / f"{name}.jsonl", pairs(4, i)) for i, name in enumerate(("train", "eval"))
    }
    tables = read_tables(settings(pretrained, tmp_path, data=files))
    assert (
        tables.experiment.data.text_pair == "text_pair" and tables.examples["train"][1].text_pair == "plot 1"
    )
    assert "data.eval: 3 of its 4 different texts are also in data.train" in tables.reports[-1]


def test_what_tables_share_is_said(pretrained, tmp_path):
    rows = [(f"film {i}", ("bad", "good")[i % 2]) for i in range(8)]
    train = write_csv(tmp_path / "train.csv", rows)
    other = write_csv(tmp_path / "eval.csv", [("film 0", "good"), ("film 1", "good"), ("story 9", "bad")])
    new = write_csv(tmp_path / "test.csv", [("music 1", "bad")])
    tables = read_tables(settings(pretrained, tmp_path, data={"train": train, "eval": other, "test": new}))
    assert tables.reports == (
        "classes: 2 in 8 training labels: bad 4, good 4",
        "data.eval: 2 of its 3 different texts are also in data.train, 1 of them with other labels: scores on these say "
        "little of new texts",
    )
    same = read_tables(settings(pretrained, tmp_path, data={"train": train, "eval": train, "test": train}))
    assert same.reports[1:] == tuple(
        f"data.{name}: every text is also in data.{other}: scores on it say little of new texts"
        for name, other in (("eval", "train"), ("test", "train"), ("test", "eval"))
    )


def test_oddities_stand_in_the_log(pretrained, tables, tmp_path):
    rows = [(f"film {i}", ("bad", "Good", "good")[i % 3]) for i in range(8)]
    table = write_csv(tmp_path / "train.csv", rows)
    reports = build(settings(pretrained, tables, data={"train": table, "eval": table})).reports
    assert any(line.startswith("classes: 3 in 8 training labels: ") for line in reports)
    assert any("differ in case or form only: 'Good' (3) and 'good' (2)" in line for line in reports)


def test_a_run_on_single_texts_is_not_scored_on_pairs(sentiment, tmp_path):
    folder, _ = sentiment
    table = write_jsonl(tmp_path / "a.jsonl", pairs(4))
    with pytest.raises(
        ValueError, match="a.jsonl has a second text in 'text_pair', but the run was trained on single"
    ):
        score(folder, table)


def test_columns_of_other_names_can_be_scored(sentiment, tables, tmp_path, capsys):
    folder, _ = sentiment
    rows = [("fine film", "good"), ("dull plot", "bad")]
    own = score(folder, write_csv(tmp_path / "a.csv", rows))
    other = write_csv(tmp_path / "b.csv", rows, ("body", "mood"))
    with pytest.raises(DataError, match="no column 'text'; found 'body', 'mood'"):
        score(folder, other)
    assert score(folder, other, text="body", label="mood") == own
    assert one_line_errors(evaluate.main, [str(folder), other, "--text", "body", "--label", "mood"]) == 0
    assert "examples\t2" in capsys.readouterr().out


def test_word_labels_are_read_from_conll_whatever_the_run_calls_its_columns(pretrained, tables, tmp_path):
    task, found = TokenClassification(), ("tokens", "tags")
    assert task.columns(Columns(text="text", text_pair="", label="label"), found).label == "tags"
    named = Columns(text="words", text_pair="", label="ner")
    assert task.columns(named, ("words", "tokens", "ner", "tags")) == named
    # As an import names them, whose classifier has seen no table.
    conll = "".join(f"anna{i} B-PER\nfilm O\n\n" for i in range(6))
    (tmp_path / "a.conll").write_text(conll)
    data = {"train": f"{tmp_path}/a.conll", "eval": f"{tmp_path}/a.conll", "text": "text", "label": "label"}
    experiment = settings(pretrained, tables, "jsonl", steps=1, eval_every=1, data=data)
    fine_tune(experiment, tmp_path / "run", quiet=True)
    assert score(tmp_path / "run", f"{tmp_path}/a.conll")["examples"] == 6


def test_words_are_parted_by_blanks_alone(sentiment):
    columns = Columns(text="text", text_pair="", label="label")
    assert TokenClassification().parse("10\u00a0000  film\tb ", columns, "") == ["10\u00a0000", "film", "b"]


def test_half_a_surrogate_pair_is_refused_where_one_predicts(sentiment):
    with pytest.raises(DataError, match="text 2 holds .ud83d at character 6"):
        predict(load(sentiment[0]), ["fine", "fine \ud83d"])


def test_a_finished_run_does_not_answer_for_changed_tables(pretrained, tables, tmp_path, capsys):
    rows = list(
        np.random.default_rng(0).permutation([(f"film {w}", w) for w in ("fine", "dull") for _ in range(8)])
    )
    files = [write_csv(tmp_path / f"{name}.csv", rows) for name in ("train", "eval")]
    config = tmp_path / "config.py"
    config.write_text(
        "from tests.tuned import settings\n\n\ndef config():\n"
        f"    return settings({str(pretrained)!r}, {str(tmp_path)!r}, steps=1, eval_every=1)\n"
    )
    command = [str(config), "--workdir", f"{tmp_path}/run"]
    assert one_line_errors(main, command) == 0
    assert "classes: 2 in 16 training labels: " in capsys.readouterr().err
    for file in files:
        text = open(file).read()
        open(file, "w").write(text.replace(",fine", ",x").replace(",dull", ",fine").replace(",x", ",dull"))
    assert one_line_errors(main, command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{tmp_path}/run was made with other inputs: data.eval ({files[1]}) was 16 records" in line
