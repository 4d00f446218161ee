"""Whatever is wrong with a run folder is one line that names the file, or what is read is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data.folder_lock import Taken
from data.tokenizer import load_tokenizer
from tests.damage import damaged_bytes, folder_instead, mutated, nested
from tests.tiny import RaggedStream, parts, settings
from train import restore
from train.checkpoint import HASHES, load_params, saved_steps
from train.describe import read_json, write_json
from train.loop import run
from train.restore import open_run
from train.workdir import LOCK, alone, check_place, claim, occupied

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "runs" / "1"


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A run without a digest in its config.json."""
    folder = tmp_path_factory.mktemp("older")
    shutil.copytree(GOLDEN / "bert", folder / "bert")
    with tarfile.open(GOLDEN / "checkpoints.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "bert"


@pytest.fixture
def copy(pretrained, tmp_path):
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


def opened(folder):
    """Everything that config.json says of a run."""
    source = open_run(folder)
    said = [source.stored(name) for name in ("experiment", "learned") if name in source.description]
    return source.model, source.rows, source.objective, source.tokenizer.fingerprint, said


def assert_the_same_or_one_line(folder, before, exact):
    """`exact`: whether other values may not pass, either."""
    try:
        after = opened(folder)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error), error
        assert "\n" not in str(error).split("is whole:")[0]
    else:
        assert not exact or after == before


def fuzz_config(folder, count, seed, exact, monkeypatch):
    # The parameters are those of one checkpoint throughout.
    source = open_run(folder)
    sides = load_params(source.checkpoint.parent, source.step)
    monkeypatch.setattr(restore, "load_params", lambda *_: sides)
    monkeypatch.setattr(restore, "pick_checkpoint", lambda _: source.checkpoint)
    path, before, chance = folder / "config.json", opened(folder), random.Random(seed)
    content = path.read_text()
    try:
        for _ in range(count):
            path.write_text(json.dumps(mutated(json.loads(content), chance)))
            assert_the_same_or_one_line(folder, before, exact)
    finally:
        path.write_text(content)


@pytest.mark.parametrize("count", [40, pytest.param(600, marks=pytest.mark.thorough)])
def test_mutations_of_config_json(copy, older, count, monkeypatch):
    with monkeypatch.context() as patch:
        fuzz_config(older, count, count, False, patch)
    with monkeypatch.context() as patch:
        fuzz_config(copy, count, count, True, patch)


def test_a_changed_config_json_is_refused_and_its_digest_can_be_taken_out(copy):
    config = read_json(copy / "config.json")
    before = opened(copy)
    (copy / "config.json").write_text(json.dumps(config))  # laid out otherwise
    assert opened(copy) == before
    config["model"]["dropout"] = 0.5
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r'config.json is damaged: .* remove its entry "digest"'):
        open_run(copy)
    del config["digest"]
    (copy / "config.json").write_text(json.dumps(config))
    assert open_run(copy).model.dropout == 0.5


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGE = {
    "folder": folder_instead,
    "pipe": pipe,
    "device": device,
    "nested": lambda path: path.write_text(nested(100_000)),
    "digits": lambda path: path.write_text('{"a": ' + "1" * 5000 + "}"),
    "list": lambda path: path.write_text("[]"),
    "empty": lambda path: path.write_text(""),
    "link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "checkpoints/4/hashes.json"])
def test_a_file_that_is_something_else_is_named(copy, name, damage):
    DAMAGE[damage](copy / name)
    if name == f"checkpoints/4/{HASHES}":  # then the step before it is taken, or named as explicit
        with pytest.raises((ValueError, OSError)) as raised:
            open_run(copy / "checkpoints" / "4")
        assert "checkpoints/4" in str(raised.value)
        return
    with pytest.raises((ValueError, OSError)) as raised:
        opened(copy)
    assert str(copy / name) in str(raised.value) or isinstance(raised.value, OSError)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (lambda found: {}, "does not list a checkpoint's files"),
        (lambda found: {**found, "/etc/passwd": "0"}, "does not list a checkpoint's files"),
        (lambda found: {**found, "params/../../../config.json": "0"}, "does not list a checkpoint's files"),
        (lambda found: {**found, "a": None}, "does not list a checkpoint's files"),
        (lambda found: {**found, "params/gone": "0"}, "params/gone is missing"),
        (lambda found: dict(list(found.items())[1:]), "does not name"),
    ],
)
def test_a_manifest_names_every_file_and_nothing_else(copy, manifest, words):
    path = copy / "checkpoints" / "4" / HASHES
    write_json(path, manifest(read_json(path)))
    with pytest.raises(ValueError, match=words) as raised:
        open_run(copy / "checkpoints" / "4")
    assert "checkpoints/4" in str(raised.value)
    assert open_run(copy).step == 2


@pytest.mark.thorough
def test_damage_to_any_file_of_a_run(copy):
    before, chance = opened(copy), random.Random(1)
    files = [p for p in copy.rglob("*") if p.is_file() and ("checkpoints/4" in str(p) or p.parent == copy)]
    for _ in range(150):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(damaged_bytes(content, chance))
        assert_the_same_or_one_line(copy, before, True)
        path.write_bytes(content)


# -- a run that goes on


def watched(**changes):
    return settings(**{"best": "eval/nll", "best_mode": "min", "eval_every": 2, "save_every": 2, **changes})


@pytest.fixture(scope="module")
def with_best(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "run"
    run(watched(steps=4), parts(), folder)
    return folder


def test_damage_to_the_best_checkpoint_is_named_when_a_run_goes_on(with_best, tmp_path, capsys):
    folder = Path(shutil.copytree(with_best, tmp_path / "run"))
    (best,) = saved_steps(folder / "best")
    file = next(p for p in sorted((folder / "best" / str(best) / "params").rglob("*")) if p.is_file())
    file.write_bytes(damaged_bytes(file.read_bytes(), random.Random(0)))
    with pytest.raises(
        ValueError, match="it is the best of this run so far; put the file back, or move"
    ) as raised:
        run(watched(), parts(), folder)
    assert str(file) in str(raised.value)
    # As it says: without it, the run goes on and finds another.
    shutil.rmtree(folder / "best" / str(best))
    result = run(watched(), parts(), folder)
    assert f"best/{best}, the best of this run, is gone" in capsys.readouterr().err
    assert result.best_step == 6 and saved_steps(folder / "best") == [6]


def test_a_kill_between_two_checkpoints_leads_back_to_the_best_that_the_first_names(tmp_path):
    class Killed(Exception):
        pass

    class Kills(RaggedStream):
        def batch(self, step, rows=None):
            if step == 5:
                raise Killed
            return super().batch(step, rows)

    # Scored at every step and better at most; checkpoints at 3 and 6.
    config = watched(eval_every=1, save_every=3)
    with pytest.raises(Killed):
        run(config, parts(stream=Kills()), tmp_path / "killed")
    named = saved_steps(tmp_path / "killed" / "best")
    assert saved_steps(tmp_path / "killed" / "checkpoints") == [3] and len(named) <= 2
    again = run(config, parts(), tmp_path / "killed")
    whole = run(config, parts(), tmp_path / "whole")
    assert (again.best_step, again.best_value) == (whole.best_step, whole.best_value)
    assert saved_steps(tmp_path / "killed" / "best") == saved_steps(tmp_path / "whole" / "best")
    # What was set aside has been made again.
    assert not (tmp_path / "killed" / "set_aside").exists()


def test_what_a_kill_leaves_of_a_save_is_gone_once_it_is_made_again(with_best, tmp_path):
    folder = Path(shutil.copytree(with_best, tmp_path / "run"))
    (folder / "checkpoints" / "4" / HASHES).unlink()
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp-1").mkdir()
    assert run(watched(), parts(), folder).step == 6
    assert saved_steps(folder / "checkpoints") == [6, 4] and not (folder / "set_aside").exists()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "6"}


def description_of(folder):
    stored = read_json(folder / "config.json")
    return {
        name: value
        for name, value in stored.items()
        if name not in ("digest", "versions", "tokenizer", "code")
    }


def test_the_tokenizer_of_a_run_that_goes_on_is_its_own(copy, capsys):
    tokenizer, path = load_tokenizer(copy / "tokenizer.model"), copy / "tokenizer.model"
    content = path.read_bytes()
    path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    with pytest.raises(ValueError, match=r"tokenizer.model is damaged.*") as raised:
        claim(copy, description_of(copy), tokenizer)
    assert str(path) in str(raised.value)
    path.unlink()
    claim(copy, description_of(copy), tokenizer)
    assert (
        path.read_bytes() == content
        and "tokenizer.model is missing: written again" in capsys.readouterr().err
    )


# -- places, and who is there


def test_places_where_no_run_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for place, words in (
        ("file", "is a file, not a run folder"),
        ("file/run", "file is a file, so there can be no"),
        ("link", "is a link to nowhere, which is not there"),
        ("a[b]*?{c}", r"has \* \? \[ in its name"),
    ):
        with pytest.raises(ValueError, match=words):
            check_place(tmp_path / place)
    with pytest.raises(OSError, match="File name too long"):
        check_place(tmp_path / ("x" * 300))
    check_place(tmp_path / "new" / "run {1} \u00fc")


HOLDS = "import sys, time; from pathlib import Path; from data.folder_lock import locked\n" + (
    "with locked(Path(sys.argv[1]), 'x', ''):\n    print('held', flush=True); time.sleep(60)"
)


def test_a_folder_is_one_process_s_and_free_when_it_is_killed(tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(workdir / LOCK)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        line = rf"run is in use by process {process.pid} on .* since 20.*: wait until it ends"
        for enter in (lambda: occupied(workdir), lambda: alone(workdir)):
            with pytest.raises(Taken, match=line), enter():
                pass
        with pytest.raises(Taken, match=line):
            check_place(workdir)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with occupied(workdir), pytest.raises(Taken, match=f"process {os.getpid()} on"), occupied(workdir):
        pass
