"""The step-time harness at toy size, with our side only: the peer needs an extra of its own."""

import importlib.util
import json

import pytest

from benchmarks import step_time
from benchmarks.contestant import MASK_ID, SCORED, Size, masked, tokens_BL
from train.cli import one_line_errors

TOY = "--size.layers 1 --size.width 16 --size.heads 2 --size.mlp-width 32 --size.vocab 64 --size.rows 2 --size.length 32"
SHORT = "--rounds 2 --steps 1 --models bert gpt --dtypes fp32 --no-peers"


@pytest.mark.slow
def test_our_side_takes_turns_and_the_report_says_under_which_circumstances(tmp_path):
    step_time.main([*TOY.split(), *SHORT.split(), "--out", str(tmp_path)])
    (file,) = tmp_path.glob("step_time_*.json")
    result = json.loads(file.read_text())
    assert [(r["model"], r["contestant"]) for r in result["rows"]] == [
        ("bert", "ours, gathered"),
        ("bert", "ours, every position"),
        ("gpt", "ours, chunked"),
    ]
    for row in result["rows"]:
        assert len(row["step_seconds_per_round"]) == 2 and row["tokens_per_second"] > 0
        assert row["first_loss"] == pytest.approx(4.16, abs=0.3)  # ln 64
    bert = result["rows"][:2]
    assert bert[0]["first_loss"] == pytest.approx(
        bert[1]["first_loss"], rel=1e-5
    )  # gathering changes no number
    assert bert[0]["ours_times_faster"] == 1.0
    text = file.with_suffix(".md").read_text()
    assert result["command"] in text and f"jax {result['versions']['jax']}" in text


def test_without_torch_one_line_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    assert one_line_errors(step_time.main, ["--models", "bert"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: torch") and "pip install -e '.[bench]'" in line


def test_the_peer_scores_the_same_share_of_positions():
    tokens = tokens_BL(Size(), 3)
    inputs, labels = masked(tokens, 3)
    scored = labels != -100
    assert scored.sum() == Size().rows * round(SCORED * Size().length)
    assert (labels[scored] == tokens[scored]).all() and (inputs[~scored] == tokens[~scored]).all()
    assert 0.7 < (inputs[scored] == MASK_ID).mean() < 0.9
