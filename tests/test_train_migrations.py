"""Runs that older versions wrote open, go on and are handed off as their authors left them."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from finetune import predict, states
from finetune.build import build as build_fine_tuning
from finetune.build import fine_tune
from tests.golden.make_runs import SENTENCES, TEXTS, fine_tuning, losses, pretraining
from train.__main__ import pretrain
from train.build import build
from train.describe import decode, encode, read_json
from train.migrations import TABLES, Change, Tables, WholeChange, migrate, renamed, without
from train.restore import open_run
from train.workdir import claim

GOLDEN = Path(__file__).parent / "golden" / "runs"
FORMATS = sorted(path.name for path in GOLDEN.iterdir())
PRETRAINED = ("bert", "gpt", "t5", "distilled")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module", params=FORMATS)
def unpacked(request, tmp_path_factory):
    """The runs of one format, with their checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    shutil.copytree(GOLDEN / request.param, folder)
    with tarfile.open(folder / "checkpoints.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def runs(unpacked, tmp_path, monkeypatch):
    """A copy, as its author has it: paths in a run are relative to where it was made."""
    shutil.copytree(unpacked, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def recorded(name):
    with np.load(f"{name}.npz") as file:
        return dict(file)


def assert_same_batch(batch, golden):
    """The rows of a stream are those that the run would have read next."""
    stored = {name.removeprefix("batch/"): v for name, v in golden.items() if name.startswith("batch/")}
    for name in stored.keys() & batch.keys():
        np.testing.assert_array_equal(batch[name], stored[name], err_msg=name)
    assert {"tokens", "segment_ids"} <= stored.keys() & batch.keys()


@pytest.mark.parametrize("name", PRETRAINED)
def test_an_older_pretrained_run_says_the_same(runs, name):
    source = open_run(name)
    assert source.step == 2
    for entry in ("experiment", "model", "objective", "adapter"):
        assert encode(source.stored(entry)) == source.description[entry]
    model = states.load(name)
    hidden = np.asarray(states.hidden_states(model, states.rows(model, TEXTS)))
    np.testing.assert_allclose(hidden, recorded(name)["hidden"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "asked"), [("texts", TEXTS), ("words", SENTENCES)])
def test_an_older_fine_tuned_run_predicts_the_same(runs, name, asked):
    answers = predict.predict(predict.load(name), asked)
    for answer, line in zip(answers, recorded(name)["answers"], strict=True):
        now, before = (json.loads(text) for text in (json.dumps(vars(answer)), str(line)))
        probabilities = before.pop("probabilities")
        assert now.pop("probabilities") == pytest.approx(probabilities, rel=1e-4)
        assert now == before


@pytest.mark.parametrize("name", ["bert", "distilled"])
def test_an_interrupted_older_run_goes_on_as_it_would_have(runs, name, capsys):
    experiment = pretraining()[name]
    assert_same_batch(build(experiment).parts.stream.batch(1), recorded(name))
    assert pretrain(experiment, Path(name)).step == 4
    assert "resuming from step 2" in capsys.readouterr().err
    ended = {k.removeprefix("after/"): float(v) for k, v in recorded(name).items() if k.startswith("after/")}
    now = losses(Path(name))
    # Both drop a tenth, and since then by other masks: two steps of that change the gradient's norm most.
    assert now == pytest.approx({**now, **ended}, rel=0.3)


def test_an_older_fine_tuning_goes_on_and_starts_anew(runs, tmp_path, capsys):
    experiment = fine_tuning()["texts"]
    assert_same_batch(build_fine_tuning(experiment).parts.stream.batch(1), recorded("texts"))
    assert fine_tune(experiment, Path("texts"), quiet=True).step == 4
    assert "resuming from step 2" in capsys.readouterr().err
    assert fine_tune(experiment, tmp_path / "new", quiet=True).step == 4
    passport = read_json(tmp_path / "new" / "passport.json")
    assert {e["status"] for e in passport["entries"] if e["path"].startswith("backbone")} == {"restored"}


def test_every_shipped_experiment_of_an_older_version_can_be_read(runs):
    tokenizer = open_run("bert").tokenizer
    for name, stored in read_json(runs / "configs.json").items():
        description, _ = migrate(stored, lambda: tokenizer)
        for entry in stored:
            assert encode(decode(description[entry])) == description[entry], name


# -- the tables


def no_tokenizer():
    raise AssertionError("no entry reads the tokenizer")


def test_what_an_old_run_lacks_is_filled_in_and_said(runs, caplog, capsys):
    config = read_json(runs / "bert" / "config.json")
    for field in ("companions", "table"):
        del config["experiment"][field]
    del config["companion_checkpoints"]
    (runs / "bert" / "config.json").write_text(json.dumps(config))
    source = open_run("bert")
    assert source.stored("experiment").companions == ()
    assert caplog.messages == [f"bert opened as a run of an older version: {'; '.join(source.notices)}"]
    assert {
        "companion_checkpoints is {}, as before",
        "train.experiment:Experiment has table 'random', as before",
        "train.experiment:Experiment has companions [], as before",
        "objectives.masked_lm:MaskedLM has its masking in one value",
    } < set(source.notices)
    built = build(pretraining()["bert"])
    claim(runs / "bert", built.description, built.tokenizer)
    assert "bert goes on as a run of an older version" in caplog.messages[1]


def test_a_missing_field_without_an_entry_is_an_error(runs):
    config = read_json(runs / "gpt" / "config.json")
    del config["model"]["mlp_width"]
    (runs / "gpt" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"Gpt2Config was stored .* differing are \['mlp_width'\]"):
        open_run("gpt").model  # noqa: B018


def test_types_change_from_the_inside_out_and_more_than_once():
    def gathered(value):
        if "rate" not in value:
            return value
        rest = {k: v for k, v in value.items() if k != "rate"}
        return {**rest, "masking": {"type": "new:Masking", "rate": value["rate"]}}

    tables = Tables(
        added={"new:Lm": {"unit": "token"}, "new:Masking": {"cap": None}},
        changed=(
            renamed("old:Lm", "new:Lm"),
            without("new:Lm", "mask_id"),
            Change(kind="new:Lm", to=gathered, account="holds its rate in `masking`"),
            Change(
                kind="old:Mix", to=lambda mix: {**mix, "saw": mix["part"]["type"]}, account="saw its part"
            ),
        ),
        whole=(
            WholeChange(
                to=lambda d, t: {("learned" if k == "classes" else k): v for k, v in d.items()},
                account="says learned",
            ),
            WholeChange(to=lambda d, t: {**d, "rows": {"pad_id": t()}}, account="says rows"),
        ),
    )
    stored = {
        "objective": {"type": "old:Mix", "part": {"type": "old:Lm", "mask_id": 4, "rate": 0.2}},
        "again": [{"type": "old:Lm", "mask_id": 4, "rate": 0.2}],
        "classes": ["a"],
        "imported": {"rope": {"type": "linear"}},
    }
    before = json.dumps(stored)
    description, notices = migrate(stored, lambda: 0, tables)
    part = {"type": "new:Lm", "masking": {"type": "new:Masking", "rate": 0.2, "cap": None}, "unit": "token"}
    assert description == {
        "objective": {"type": "old:Mix", "part": part, "saw": "new:Lm"},
        "again": [part],
        "learned": ["a"],
        "imported": {"rope": {"type": "linear"}},
        "rows": {"pad_id": 0},
    }
    assert notices == (
        "says learned",
        "says rows",
        "old:Lm is new:Lm now",
        "new:Lm no longer holds mask_id",
        "new:Lm holds its rate in `masking`",
        "new:Masking has cap None, as before",
        "new:Lm has unit 'token', as before",
        "old:Mix saw its part",
    )
    assert json.dumps(stored) == before
    assert migrate(description, no_tokenizer, Tables(added=tables.added, changed=(), whole=())) == (
        description,
        (),
    )


@pytest.mark.parametrize("kind", TABLES.added)
def test_added_fields_are_there(kind):
    """An entry of a field that is gone again, or of a type that moved on, would never apply."""
    module, _, name = kind.partition(":")
    known = getattr(__import__(module, fromlist=[name]), name).__dataclass_fields__
    assert TABLES.added[kind].keys() <= known.keys()
