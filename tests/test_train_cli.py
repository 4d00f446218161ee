"""The command line of every program: experiment files, help, paths and numbers; what is wrong with them in one line."""

import io
import sys
from pathlib import Path

import pytest

import finetune.__main__ as finetuning
import train.__main__ as training
from benchmarks import label_efficiency, minilm, objective_comparison, step_time
from data import prepare
from finetune import convert, evaluate, predict
from objectives.own_file import load_file
from train import certificate
from train import evaluate as views
from train.cli import load_config, one_line_errors, parse, split_code, take_first
from train.experiment import Experiment
from train.restore import open_run

MINI = "configs/bert_mini.py"
OWN = """
from __future__ import annotations
import dataclasses
from typing import Annotated
import {helper}
from model.ranges import Range
from objectives.base import Objective
from objectives.masked_lm import MaskedLM
from train.experiment import Experiment
from train.text import TextData
from model.bert import bert_mini

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    inner: MaskedLM = MaskedLM()
    share: Annotated[float, Range(above=0, most=1)] = {helper}.SHARE

def config() -> Experiment:
    return Experiment(model=bert_mini(), objective=Mine(), data=TextData(), steps=1, batch_size=8)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Files run here leave nothing behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("experiment_", "beside_of_")):
            del sys.modules[name]


def error_of(main, arguments, capsys):
    assert one_line_errors(main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_an_experiment_file_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_of_mine.py").write_text("SHARE = 0.5\n")
    file = tmp_path / "mine.py"
    file.write_text(OWN.format(helper="beside_of_mine"))
    config = load_config(str(file), Experiment)
    parsed, workdir = parse(config, ["--workdir", "w", "--objective.share", "0.25"], "program")
    assert (parsed.objective.share, workdir) == (0.25, Path("w"))
    with pytest.raises(
        ValueError, match=r"objective: share must be above 0 and at most 1 and finite, got nan"
    ):
        parse(config, ["--workdir", "w", "--objective.share", "nan"], "program")


@pytest.mark.parametrize("room", ["data", "train", "benchmarks", "json"])
def test_no_file_takes_the_place_of_a_module(tmp_path, room):
    before = sys.modules[room]
    (tmp_path / f"{room}.py").write_text("SHARE = 0.5\n")
    file = tmp_path / "mine.py"
    file.write_text(OWN.format(helper=room))
    with pytest.raises(ValueError, match=f"mine.py, line 16: AttributeError: module '{room}'"):
        load_config(str(file), Experiment)
    file.write_text(f"from {room} import SHARE\n")
    with pytest.raises(ValueError, match="mine.py, line 1: ImportError"):
        load_config(str(file), Experiment)
    with pytest.raises(ValueError, match="would take the place of the module"):
        load_file(tmp_path / f"{room}.py", room)
    assert sys.modules[room] is before
    # A file of that name may be the experiment itself.
    (tmp_path / f"{room}.py").write_text("def config():\n    return 3\n")
    assert load_config(str(tmp_path / f"{room}.py"), int) == 3 and sys.modules[room] is before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x = 1\n", "a.txt is no Python file: its name must end in .py"),
        ("a", "x = 1\n", "a is no Python file"),
        ("a.py", "x = 1\n\ndef f(:\n", "a.py, line 3: invalid syntax"),
        ("a.py", "x = 1\n  y = 2\n", "a.py, line 2: unexpected indent"),
        ("a.py", "x = 1\n1 / 0\n", "a.py, line 2: ZeroDivisionError: division by zero"),
        ("a.py", "import not_there_at_all\n", "a.py, line 1: ModuleNotFoundError: No module named"),
        ("a.py", "def config():\n    return {}['x']\n", "a.py, line 2: KeyError: 'x'"),
        ("a.py", "def config(x):\n    return x\n", "TypeError: config() missing 1 required"),
        ("a.py", "config = 3\n", "TypeError: 'int' object is not callable"),
        ("a.py", "x = 1\n", "defines no config() -> Experiment"),
        ("a.py", "raise ValueError('two\\nlines')\n", "a.py, line 1: two lines"),
        (
            "a.py",
            "from train.optimizer import Optimizer\n\ndef config():\n    return Optimizer(b2=1.0)\n",
            "a.py, line 4: optimizer.b2 must be at least 0 and below 1, got 1.0",
        ),
    ],
)
def test_a_file_that_cannot_be_run_is_named_with_its_line(tmp_path, name, text, words, capsys):
    file = tmp_path / name
    file.write_text(text)
    assert words in error_of(training.main, [str(file), "--workdir", str(tmp_path / "w")], capsys)
    # What came to nothing is forgotten.
    assert "raise" not in text or "experiment_a" not in sys.modules


def test_a_mistyped_file_is_met_with_the_nearest(capsys):
    line = error_of(training.main, ["configs/bert_mimi.py"], capsys)
    assert line.startswith("error: no experiment file configs/bert_mimi.py; there are configs/bert_mini.py, ")
    assert line.count("configs/") == 4


PROGRAMS = [training, finetuning, views, certificate, label_efficiency, objective_comparison]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda module: module.__name__)
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--code", "x.py", "--help"]])
def test_help_needs_no_experiment(program, arguments, capsys):
    if arguments[0] == "--code" and program not in (training, finetuning, views):
        return
    with pytest.raises(SystemExit) as end:
        program.main(arguments)
    said = capsys.readouterr()
    assert end.value.code == 0 and said.out.startswith("usage: python -m ") and not said.err
    assert "lists" in said.out
    assert "usage: python -m" in error_of(program.main, ["--workdir", "w"], capsys)


@pytest.mark.parametrize("program", [predict, evaluate, convert, minilm, step_time], ids=lambda m: m.__name__)
def test_help_of_programs_without_experiments(program, capsys):
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == 0 and "usage: python -m" in capsys.readouterr().out


ODD = [
    (training.main, [MINI, "--workdir", ""], "a path is empty"),
    (training.main, [MINI, "--workdir", "gs://bucket/run"], "gs://bucket/run is a remote address"),
    (training.main, [MINI, "--workdir", "w", "--seed", "-1"], "seed must be at least 0 and below 4294967296"),
    (training.main, [MINI, "--workdir", "w", "--seed", str(2**70)], "seed must be at least 0"),
    (training.main, [MINI, "--workdir", "w", "--steps", "0"], "steps must be at least 1"),
    (training.main, [MINI, "--workdir", "w", "--steps", "3000000000"], "steps must be at least 1 and below"),
    (training.main, [MINI, "--workdir", "w", "--optimizer.clip-norm", "nan"], "optimizer.clip_norm must be"),
    (
        training.main,
        [MINI, "--workdir", "w", "--optimizer.learning-rate", "inf"],
        "optimizer.learning_rate must",
    ),
    (training.main, [MINI, "--workdir", "w", "--optimizer.b2", "1.0"], "optimizer.b2 must be at least 0 and"),
    (training.main, [MINI, "--workdir", "w", "--model.heads", "0"], "heads must be at least 1, got 0"),
    (training.main, [MINI, "--workdir", "w", "--data.held-out", "nan"], "data.held_out must be above 0"),
    (training.main, [MINI, "--workdir", "w", "--optimizer.b1", "x"], "--optimizer.b1: could not convert"),
    (
        training.main,
        [MINI, "--workdir", "w", "launcher:mesh", "--launcher.fsdp", "0"],
        "fsdp must be at least 1",
    ),
    (training.main, [MINI, "--workdir", "w", "--init", "s3://b/run"], "s3://b/run is a remote address"),
    (training.main, [MINI, "--workdir", "w", "--code", ""], "a path is empty"),
    (
        finetuning.main,
        ["configs/text_classification.py", "--workdir", "w", "--epochs", "inf"],
        "epochs must be",
    ),
    (finetuning.main, ["configs/text_classification.py", "--workdir", ""], "a path is empty"),
    (
        finetuning.main,
        ["configs/text_classification.py", "--workdir", "w", "adapter:lora", "--adapter.alpha", "nan"],
        "adapter.alpha must be above 0 and finite, got nan",
    ),
    (predict.main, ["run", "--chunk", "0"], "chunk must be at least 1, got 0"),
    (predict.main, ["gs://bucket/run"], "is a remote address"),
    (evaluate.main, ["run", "a.csv", "--batch-size", "-2"], "batch_size must be at least 1, got -2"),
    (evaluate.main, ["", "a.csv"], "a path is empty"),
    (convert.main, ["import", "dir", "--to", "gs://bucket/run"], "is a remote address"),
    (convert.main, ["export", "run", "--to", ""], "a path is empty"),
    (views.main, ["https://host/run"], "is a remote address"),
    (certificate.main, [MINI, "--compared.steps", "0"], "compared.steps must be at least 1, got 0"),
    (minilm.main, ["--workdir", "w", "--seeds", "-1"], "seeds.0 must be at least 0"),
    (step_time.main, ["--dropout", "1.0"], "dropout must be at least 0 and below 1, got 1.0"),
]


@pytest.mark.parametrize(("main", "arguments", "words"), ODD)
def test_an_odd_value_is_refused_in_one_line_before_anything_is_made(
    main, arguments, words, tmp_path, monkeypatch, capsys
):
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    given = [str(root / word) if word.startswith("configs/") else word for word in arguments]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert words in error_of(main, given, capsys)
    assert not list(tmp_path.iterdir())


def test_data_prepare_refuses_the_same_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="remote address"):
        prepare.prepare("a.txt", tokenizer=prepare.TrainTokenizer(vocab_size=60), out="gs://b/x")


def test_the_home_folder_is_written_as_in_a_shell(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    _, workdir = parse(load_config(MINI, Experiment), ["--workdir=~/x"], "program")
    assert workdir == Path("/home/me/x")
    assert split_code(["--code=~/a.py", "rest"]) == ((Path("/home/me/a.py"),), ["rest"])
    assert convert.command(["import", "~/a", "--to", "~/b"]).folder == Path("/home/me/a")
    assert take_first(["a", "--help"], "usage", None) == ("a", ["--help"])


def test_a_published_folder_is_met_with_the_command_that_imports_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match=f"finetune.convert import {tmp_path} --to RUN"):
        open_run(tmp_path)


def test_predict_says_that_its_input_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in error_of(predict.main, ["run"], capsys)
