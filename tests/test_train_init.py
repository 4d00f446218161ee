"""Pretraining that goes on from another run: its shape, tokenizer and parameters, with the account of them."""

import math
import re
import shutil

import jax
import numpy as np
import pytest

import train.__main__ as training
from train.checkpoint import load_params
from train.cli import one_line_errors
from train.describe import read_json
from train.metrics import read_rows
from train.restore import open_run

MODEL = (
    "--model.vocab-size 100 --model.layers 1 --model.width 16 --model.heads 2 --model.mlp-width 32 --model.dropout 0 "
    "--model.attention-dropout 0"
).split()
SHORT = (
    "--data.length 32 --batch-size 8 --data.held-out 0.1 --data.eval-rows 8 --log-every 1 --steps 4 --eval-every 2 "
    "--save-every 2"
).split()
CONFIG = "configs/spanbert_mini.py"
TOKENS = ["--objective.masking.unit", "token"]

pytestmark = pytest.mark.usefixtures("own_cache")


def corpus(folder, letters, seed):
    """Texts of 400 words, most of them few words."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(letters), 4)) for _ in range(400)]
    file = folder / "t.txt"
    rare = np.arange(1, 401.0) ** -1.5
    texts = [*np.reshape(words, (-1, 20)), *(rng.choice(words, 20, p=rare / rare.sum()) for _ in range(80))]
    file.write_text("\n\n".join(" ".join(some) for some in texts))
    return str(file)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("text"), "abcdefghijklmno", 0)


@pytest.fixture(scope="module")
def other_text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("other"), "opqrstuvwabc", 1)


@pytest.fixture(scope="module")
def first(text, tmp_path_factory):
    """A run that has learned which pieces are frequent."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    longer = [
        "--steps",
        "40",
        "--eval-every",
        "40",
        "--save-every",
        "40",
        "--optimizer.learning-rate",
        "1e-2",
    ]
    training.main([CONFIG, "--data.files", text, *MODEL, *SHORT, *TOKENS, *longer, "--workdir", str(folder)])
    return folder


def going_on(first, file, workdir, *more):
    """The command of a run that goes on, whose experiment says another width and vocabulary."""
    said = [*MODEL, "--model.width", "32", "--model.vocab-size", "300"]
    own = ["--init", str(first), "--data.files", file, "--workdir", str(workdir)]
    return [CONFIG, *said, *SHORT, *TOKENS, *own, *more]


@pytest.fixture(scope="module")
def second(first, other_text, tmp_path_factory):
    """The run that goes on with other text."""
    folder = tmp_path_factory.mktemp("runs") / "second"
    training.main(going_on(first, other_text, folder))
    return folder


def test_it_begins_where_the_run_ended(first, text, tmp_path, capsys):
    """On the same text the same rows are held out: at a rate of almost nothing their loss must be that of the end."""
    training.main(going_on(first, text, tmp_path / "run", "--optimizer.learning-rate", "1e-12"))
    said = capsys.readouterr().err
    for line in (
        f"model.width is 16, of {first} (the experiment says 32)",
        f"model.vocab_size is 100, of {first} (the experiment says 300)",
        f"hand-off from {first}/checkpoints/40",
    ):
        assert line in said
    ended = [row["eval/nll"] for row in read_rows(first / "metrics.jsonl") if "eval/nll" in row][-1]
    begun = [row["eval/nll"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "eval/nll" in row][0]
    assert begun == pytest.approx(ended, abs=1e-5) and begun < math.log(100) - 0.4
    losses = [row["train/nll"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "train/nll" in row]
    assert losses[0] < math.log(100) - 0.4


def test_shape_and_tokenizer_are_those_of_the_run(first, second):
    begun, gone_on = open_run(first), open_run(second)
    assert gone_on.model == begun.model and gone_on.model.width == 16
    assert gone_on.tokenizer.fingerprint == begun.tokenizer.fingerprint
    corpora = [source.stored("corpora") for source in (begun, gone_on)]
    assert corpora[0] != corpora[1], "it read other text"
    assert gone_on.stored("experiment").model == begun.model


def test_the_passport_says_that_all_was_restored(first, second):
    passport = read_json(second / "passport.json")
    assert passport["source"] == str(first / "checkpoints" / "40")
    fates = {(entry["path"].split("/")[0], entry["status"]) for entry in passport["entries"]}
    assert fates == {("backbone", "restored"), ("heads", "restored")}


def test_a_stopped_one_goes_on(first, second, other_text, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(second, run)
    shutil.rmtree(run / "checkpoints" / "4")
    training.main(going_on(first, other_text, run))
    assert "resuming from step 2" in capsys.readouterr().err
    whole, resumed = (load_params(folder / "checkpoints", 4) for folder in (second, run))
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("configs/gpt_mini.py", "CausalLM needs a causal backbone, BertConfig is not one"),
        (
            "configs/t5_mini.py",
            "family encoder_decoder, but BertConfig is not an encoder-decoder: choose another model",
        ),
    ],
)
def test_an_experiment_of_another_family_is_one_line(config, words, first, text, tmp_path, capsys):
    files = ["--data.files", text, "--data.length", "32"]
    command = [config, *files, "--init", str(first), "--workdir", str(tmp_path / "run")]
    assert one_line_errors(training.main, command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "run").exists()


def distilled(text, workdir, *more):
    own = ["--companions", "teacher", "init", "--data.files", text, "--workdir", str(workdir)]
    return ["configs/distil_mini.py", *MODEL, *SHORT, *own, *more]


def test_a_companion_can_be_the_run_itself(first, text, tmp_path, capsys):
    training.main(distilled(text, tmp_path / "run", "--init", str(first)))
    assert re.search(r"companion teacher from .*first/checkpoints/40: \d+ leaves", capsys.readouterr().err)
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "train/kl" in row]
    # The first loss is that of equal networks; then the student moves and the teacher does not.
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["train/kl"] > 1e-4
    described = read_json(tmp_path / "run" / "config.json")["companion_checkpoints"]["teacher"]
    assert described["step"] == 40


def test_without_init_it_is_refused(text, tmp_path, capsys):
    assert one_line_errors(training.main, distilled(text, tmp_path / "run")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "companion 'teacher' is the run of init, but init is empty: name that run with --init" in line
