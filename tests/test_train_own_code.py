"""A run whose classes are in a user's own file opens with that file, and never with one that its reader did not choose."""

import hashlib
import importlib.util
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import finetune.__main__ as finetuning
import finetune.evaluate as scoring
import train.__main__ as training
from finetune import convert, predict
from train import evaluate
from train.cli import one_line_errors
from train.describe import decode, read_json, write_json
from train.own_code import OwnCode
from train.restore import open_run

ROOT = Path(__file__).parent.parent
NEWCOMER = ROOT / "tests" / "newcomer"
GOLDEN = ROOT / "tests" / "golden" / "runs" / "1"
OWN_MODEL = '''"""A user's own model."""

import dataclasses

from model.bert import BertConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnBert(BertConfig):
    """As BERT is."""
'''
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def forget_imports():
    """These are imported by nobody before a test and gone after it, as if each ran in a process of its own."""
    names = ("experiment_mine", "own_deletion", "own_model", "mine", "parent.mine")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def write_experiment(folder):
    """One file with both the objective and the experiment."""
    own, experiment = ((NEWCOMER / name).read_text() for name in ("deletion.py", "bart_mini.py"))
    experiment = experiment.replace("from tests.newcomer.deletion import TokenDeletion\n", "")
    (folder / "mine.py").write_text(own + "\n\n" + experiment.partition('"""\n')[2])
    return folder / "mine.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The command that trained a run of an own objective, as far as its options, and the run."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmno"), 4)) for _ in range(400)]
    (folder / "t.txt").write_text("\n\n".join(" ".join(rng.choice(words, 20)) for _ in range(120)))
    options = ["--data.files", str(folder / "t.txt"), "--steps", "2"]
    training.main([str(write_experiment(folder)), *options, "--workdir", str(folder / "run")])
    del sys.modules["experiment_mine"]
    return folder, options


@pytest.fixture
def copy(trained, tmp_path, monkeypatch):
    """A copy of the run alone, in the reader's folder."""
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def rename_module(run, name, text=None):
    """As if the class had been in an own module that the experiment imports."""
    content = (run / "config.json").read_text().replace('"experiment_mine', f'"{name}')
    config = json.loads(content)
    if text is not None:
        digest = hashlib.sha256(text.encode()).hexdigest()
        config["code"][name] = {"file": f"{name}.py", "sha256": digest, "text": text}
    write_json(run / "config.json", config)
    return config["code"][name]


def test_a_run_keeps_the_file_that_its_classes_are_in(trained):
    folder, _ = trained
    config = read_json(folder / "run" / "config.json")
    assert config["objective"]["type"] == "experiment_mine:TokenDeletion"
    content = (folder / "mine.py").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    kept = {"file": "mine.py", "sha256": digest, "text": content.decode()}
    assert config["code"] == {"experiment_mine": kept}


def test_a_named_file_opens_the_run(trained, copy, tmp_path, capsys):
    look = [str(copy), "--data.rows", "8", "--views", "objective"]
    assert one_line_errors(evaluate.main, look) == 2
    error = capsys.readouterr().err
    assert "experiment_mine:TokenDeletion" in error and "mine.py" in error and "--code" in error
    assert error.count("\n") == 1 and "experiment_mine" not in sys.modules
    # It may lie elsewhere, and be called otherwise.
    shutil.copy(trained[0] / "mine.py", tmp_path / "his.py")
    assert one_line_errors(evaluate.main, [*look, "--code", str(tmp_path / "his.py")]) == 0
    said = capsys.readouterr()
    assert "nll" in said.out and "error" not in said.err
    assert read_json(copy / "views.json")["views"]["eval"]["objective"]


def test_a_changed_file_is_refused_with_both_hashes(trained, copy, tmp_path, capsys):
    changed = (trained[0] / "mine.py").read_text() + "\n"
    (tmp_path / "mine.py").write_text(changed)
    assert one_line_errors(evaluate.main, [str(copy), "--code", str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    for text in (changed, (trained[0] / "mine.py").read_text()):
        assert hashlib.sha256(text.encode()).hexdigest()[:16] in error
    assert "under code" in error and "experiment_mine" not in sys.modules
    assert one_line_errors(evaluate.main, [str(copy), "--code", "nowhere.py"]) == 2
    assert "nowhere.py, which is not there" in capsys.readouterr().err


def test_a_module_in_the_readers_folders_is_used_and_said(copy, tmp_path, monkeypatch, caplog):
    kept = rename_module(copy, "own_deletion")
    with pytest.raises(ValueError, match=r"own_deletion:TokenDeletion.*of mine.py.*--code"):
        open_run(copy).stored("objective")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own_deletion.py").write_text(kept["text"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    (tmp_path / "own_deletion.py").write_text("raise SystemExit('this text is not the run's')")
    source = open_run(copy)
    assert source.stored("objective").rate == 0.15 and source.stored("experiment").batch_size == 8
    (line,) = caplog.messages
    assert "own_deletion:TokenDeletion" in line and str(tmp_path / "elsewhere" / "own_deletion.py") in line


def test_a_changed_module_in_the_readers_folders_is_refused(copy, tmp_path):
    rename_module(copy, "own_deletion")
    (tmp_path / "own_deletion.py").write_text("raise SystemExit('this text is not of the run')")
    with pytest.raises(
        ValueError, match=r"own_deletion\.py has [0-9a-f]{16}\.\.\.: name that file with --code"
    ):
        open_run(copy).stored("objective")


def test_another_version_that_was_imported_already_is_refused(trained, copy, tmp_path):
    rename_module(copy, "own_deletion")
    (tmp_path / "own_deletion.py").write_text("class TokenDeletion: pass")
    sys.path.insert(0, str(tmp_path))
    try:
        __import__("own_deletion")
    finally:
        sys.path.remove(str(tmp_path))
    with pytest.raises(
        ValueError, match="this process has imported .*own_deletion.py.* a process of its own"
    ):
        open_run(copy, [trained[0] / "mine.py"]).stored("objective")


def test_the_packages_around_a_module_are_not_run(copy, tmp_path):
    kept = rename_module(copy, "parent.mine")
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "__init__.py").write_text("raise SystemExit('nobody named this file')")
    (tmp_path / "parent" / "mine.py").write_text(kept["text"])
    assert open_run(copy).stored("objective").rate == 0.15
    assert "parent" not in sys.modules


@pytest.mark.parametrize(
    "kind", ["antigravity:x", "os:path", "this:s", "numpy:ndarray", "dataclasses:Field", "sys:path"]
)
def test_a_checkpoint_cannot_have_anything_else_imported(kind, monkeypatch):
    name, before = kind.partition(":")[0], set(sys.modules)
    # Even if it keeps the very text of the file.
    spec = importlib.util.find_spec(name)
    file = Path(spec.origin) if spec.has_location else None
    monkeypatch.setenv("PYTHONPATH", str(file.parent) if file else "")
    digest = hashlib.sha256(file.read_bytes() if file else b"").hexdigest()
    kept = {name: {"file": "x.py", "sha256": digest, "text": ""}}
    for code in (OwnCode(), OwnCode(kept=kept)):
        with pytest.raises(
            ValueError, match="no file of yours|name that file with --code|keeps no code of it"
        ):
            decode({"type": kind}, code)
    assert not {"antigravity", "this"} & (set(sys.modules) - before)


@pytest.mark.parametrize("place", ["site-packages", "outside"])
def test_a_file_outside_the_readers_folders_is_not_run(place, tmp_path, monkeypatch):
    (tmp_path / place).mkdir()
    text = "raise SystemExit('nobody named this file')"
    (tmp_path / place / "evil.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site-packages"))
    name = "evil" if place == "site-packages" else str(tmp_path / place / "evil")
    kept = {name: {"file": "evil.py", "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}}
    with pytest.raises(ValueError, match="the stored configuration names"):
        decode({"type": f"{name}:X"}, OwnCode(kept=kept))


def test_a_users_file_lends_only_its_own_classes(tmp_path):
    (tmp_path / "mine.py").write_text("from train.launch import Mesh\n")
    digest = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    code = OwnCode(
        kept={"mine": {"file": "mine.py", "sha256": digest, "text": ""}}, files=(tmp_path / "mine.py",)
    )
    with pytest.raises(ValueError, match="which mine imports from train.launch"):
        decode({"type": "mine:Mesh", "data": -1, "fsdp": 1, "tensor": 1}, code)


def test_a_run_that_keeps_no_code_opens_on_the_readers_word(trained, copy, caplog):
    config = read_json(copy / "config.json")
    del config["code"]
    write_json(copy / "config.json", config)
    with pytest.raises(ValueError, match="keeps no code of it: name the file that defines it with --code"):
        open_run(copy).stored("objective")
    assert open_run(copy, [trained[0] / "mine.py"]).stored("objective").rate == 0.15
    assert "no hash to check it by" in caplog.messages[0]
    # And it goes on: whoever begins it again has named the file.
    training.main([str(trained[0] / "mine.py"), *trained[1], "--workdir", str(copy)])


def test_a_run_is_not_resumed_with_another_text_of_its_objective(trained, copy, tmp_path, capsys):
    file = write_experiment(tmp_path)
    training.main([str(file), *trained[1], "--workdir", str(copy)])
    file.write_text(file.read_text() + "\n# Another thought.\n")
    assert one_line_errors(training.main, [str(file), *trained[1], "--workdir", str(copy)]) == 2
    error = capsys.readouterr().err
    assert (
        "holds another experiment" in error and "code.experiment_mine: " in error and "thought" not in error
    )


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """The golden runs, as if their model were a class of the reader's own file `hers/own_model.py`."""
    shutil.copytree(GOLDEN, tmp_path / "runs")
    with tarfile.open(tmp_path / "runs" / "checkpoints.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    (tmp_path / "hers").mkdir()
    (tmp_path / "hers" / "own_model.py").write_text(OWN_MODEL)
    digest = hashlib.sha256(OWN_MODEL.encode()).hexdigest()
    for name in ("bert", "texts"):
        config = read_json(tmp_path / "runs" / name / "config.json")
        config["model"]["type"] = "own_model:OwnBert"
        if name == "bert":
            config["experiment"]["model"]["type"] = "own_model:OwnBert"
        config["code"] = {"own_model": {"file": "own_model.py", "sha256": digest, "text": OWN_MODEL}}
        write_json(tmp_path / "runs" / name / "config.json", config)
    monkeypatch.chdir(tmp_path / "runs")
    return ["--code", str(tmp_path / "hers" / "own_model.py")]


STUDENT = (
    "--model.vocab-size 50 --model.layers 1 --model.width 8 --model.heads 2 --model.mlp-width 16 --data.length 32 "
    "--model.max-positions 32 --data.files nowhere.txt --data.tokenizer tokenizer.model --companions teacher bert"
).split()
LABELS = ["--data.train", "train.csv", "--data.eval", "nowhere.csv"]


@pytest.mark.parametrize(
    ("program", "arguments", "ends"),
    [
        (predict.main, ["texts"], ""),
        (scoring.main, ["texts", "eval.csv"], ""),
        (evaluate.main, ["bert", "--data.rows", "8", "--views", "objective"], ""),
        # The others get as far as the first thing that they look at after the run.
        (convert.main, ["export", "texts", "--to", "out"], "no published family has the shape of OwnBert"),
        (
            finetuning.main,
            [f"{ROOT}/configs/text_classification.py", "--init", "bert", *LABELS],
            "nowhere.csv",
        ),
        (training.main, [f"{ROOT}/configs/distil_mini.py", *STUDENT], "nowhere.txt"),
    ],
    ids=["predict", "score", "evaluate", "export", "finetune", "companion"],
)
def test_every_program_that_opens_a_run_takes_code(own_model, program, arguments, ends, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bado fi\n")))
    if program in (finetuning.main, training.main):
        arguments = [*arguments, "--workdir", "new"]
    assert one_line_errors(program, arguments) == 2
    assert "'own_model:OwnBert', of own_model.py" in capsys.readouterr().err
    assert one_line_errors(program, [*arguments, *own_model]) == (2 if ends else 0)
    error = capsys.readouterr().err
    assert "the stored configuration names" not in error and ends in error


@pytest.mark.slow
def test_a_run_of_an_own_model_is_handed_off_and_keeps_its_code(own_model, tmp_path):
    data = "--data.train train.csv --data.eval eval.csv --data.test eval.csv --data.length 32".split()
    command = [
        f"{ROOT}/configs/text_classification.py",
        "--init",
        "bert",
        "--workdir",
        "new",
        *data,
        *own_model,
    ]
    finetuning.main([*command, "--epochs", "0", "--steps", "1"])
    assert read_json(tmp_path / "runs" / "new" / "config.json")["code"]["own_model"]["text"] == OWN_MODEL
    assert isinstance(predict.predict(predict.load("new"), ["bado fi"])[0].label, str)
