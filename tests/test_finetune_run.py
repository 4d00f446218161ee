"""Hand-off end to end: a tiny pretrained run, fine-tuned on toy data, scored, asked and mishandled."""

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from data.documents import Documents
from data.packing import Framing, PackedRows
from data.stream import Stream
from data.tokenizer import train_sentencepiece
from finetune import evaluate
from finetune.__main__ import main
from finetune.adapters import Frozen, LoRA
from finetune.build import build, fine_tune
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.predict import Arguments as PredictArguments
from finetune.predict import answer, load, predict
from finetune.tasks import TextClassification, TokenClassification
from model.bert import BertConfig
from model.heads import Classifier, MaskedLMHead
from model.network import Network
from objectives.masked_lm import MaskedLM
from train.checkpoint import flat, load_params
from train.cli import one_line_errors
from train.describe import encode, read_json
from train.experiment import Run
from train.launch import Mesh
from train.loop import Parts, run
from train.metrics import read_rows
from train.optimizer import Optimizer
from train.passport import hand_off
from train.restore import open_run
from train.workdir import claim

GOOD = ("fine", "lovely", "great", "warm", "clever")
BAD = ("dull", "awful", "weak", "cold", "silly")
NEUTRAL = ("film", "plot", "actor", "scene", "music", "story", "ending", "camera")
NAMES = ("anna", "peter", "maria", "oskar")


def sentence(rng, kind):
    words = list(rng.choice(NEUTRAL, rng.integers(2, 7)))
    words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if kind else BAD)))
    return " ".join(words)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run folder of masked-LM pretraining: two checkpoints, none marked best."""
    folder = tmp_path_factory.mktemp("pretrain")
    rng = np.random.default_rng(0)
    texts = [sentence(rng, i % 2) for i in range(200)] + [" ".join(rng.permutation(NAMES)) for _ in range(20)]
    tokenizer = train_sentencepiece(texts, vocab_size=120, lowercase=True, path=folder / "tokenizer.model")
    docs = Documents.from_tokens([tokenizer.encode(text) for text in texts])
    rows = PackedRows(docs, length=32, framing=Framing.named("cls_sep", tokenizer), max_segments=4)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, layers=2, width=16, heads=2, mlp_width=32, max_positions=32, types=2
    )
    objective = MaskedLM(mask_id=tokenizer.mask_id, max_segments=4)
    parts = Parts(
        network=Network(config.build(), tuple(objective.heads(config))),
        objective=objective,
        stream=Stream(rows, batch_size=8, seed=0),
        eval_sets={},
    )
    settings = Run(
        steps=4, batch_size=8, save_every=2, launcher=Mesh(), optimizer=Optimizer(learning_rate=3e-3)
    )
    description = {
        "experiment": encode(settings),
        "model": encode(config),
        "objective": encode(objective),
        "adapter": encode(parts.adapter),
    }
    claim(folder / "run", description, tokenizer)
    run(settings, parts, folder / "run")
    return folder / "run"


def write_csv(path, rows, header=("text", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Sentiment tables and tagged sentences."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(1)
    for name, count in (("train", 120), ("eval", 40), ("test", 40)):
        kinds = rng.integers(0, 2, count)
        write_csv(folder / f"{name}.csv", [(sentence(rng, k), ("bad", "good")[k]) for k in kinds])
        with (folder / f"{name}.jsonl").open("w") as file:
            for _ in range(count):
                words = [str(w) for w in rng.choice([*NAMES, *NEUTRAL], rng.integers(2, 6))]
                tags = ["B-PER" if word in NAMES else "O" for word in words]
                file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    return folder


def settings(pretrained, tables, suffix="csv", **changes):
    data = {"train": f"{tables}/train.{suffix}", "eval": f"{tables}/eval.{suffix}", "length": 32}
    if suffix == "jsonl":
        data |= {"text": "tokens", "label": "tags"}
    data |= changes.pop("data", {})
    values = {
        "init": str(pretrained),
        "steps": 40,
        "batch_size": 8,
        "eval_every": 20,
        "save_every": 40,
        "log_every": 20,
        "launcher": Mesh(),
        "optimizer": Optimizer(learning_rate=1e-2),
        "task": TokenClassification() if suffix == "jsonl" else TextClassification(pooling="cls"),
        "data": LabelledData(**data),
        "model": ModelChanges(dropout=0.0, attention_dropout=0.0),
    }
    return FineTune(**{**values, **changes})


@pytest.fixture(scope="module")
def sentiment(pretrained, tables, tmp_path_factory):
    """A fine-tuned run folder and its result."""
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    return folder, fine_tune(settings(pretrained, tables), folder, quiet=True)


def test_fine_tuning_learns_and_is_scored_the_same_everywhere(sentiment, tables):
    folder, result = sentiment
    assert result.step == 40 and result.best_value > 0.9, "chance is 0.5"
    row = next(
        r for r in read_rows(folder / "metrics.jsonl") if r["step"] == result.best_step and "eval/nll" in r
    )
    scores = evaluate.score(folder, f"{tables}/eval.csv")
    assert scores["accuracy"] == pytest.approx(result.best_value) == pytest.approx(row["eval/accuracy"])
    assert scores["nll"] == pytest.approx(row["eval/nll"], rel=1e-4) and scores["examples"] == 40
    assert row["train_sample/accuracy"] > 0.9
    assert read_json(folder / "config.json")["classes"] == ["bad", "good"]


def test_predictions_are_those_that_were_scored(sentiment, tables):
    folder, _ = sentiment
    with open(f"{tables}/test.csv") as file:
        records = list(csv.DictReader(file))
    model = load(folder)
    predictions = predict(model, [r["text"] for r in records], batch_size=3)
    right = np.mean([p.label == r["label"] for p, r in zip(predictions, records, strict=True)])
    assert right == pytest.approx(evaluate.score(model, f"{tables}/test.csv")["accuracy"])
    for prediction in predictions:
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.get)
    alone = predict(model, [records[5]["text"]])[0]
    assert alone.probabilities["good"] == pytest.approx(predictions[5].probabilities["good"], abs=1e-5)
    assert {p.label for p in predictions} == {"bad", "good"}


def test_lines_stream_through_in_chunks(sentiment):
    folder, _ = sentiment
    texts = [f"film {GOOD[i % 5] if i % 2 else BAD[i % 5]} story" for i in range(7)]
    whole, parts = io.StringIO(), io.StringIO()
    answer(PredictArguments(run=folder), [t + "\n" for t in texts], whole)
    answer(PredictArguments(run=folder, format="jsonl", chunk=2), iter(texts), parts)
    lines = [json.loads(line) for line in parts.getvalue().splitlines()]
    assert [line["label"] for line in lines] == whole.getvalue().splitlines()
    assert len(lines) == 7 and lines[0]["probabilities"].keys() == {"bad", "good"}
    with pytest.raises(ValueError, match="line 2 has 2 tab-separated fields.*single texts"):
        answer(PredictArguments(run=folder), ["fine\n", "fine\tfilm\n"], io.StringIO())


def test_words_are_labelled_and_entities_scored(pretrained, tables, tmp_path):
    experiment = settings(pretrained, tables, "jsonl", steps=60)
    result = fine_tune(experiment, tmp_path / "run", quiet=True)
    scores = evaluate.score(tmp_path / "run", f"{tables}/test.jsonl")
    assert result.best_value > 0.8 and scores["f1"] > 0.5
    model = load(tmp_path / "run")
    records = [json.loads(line) for line in open(f"{tables}/test.jsonl")]
    predictions = predict(model, [r["tokens"] for r in records])
    pairs = [
        pair
        for p, r in zip(predictions, records, strict=True)
        for pair in zip(p.labels, r["tags"], strict=True)
    ]
    assert np.mean([a == b for a, b in pairs]) == pytest.approx(scores["accuracy"])
    out = io.StringIO()
    answer(PredictArguments(run=tmp_path / "run"), ["anna film\n", "\n", "film " * 40], out)
    first, empty, long = out.getvalue().split("\n")[:3]
    assert len(first.split()) == 2 and empty == ""
    assert len(long.split()) == 40 and long.split()[-1] == "?", "words beyond the row are marked, not dropped"


@pytest.mark.parametrize(
    ("adapter", "moved"), [(Frozen(layers=1), [False, True]), (LoRA(rank=2), [True, True])]
)
def test_frozen_parameters_keep_every_bit(pretrained, tables, tmp_path, adapter, moved):
    experiment = settings(pretrained, tables, steps=4, eval_every=4, adapter=adapter)
    fine_tune(experiment, tmp_path / "run", quiet=True)
    before = flat(open_run(pretrained).params)
    frozen = flat(load_params(tmp_path / "run" / "checkpoints", 4)["frozen"])
    assert frozen
    for path, leaf in frozen.items():
        expected = before[path] if leaf.shape == before[path].shape else before[path][:1]
        np.testing.assert_array_equal(leaf, expected, err_msg="/".join(path))
    after = flat(open_run(tmp_path / "run").params)
    query = ("backbone", "layers", "attention", "query", "kernel")
    assert np.any(after[query] != before[query], axis=(1, 2, 3)).tolist() == moved
    if isinstance(adapter, Frozen):
        assert set(frozen) & set(flat(load_params(tmp_path / "run" / "checkpoints", 4)["trainable"])), (
            "layer 2"
        )
    assert np.isfinite(evaluate.score(tmp_path / "run", f"{tables}/test.csv")["nll"])


# -- opening a run


def test_the_best_checkpoint_is_opened_else_the_newest_else_the_one_named(pretrained, sentiment):
    assert open_run(pretrained).checkpoint == pretrained / "checkpoints" / "4"
    assert open_run(pretrained / "checkpoints" / "2").step == 2
    folder, result = sentiment
    assert open_run(folder).checkpoint == folder / "best" / str(result.best_step)
    source = open_run(pretrained)
    assert source.model.width == 16 and source.tokenizer.vocab_size == source.model.vocab_size


@pytest.fixture
def copy(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "copy")
    return tmp_path / "copy"


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_found_and_an_older_whole_checkpoint_taken(copy):
    victim = max(
        (copy / "checkpoints" / "4" / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()
    )
    flip_a_byte(victim)
    assert open_run(copy).step == 2
    with pytest.raises(ValueError, match=f"{victim.name} is damaged"):
        open_run(copy / "checkpoints" / "4")
    (copy / "checkpoints" / "2" / "hashes.json").unlink()
    with pytest.raises(ValueError, match="never completed"):
        open_run(copy / "checkpoints" / "2")


def test_another_tokenizer_is_refused(copy, tmp_path):
    train_sentencepiece(["other words"] * 9, vocab_size=30, lowercase=True, path=copy / "tokenizer.model")
    with pytest.raises(ValueError, match="the run was made with"):
        open_run(copy).tokenizer  # noqa: B018
    (copy / "tokenizer.model").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        open_run(copy).tokenizer  # noqa: B018


def test_missing_and_empty_runs_are_named(tmp_path, pretrained):
    with pytest.raises(FileNotFoundError, match="no run folder at .*nowhere"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        open_run(tmp_path)
    shutil.copy(pretrained / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        open_run(tmp_path)


# -- the passport


def network_for(source, heads=(), **changes):
    config = dataclasses.replace(source.model, **changes)
    return Network(config.build(), (*heads, ("classifier", Classifier(config, 2))))


def test_passport_accounts_for_every_leaf(pretrained):
    source = open_run(pretrained)
    network = network_for(source)
    params, passport = hand_off(source, network, jax.random.key(0))
    fates = {entry.path: entry for entry in passport.entries}
    wanted, held = flat(jax.eval_shape(network.init, jax.random.key(0))), flat(source.params)
    assert len(fates) == len(passport.entries) == len({*wanted, *held})
    for path, leaf in flat(params).items():
        entry = fates["/".join(path)]
        assert entry.shape == leaf.shape == wanted[path].shape
        if path[0] == "backbone":
            assert entry.status == "restored" and entry.stored == leaf.shape
            np.testing.assert_array_equal(leaf, held[path])
        else:
            assert (entry.status, entry.why, entry.stored) == (
                "re-initialised",
                "head new for this task",
                None,
            )
    assert {e.path.split("/")[1] for e in passport.entries if e.status == "dropped"} == {"masked_lm"}
    assert jax.tree.structure(params) == jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0)))
    cells = {column.header: list(column.cells) for column in passport.table().columns}
    assert "backbone/layers" in cells["part"] and sum(map(int, cells["leaves"])) == len(fates)


def test_heads_are_reused_only_when_asked(pretrained):
    source = open_run(pretrained)
    heads = (("masked_lm", MaskedLMHead(source.model)),)
    fresh, passport = hand_off(source, network_for(source, heads), jax.random.key(0))
    kernel = ("heads", "masked_lm", "dense", "kernel")
    why = {entry.path: entry.why for entry in passport.entries}
    assert why["/".join(kernel)] == "the run's masked_lm was not asked for"
    assert np.all(flat(fresh)[kernel] != flat(source.params)[kernel])
    reused, passport = hand_off(
        source, network_for(source, heads), jax.random.key(0), reuse_heads=("masked_lm",)
    )
    np.testing.assert_array_equal(flat(reused)[kernel], flat(source.params)[kernel])
    assert not [entry for entry in passport.entries if entry.status == "dropped"]
    with pytest.raises(ValueError, match="pooler.*classifier"):
        hand_off(source, network_for(source), jax.random.key(0), reuse_heads=("pooler",))


def test_positions_are_resized_only_with_the_models_consent(pretrained):
    source = open_run(pretrained)
    table = ("backbone", "embed", "positions")
    longer, passport = hand_off(source, network_for(source, max_positions=48), jax.random.key(0))
    stored = flat(source.params)[table]
    np.testing.assert_array_equal(flat(longer)[table], np.concatenate([stored, stored[:16]]))
    assert [(e.path, e.stored, e.shape) for e in passport.entries if e.status == "resized"] == [
        ("backbone/embed/positions", (32, 16), (48, 16))
    ]
    shorter, _ = hand_off(source, network_for(source, max_positions=8), jax.random.key(0))
    np.testing.assert_array_equal(flat(shorter)[table], stored[:8])


@pytest.mark.parametrize(
    ("changes", "drop", "words"),
    [
        ({"mlp_width": 24}, None, ("backbone/layers/mlp/up/kernel", "(2, 16, 32)", "(2, 16, 24)")),
        ({"types": 3}, None, ("backbone/embed/types", "(2, 16)", "(3, 16)")),
        ({"types": 0}, None, ("backbone/embed/types", "(2, 16)", "no such leaf")),
        ({}, "scale", ("backbone/embed_norm/scale", "(16,)", "no such leaf")),
    ],
)
def test_an_unexplained_leaf_is_an_error(pretrained, changes, drop, words):
    source = open_run(pretrained)
    if drop is not None:
        params = jax.tree.map(lambda x: x, source.params)
        del params["backbone"]["embed_norm"][drop]
        source = dataclasses.replace(source, params=params)
    with pytest.raises(ValueError) as error:
        hand_off(source, network_for(source, **changes), jax.random.key(0))
    for word in words:
        assert word in str(error.value)


# -- building


def test_both_arms_start_with_the_same_heads(pretrained, tables):
    restored = build(settings(pretrained, tables, seed=3))
    fresh = build(settings(pretrained, tables, seed=3, init_parameters="fresh"))
    assert fresh.parts.initial is None and {e.status for e in fresh.passport.entries} == {"re-initialised"}
    drawn = flat(fresh.parts.network.init(jax.random.split(jax.random.key(3), 3)[0]))
    given = flat(restored.parts.initial)
    for path, leaf in drawn.items():
        if path[0] == "heads":
            np.testing.assert_array_equal(leaf, given[path])
    tokens = ("backbone", "embed", "tokens")
    assert np.all(given[tokens] != drawn[tokens])


def test_labels_draw_a_nested_subset_but_classes_come_from_all(pretrained, tables):
    def texts(built):
        rows, found = built.parts.stream.batch(0), set()
        for row, segments in zip(rows["tokens"], rows["segment_ids"], strict=True):
            found |= {tuple(row[segments == i]) for i in range(1, segments.max() + 1)}
        return found

    def drawn(labels):
        data = {"labels": labels, "max_segments": 1}
        return texts(build(settings(pretrained, tables, batch_size=32, data=data)))

    few, more = drawn(3), drawn(12)
    assert few < more and 3 >= len(few) and 8 < len(more) <= 12
    built = build(settings(pretrained, tables, data={"labels": 1}))
    assert built.classes == ("bad", "good")


def test_epochs_set_the_steps(pretrained, tables):
    built = build(settings(pretrained, tables, steps=0, epochs=3.0, data={"max_segments": 1}))
    assert built.experiment.steps == 3 * 120 / 8
    assert built.description["experiment"]["steps"] == 45


def test_pairs_carry_type_ids(pretrained, tmp_path, tables):
    rows = [("fine film", "dull plot", "0"), ("warm story", "great scene", "1")] * 8
    table = write_csv(tmp_path / "pairs.csv", rows, ("a", "b", "label"))
    data = {"train": table, "eval": table, "text": "a", "text_pair": "b"}
    batch = build(settings(pretrained, tables, data=data)).parts.stream.batch(0)
    assert batch["type_ids"].max() == 1 and (batch["type_ids"] <= (batch["segment_ids"] > 0)).all()


# -- the command line


@pytest.fixture
def config_file(pretrained, tables, tmp_path):
    """A config file whose experiment is the `sentiment` fixture's, so that nothing compiles twice."""
    path = tmp_path / "config.py"
    path.write_text(
        "from tests.test_finetune_run import settings\n\n\n"
        f"def config():\n    return settings({str(pretrained)!r}, {str(tables)!r})\n"
    )
    return str(path)


def test_the_command_trains_scores_and_does_not_repeat_itself(config_file, tables, tmp_path, capsys):
    arguments = [config_file, "--workdir", f"{tmp_path}/run", "--data.test", f"{tables}/test.csv"]
    assert one_line_errors(main, arguments) == 0
    first = capsys.readouterr()
    for word in ("train_sample/accuracy", "eval/accuracy", "test/accuracy", "seconds"):
        assert word in first.out
    assert "re-initialised" in first.err and "packed 120 examples" in first.err
    passport = read_json(tmp_path / "run" / "passport.json")
    assert {e["status"] for e in passport["entries"]} == {"restored", "re-initialised", "dropped"}
    rows = len(read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert one_line_errors(main, arguments) == 0
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == rows, "a finished run is left as it is"
    assert one_line_errors(main, [*arguments, "--seed", "5"]) == 2
    assert "another experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--init", "/nowhere"], ("no run folder", "/nowhere")),
        (["--init", ""], ("--init",)),
        (["--data.train", "/nowhere.csv"], ("/nowhere.csv",)),
        (["--data.length", "64"], ("64", "32")),
        (["--batch-size", "12"], ("12", "8")),
        (["--data.labels", "500"], ("500", "120")),
        (["--data.text", "body"], ("body", "'text', 'label'")),
        (["--best", "eval/acuracy"], ("eval/acuracy", "eval/accuracy")),
        (["--reuse-heads", "nsp"], ("nsp", "pooler")),
        (["adapter:lora", "--adapter.rank", "99"], ("99", "16 x 16")),
        (["launcher:mesh", "--launcher.fsdp", "3"], ("fsdp=3", "8")),
    ],
)
def test_each_mistake_is_one_line(config_file, tmp_path, capsys, overrides, words):
    assert one_line_errors(main, [config_file, "--workdir", f"{tmp_path}/run", *overrides]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "run").exists(), "nothing is written before all checks have passed"


@pytest.mark.parametrize(
    ("train", "evaluated", "words"),
    [
        ([("a", "x"), ("b", "x")], [("a", "x")], ("'x'", "nothing to learn")),
        ([("a", "x"), ("b", "y")], [("a", "z")], ("eval.csv", "record 1", "'z'", "x, y")),
        ([("a", "x"), ("b", "")], [("a", "x")], ("train.csv", "record 2")),
    ],
)
def test_labels_that_cannot_work_are_named(config_file, tmp_path, capsys, train, evaluated, words):
    files = [write_csv(tmp_path / "train.csv", train), write_csv(tmp_path / "eval.csv", evaluated)]
    flags = ["--data.train", files[0], "--data.eval", files[1], "--workdir", f"{tmp_path}/run"]
    assert one_line_errors(main, [config_file, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_a_typo_is_answered_with_what_was_meant(config_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([config_file, "--workdir", str(tmp_path / "run"), "--data.lenght", "16"])
    assert end.value.code == 2 and "--data.length" in capsys.readouterr().err


def test_a_pretraining_run_cannot_predict(pretrained):
    done = subprocess.run(
        [sys.executable, "-m", "finetune.predict", str(pretrained)],
        input="fine\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "not a fine-tuned run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- entities


def test_entities_count_only_when_type_and_both_ends_agree():
    true = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"], ["O", "O"]]
    found = [["B-PER", "O", "O", "B-ORG", "B-LOC"], ["B-LOC", "I-LOC"]]
    scores = evaluate.entity_scores(true, found)
    assert scores == {"f1": pytest.approx(2 / 7), "precision": 0.25, "recall": pytest.approx(1 / 3)}
    assert evaluate.entity_scores([["O"]], [["O"]])["f1"] == 0.0
