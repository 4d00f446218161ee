"""A teacher's checkpoint beside a student: handed off, never trained, never saved, refused where it does not fit."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import train.__main__ as training
from model.heads import Pooler
from model.network import Network
from model.t5 import t5_small
from objectives.causal_lm import CausalLM
from objectives.distillation import Distillation
from tests.tiny import ROWS, RaggedStream, encoder, masked_lm, parts, settings
from train.certificate import certify
from train.checkpoint import load_params
from train.cli import one_line_errors
from train.companions import open_companions
from train.launch import Mesh, Pmap
from train.metrics import read_rows
from train.optimizer import Optimizer

TINY = (
    "--model.vocab-size 100 --model.layers 1 --model.width 16 --model.heads 2 --model.mlp-width 32 --model.dropout 0 "
    "--model.attention-dropout 0 --data.length 32 --batch-size 8 --data.held-out 0.1 --data.eval-rows 8 --log-every 1"
).split()
SHORT = "--steps 4 --eval-every 2 --save-every 2".split()
LAUNCHERS = {"pmap": [], "mesh": ["launcher:mesh", "--launcher.fsdp", "8"]}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmno"), 4)) for _ in range(400)]
    file = tmp_path_factory.mktemp("corpus") / "t.txt"
    file.write_text("\n\n".join(" ".join(rng.choice(words, 20)) for _ in range(120)))
    return str(file)


@pytest.fixture(scope="module")
def teacher(text, tmp_path_factory):
    """A run of `configs/spanbert_mini.py`, wider than the students."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    command = [
        "configs/spanbert_mini.py",
        "--data.files",
        text,
        *TINY,
        *SHORT,
        "--model.width",
        "32",
        "--objective.masking.unit",
        "token",
    ]
    training.main([*command, "--workdir", str(folder)])
    return folder


def student(text, teacher, workdir, *more):
    own = ["--companions", "teacher", str(teacher), "--data.tokenizer", str(teacher / "tokenizer.model")]
    return [
        "configs/distil_mini.py",
        "--data.files",
        text,
        *TINY,
        *SHORT,
        *own,
        "--workdir",
        str(workdir),
        *more,
    ]


@pytest.fixture(scope="module")
def students(text, teacher, tmp_path_factory):
    """Its students under Pmap and under Mesh, by name."""
    folder = tmp_path_factory.mktemp("students")
    for name, launcher in LAUNCHERS.items():
        training.main(student(text, teacher, folder / name, *launcher))
    return folder


def saved_names(checkpoint):
    """Paths of everything that a checkpoint holds."""
    names = set()
    for item in ("params", "train"):
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata((checkpoint / item).absolute()).item_metadata.tree
        names |= {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}
    return names


@pytest.mark.slow
def test_a_student_learns_from_a_checkpoint_under_both_launchers_alike(students):
    rows = {name: read_rows(students / name / "metrics.jsonl") for name in LAUNCHERS}
    losses = [[(r["train/loss"], r["train/kl"]) for r in rows[name] if "train/kl" in r] for name in LAUNCHERS]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)
    scores = [[(r["eval/nll"], r["eval/kl"]) for r in rows[name] if "eval/kl" in r] for name in LAUNCHERS]
    assert len(scores[0]) == 2
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_teacher_is_in_no_checkpoint_of_its_student(students):
    names = saved_names(students / "pmap" / "checkpoints" / "4")
    assert any("opt_state" in name for name in names)
    assert not [name for name in names if "companion" in name or "teacher" in name]
    described = json.loads((students / "pmap" / "config.json").read_text())["companion_checkpoints"][
        "teacher"
    ]
    assert described["step"] == 4 and len(described["digest"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_resumed_student_ends_bitwise_equal(launcher, text, teacher, students, tmp_path, capsys):
    """So its teacher, read again, is what it was: no step moves it. Where it lies does not matter."""
    run, moved = tmp_path / "student", tmp_path / "moved"
    shutil.copytree(students / launcher, run)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.copytree(teacher, moved)
    tokenizer = ["--data.tokenizer", f"{teacher}/tokenizer.model"]
    training.main(student(text, moved, run, *tokenizer, *LAUNCHERS[launcher]))
    said = capsys.readouterr().err
    assert "resuming from step 2" in said and f"companion teacher from {moved}/checkpoints/4: " in said
    whole, resumed = (load_params(folder / "checkpoints", 4) for folder in (students / launcher, run))
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_a_student_is_not_resumed_with_a_teacher_that_went_on(text, teacher, students, capsys):
    tokenizer = ["--data.tokenizer", f"{teacher}/tokenizer.model"]
    earlier = student(text, teacher / "checkpoints" / "2", students / "pmap", *tokenizer)
    assert one_line_errors(training.main, earlier) == 2
    assert "companion_checkpoints.teacher.step: 4 -> 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--companions"], "Distillation reads the companion networks ['teacher'], but companions names []"),
        (["--companions", "tutor", "{teacher}"], "--companions teacher RUN"),
        (["--companions", "teacher", "nowhere"], "no run folder at nowhere"),
        (
            ["--model.vocab-size", "90"],
            "{teacher}/checkpoints/4) has vocab_size 100, but model.vocab_size is 90: both read the same ids; set "
            "--model.vocab-size 100 --data.tokenizer {teacher}/tokenizer.model",
        ),
        (["--data.tokenizer", "", "--data.lowercase", "False"], "equal ids would be other texts"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(more, words, text, teacher, tmp_path, capsys):
    more = [word.format(teacher=teacher) for word in more]
    assert one_line_errors(training.main, student(text, teacher, tmp_path / "run", *more)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and words.format(teacher=teacher) in line
    assert not (tmp_path / "run").exists()


class ReadsAPooler(Distillation):
    def companion_heads(self, name, config):
        return (("pooler", Pooler(config)),)


@pytest.mark.parametrize(
    ("objective", "model", "length", "message"),
    [
        (
            ReadsAPooler,
            encoder(vocab_size=100),
            32,
            "does not fit the network: heads/pooler/.* the network needs it",
        ),
        (
            Distillation,
            encoder(vocab_size=100),
            1024,
            "cannot serve .* length 1024 is longer than model.max_positions 512",
        ),
        (
            Distillation,
            dataclasses.replace(t5_small(), vocab_size=100),
            32,
            "is a BertConfig, the model a T5Config",
        ),
        (
            lambda base: Distillation(base=CausalLM()),
            encoder(vocab_size=100),
            32,
            "cannot serve this objective: CausalLM needs a causal backbone, BertConfig is not one",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(objective, model, length, message, teacher):
    with pytest.raises(ValueError, match=message):
        run = settings(companions=(("teacher", str(teacher)),))
        told = objective(base=masked_lm()).for_rows(dataclasses.replace(ROWS, length=length))
        open_companions(run, told, model)


# Below a teacher of random parameters, without files.


def beside(base, config=None, teacher_config=None, **changes):
    """Parts of a student whose teacher is wider."""
    objective = Distillation(base=base).for_rows(ROWS)
    config = encoder() if config is None else config
    wide = encoder(width=32, layers=1) if teacher_config is None else teacher_config
    other = Network(wide.build(), tuple(objective.companion_heads("teacher", wide)))
    made = parts(objective=objective, config=config, **changes)
    network = dataclasses.replace(made.network, companions=(("teacher", other),))
    params = jax.tree.map(np.asarray, other.init(jax.random.key(5)))
    return dataclasses.replace(made, network=network, companions={"teacher": params})


def test_a_teacher_never_drops_anything_out():
    made = beside(masked_lm(), teacher_config=encoder(width=32, layers=1, dropout=0.5))
    student = made.network.bind({}, jax.random.key(0), made.companions)
    assert student.dropout_rng is not None and student.companion["teacher"].dropout_rng is None
    assert student.redrawn(1).companion["teacher"].dropout_rng is None


@pytest.mark.slow
def test_every_launcher_and_split_gives_a_student_the_same_numbers():
    made = beside(masked_lm())
    ways = {"pmap": Pmap(), "fsdp x tensor": Mesh(fsdp=4, tensor=2)}
    batches = [RaggedStream(batch_size=16).batch(i) for i in range(3)]
    rows = certify(
        made.network,
        made.objective,
        batches,
        Optimizer(learning_rate=1e-3),
        ways=ways,
        splits=(2,),
        companions=made.companions,
    )
    assert all(row.agrees for row in rows)
