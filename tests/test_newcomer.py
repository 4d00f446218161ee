"""An objective that is in none of our files: one file and one experiment, checked and trained with no edit elsewhere."""

import numpy as np

import train.__main__ as training
from objectives.check import main as check
from train.metrics import read_rows

FOLDER = "tests/newcomer"


def test_a_newcomers_objective_is_examined():
    assert check([f"{FOLDER}/deletion.py"]) == 0


def test_a_newcomers_objective_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmno"), 4)) for _ in range(400)]
    (tmp_path / "t.txt").write_text("\n\n".join(" ".join(rng.choice(words, 20)) for _ in range(120)))
    run = tmp_path / "run"
    training.main([f"{FOLDER}/bart_mini.py", "--data.files", str(tmp_path / "t.txt"), "--workdir", str(run)])
    losses = [row["eval/nll"] for row in read_rows(run / "metrics.jsonl") if "eval/nll" in row]
    assert len(losses) == 3 and losses[-1] < losses[0]
