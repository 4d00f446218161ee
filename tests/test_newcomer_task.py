"""A task that is in none of our files: it trains, answers, is scored, goes on and is exported with no edit elsewhere."""

import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest

import train.describe
from data.stream import Stream
from finetune.__main__ import main
from finetune.convert import export_run
from finetune.evaluate import score
from finetune.predict import Arguments, answer, load, predict
from finetune.published.reading import read
from tests.newcomer.capitals import CountCapitals
from tests.tuned import NAMES, NEUTRAL, write_csv
from train.adapter import FULL
from train.checkpoint import flat, load_params
from train.cli import load_config, parse
from train.describe import read_json
from train.metrics import read_rows
from train.restore import open_run

ROOT = Path(__file__).parent.parent
EXPERIMENT = "tests/newcomer/capitals_experiment.py"


@pytest.fixture(scope="module")
def command(pretrained, tmp_path_factory):
    """The command that fine-tunes a tiny run for it, without --workdir; names are capitalised, nothing else."""
    folder, rng = tmp_path_factory.mktemp("capitals"), np.random.default_rng(0)
    for name, texts in (("train", 96), ("eval", 40)):
        rows = []
        for _ in range(texts):
            words = [*rng.choice([*map(str.title, NAMES), *NEUTRAL], 5)]
            rows.append((" ".join(words), sum(word[0].isupper() for word in words)))
        write_csv(folder / f"{name}.csv", rows)
    tables = [
        "--data.train",
        f"{folder}/train.csv",
        "--data.eval",
        f"{folder}/eval.csv",
        "--data.length",
        "32",
    ]
    return [EXPERIMENT, "--init", str(pretrained), *tables]


@pytest.fixture(scope="module")
def capitals(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("capitals") / "run"
    main([*command, "--workdir", str(folder)])
    return folder


@pytest.fixture
def opens_this_file(monkeypatch):
    """Lets a run folder name types of this file's package."""
    monkeypatch.setattr(train.describe, "ROOMS", (*train.describe.ROOMS, "tests"))


def test_the_command_line_offers_it_with_ours():
    config = load_config(EXPERIMENT, object)
    given = ["--workdir", "w", "task:count-capitals", "--task.decimals", "2"]
    assert parse(config, given, "test")[0].task == CountCapitals(decimals=2)
    given = ["--workdir", "w", "adapter:full", "task:text-classification", "--task.pooling", "cls"]
    experiment, _ = parse(config, given, "test")
    assert experiment.task.pooling == "cls" and experiment.adapter == FULL


def test_it_learns_and_is_scored(capitals, command, opens_this_file):
    stored = read_json(capitals / "config.json")
    mean = stored["learned"]["mean"]
    assert 0 < mean < 5
    assert (stored["experiment"]["best"], stored["experiment"]["best_mode"]) == ("eval/squared_error", "min")
    scores = score(capitals, command[command.index("--data.eval") + 1])
    assert scores.keys() == {"squared_error", "examples", "correlation"} and scores["examples"] == 40
    assert scores["correlation"] > 0.7 and scores["squared_error"] < 0.8, "the variance is 1.1"
    rows = read_rows(capitals / "metrics.jsonl")
    best = min(row["eval/squared_error"] for row in rows if "eval/squared_error" in row)
    assert scores["squared_error"] == pytest.approx(best, rel=1e-4)


def test_it_answers_lines(capitals, opens_this_file):
    texts, form = ["anna film", "film plot scene", "anna peter maria"], {}
    for name in ("text", "jsonl"):
        out = io.StringIO()
        answer(Arguments(run=capitals, format=name, chunk=2), texts, out)
        form[name] = out.getvalue().splitlines()
    counts = [json.loads(line)["count"] for line in form["jsonl"]]
    assert form["text"] == [f"{count:.1f}" for count in counts] and counts[1] < counts[0] < counts[2]
    assert [one.count for one in predict(load(open_run(capitals)), texts)] == pytest.approx(counts, abs=1e-5)
    with pytest.raises(ValueError, match="line 2 is empty"):
        answer(Arguments(run=capitals), ["film\n", "\n"], io.StringIO())


def test_it_goes_on_where_it_was_stopped(capitals, command, tmp_path, monkeypatch, capsys):
    whole_batch = Stream.batch

    def stops(stream, step, rows=None):
        if step == 13:
            signal.raise_signal(signal.SIGTERM)
        return whole_batch(stream, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", stops)
        main([*command, "--workdir", str(tmp_path / "run")])
    assert "stopped by SIGTERM at step 14" in capsys.readouterr().out
    main([*command, "--workdir", str(tmp_path / "run")])
    ours, expected = (
        flat(load_params(folder / "checkpoints", 40)["trainable"]) for folder in (tmp_path / "run", capitals)
    )
    assert ours.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg="/".join(path))


def test_its_backbone_can_be_published(capitals, tmp_path):
    with pytest.raises(ValueError, match="no class of bert has exactly the heads"):
        export_run(capitals, tmp_path / "out")
    assert export_run(capitals, tmp_path / "out", architecture="BertModel")[0] == "BertModel"
    ours, theirs = (
        flat(open_run(capitals).params["backbone"]),
        flat(read(tmp_path / "out").params["backbone"]),
    )
    for path, leaf in ours.items():
        np.testing.assert_array_equal(theirs[path], leaf, err_msg="/".join(path))


def test_nothing_else_names_it():
    own = {Path(__file__), *(ROOT / "tests" / "newcomer").glob("*")}
    files = [path for kind in ("py", "md", "toml") for path in ROOT.rglob(f"*.{kind}") if path not in own]
    rooms = [path for path in files if not path.relative_to(ROOT).parts[0].startswith((".", "runs"))]
    assert len(rooms) > 200
    assert not [path for path in rooms if "capitals" in path.read_text("utf-8").lower()]
