"""The main job at toy size: what it writes, that it is not repeated, and that a stop is no error."""

import csv
import json
import os
import signal

import numpy as np
import pytest

from benchmarks import label_efficiency, objective_comparison
from benchmarks.study import Task
from benchmarks.tasks import optimizer
from finetune.experiment import FineTune
from train import loop
from train.cli import one_line_errors

GOOD, BAD, NEUTRAL = (
    ("fine", "lovely", "great"),
    ("dull", "awful", "weak"),
    ("film", "plot", "actor", "scene", "story"),
)
CONFIG = """
from benchmarks.study import Study, Task
from benchmarks.tasks import optimizer
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.tasks.text_classification import TextClassification
from model.encoder import EncoderConfig
from objectives.masked_lm import MaskedLM
from train.experiment import Experiment
from train.launch import Mesh
from train.optimizer import Optimizer
from train.text import TextData


def config():
    model = EncoderConfig(vocab_size=36, layers=1, width=16, heads=2, mlp_width=32, max_positions=32)
    pretrain = Experiment(
        model=model,
        objective=MaskedLM(),
        data=TextData(files=("{folder}/text.txt",), length=32, max_segments=4, held_out=0.1, eval_rows=8),
        steps=4, batch_size=8, eval_every=2, save_every=2, launcher=Mesh(),
    )
    data = LabelledData(
        train="{folder}/train.csv", eval="{folder}/eval.csv", test="{folder}/test.csv", length=32, max_segments=4,
        train_sample=16,
    )
    tuned = FineTune(
        task=TextClassification(pooling="mean"), data=data, model=ModelChanges(attention_dropout=0.0), batch_size=8,
        launcher=Mesh(),
    )
    task = Task(name="sentiment", finetune=tuned, optimizers=(optimizer(1e-2), optimizer(1e-2, 0.5)), linear=True)
    return Study(pretrain=pretrain, tasks=(task,), labels=(16,), steps=(4,), seeds=(0, 1))
"""


COMPARISON = CONFIG.replace("import Study, Task", "import Comparison, Task").replace(
    "    return Study(pretrain=pretrain, tasks=(task,), labels=(16,), steps=(4,), seeds=(0, 1))",
    """
    t5 = T5V11Config(
        vocab_size=36, layers=1, width=16, heads=2, head_dim=8, mlp_width=32, max_positions=32, unroll=1
    )
    spans = SpanCorruption(sentinels=4)
    text = dataclasses.replace(pretrain.data, sentinels=4)
    arms = (
        ("masked", dataclasses.replace(pretrain, data=text)),
        ("fewer", dataclasses.replace(pretrain, data=text, objective=MaskedLM(masking=Masking(rate=0.1)))),
        ("spans", dataclasses.replace(pretrain, data=text, model=t5, objective=spans)),
    )
    return Comparison(pretraining=arms, tasks=(task,), labels=16, steps=4, seeds=(0,))
""",
)
COMPARISON = (
    "import dataclasses\nfrom model.t5 import T5V11Config\nfrom objectives.masking import Masking\n"
    "from objectives.span_corruption import SpanCorruption\n" + COMPARISON
)


def sentence(rng, kind):
    return " ".join(rng.permutation([*rng.choice(NEUTRAL, 4), *rng.choice((BAD, GOOD)[kind], 2)]))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Arguments of the study, on data of its own and without a shared cache."""
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    texts = [" ".join(sentence(rng, i % 2) for _ in range(3)) for i in range(120)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    for name, count in (("train", 64), ("eval", 24), ("test", 24)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = [(sentence(rng, i % 2), ("neg", "pos")[i % 2]) for i in range(count)]
            csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "toy.py").write_text(CONFIG.replace("{folder}", str(tmp_path)))
    return [str(tmp_path / "toy.py"), "--workdir", str(tmp_path / "study")]


def chosen_by_eval_split(study, row):
    """Whether the row's optimizer is the one whose run scored best on the eval split, of two tried."""
    best = {}
    for run in (study / "runs" / "sentiment" / f"{row['init']}-{row['labels'] or 'all'}").glob("*-seed0"):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        best[run.name] = max(line["eval/accuracy"] for line in lines if "eval/accuracy" in line)
    chosen = f"lr{row['learning_rate']:g}-decay{row['layer_decay']:g}-seed0"
    return len(best) == 2 and best[chosen] == max(best.values()) == row["eval_score"]


def test_the_main_job_writes_its_table_once(command, tmp_path, capsys, monkeypatch):
    label_efficiency.main(command)
    assert "linear" in capsys.readouterr().out
    rows = json.loads((tmp_path / "study" / "results.json").read_text())
    keys = {"task", "init", "labels", "seed", "metric", "score", "steps", "seconds"}
    assert all(keys <= set(row) for row in rows)
    inits = ("scratch", "pretrained", "linear")
    assert {(r["init"], r["labels"], r["seed"]) for r in rows} == {
        (init, 16, seed) for init in inits for seed in (0, 1)
    }
    assert len(rows) == 6 and all(0 <= row["score"] <= 1 for row in rows)
    for row in rows:
        if row["init"] == "scratch":  # it reaches its own best
            assert row["steps"] is not None and row["eval_score"] == max(
                value for _, _, value in row["curve"]
            )
    for row in rows:
        if row["init"] != "linear" and row["seed"] == 0:
            assert chosen_by_eval_split(tmp_path / "study", row)
    report = (tmp_path / "study" / "report.html").read_text()
    assert report.count("<img") == 3 and "sentiment" in report

    # Again: everything is read, nothing trained.
    monkeypatch.setattr(loop._Loop, "_absorb", None)
    label_efficiency.main(command)
    again = json.loads((tmp_path / "study" / "results.json").read_text())
    timeless = [[{k: v for k, v in r.items() if k != "seconds"} for r in some] for some in (rows, again)]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_a_comparison_has_an_arm_from_scratch_for_each_architecture(command, tmp_path, capsys):
    config = tmp_path / "toy.py"
    config.write_text(COMPARISON.replace("{folder}", str(tmp_path)))
    objective_comparison.main(command)
    assert "from scratch, as spans" in capsys.readouterr().out
    rows = json.loads((tmp_path / "study" / "results.json").read_text())
    names = ["from scratch", "masked", "fewer", "from scratch, as spans", "spans"]
    assert [row["objective"] for row in rows] == names
    assert all(0 <= row["score"] <= 1 for row in rows)
    assert [bool(row["pretraining_seconds"]) for row in rows] == ["scratch" not in name for name in names]
    assert (tmp_path / "study" / "objectives.svg").stat().st_size > 1000


@pytest.mark.slow
def test_sigterm_ends_the_study_without_an_error_and_it_goes_on(command, tmp_path, capsys, monkeypatch):
    few, few_and_all = "labels=(16,), steps=(4,)", "labels=(16, 0), steps=(4, 4)"
    config = CONFIG.replace("{folder}", str(tmp_path)).replace(few, few_and_all)
    (tmp_path / "toy.py").write_text(config)
    real = loop._Loop._absorb

    def interrupted(self, window, step, sums, state):
        if self.label.startswith("runs") and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, window, step, sums, state)

    monkeypatch.setattr(loop._Loop, "_absorb", interrupted)
    assert one_line_errors(label_efficiency.main, command) == 0
    assert "stopped by SIGTERM at step" in capsys.readouterr().err
    assert not (tmp_path / "study" / "results.json").exists()
    monkeypatch.setattr(loop._Loop, "_absorb", real)
    assert one_line_errors(label_efficiency.main, command) == 0
    rows = json.loads((tmp_path / "study" / "results.json").read_text())
    assert {row["labels"] for row in rows} == {16, 0}


def test_optimizers_that_would_share_a_folder_are_refused():
    with pytest.raises(ValueError, match=r"must differ in .*\(0.01, 1.0\), \(0.01, 1.0\)"):
        Task(
            name="x",
            finetune=FineTune(batch_size=1),
            optimizers=(optimizer(1e-2), optimizer(1e-2, weight_decay=1.0)),
        )
