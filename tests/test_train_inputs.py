"""A run goes on only with what it has read: tables, corpora to the last bit, and the run that it started from."""

import dataclasses
import json
import os
import types

import jax.numpy as jnp
import pytest

from data import digests
from data.digests import file_digest, records_digest
from data.documents import Documents, DocumentsWriter
from data.prepare import prepare
from data.sources import documents, records
from data.tokenizer import train_sentencepiece
from finetune.build import build
from objectives.masked_lm import MaskedLM
from tests.tiny import encoder
from tests.tuned import settings, write_csv
from train.build import build as build_pretraining
from train.describe import decode, read_json
from train.experiment import Experiment
from train.inputs import changed, same
from train.launch import Mesh
from train.restore import open_run
from train.text import TextData
from train.workdir import claim

pytestmark = pytest.mark.usefixtures("own_cache")
TABLES = {
    "csv": "text,label\nfine film,good\nAwful plot,bad\nlovely actor,good\n",
    "tsv": "text\tlabel\nfine film\tgood\nAwful plot\tbad\nlovely actor\tgood\n",
    "jsonl": "".join(
        json.dumps({"text": t, "label": k}) + "\n"
        for t, k in (("fine film", "good"), ("Awful plot", "bad"), ("lovely actor", "good"))
    ),
    "conll": "fine good\nfilm O\n\nAwful bad\nplot O\n",
}


def same_size_and_times(path, change):
    """Other content under the same size and time of modification, as `sed -i` and `touch` leave it."""
    stat, before = path.stat(), path.read_text()
    after = change(before)
    assert after != before and len(after) == len(before)
    path.write_text(after)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("change", [("Awful", "awful"), ("plot", "film"), ("good", "poor")])
def test_every_table_has_a_digest_of_what_is_read(tmp_path, suffix, change):
    path = tmp_path / f"a.{suffix}"
    path.write_text(TABLES[suffix])
    before = records_digest(records(str(path)))
    # How the file writes it is no matter: line ends, say.
    path.write_text(TABLES[suffix].replace("\n", "\r\n"))
    assert records_digest(records(str(path))) == before
    path.write_text(TABLES[suffix])
    same_size_and_times(path, lambda text: text.replace(*change))
    after = records_digest(records(str(path)))
    assert after["records"] == before["records"] and after["sha256"] != before["sha256"]


@pytest.mark.parametrize("table", ["train", "eval", "test"])
def test_a_fine_tuning_run_refuses_changed_tables(pretrained, tmp_path, table):
    rows = [(f"{'fine' if i % 2 else 'dull'} film {i}", ("bad", "good")[i % 2]) for i in range(24)]
    files = {name: write_csv(tmp_path / f"{name}.csv", rows) for name in ("train", "eval", "test")}
    experiment = settings(pretrained, tmp_path, data=files)
    built = build(experiment)
    claim(tmp_path / "run", built.description, built.tokenizer)
    spelt = dataclasses.replace(experiment, init=f"{experiment.init}/")
    claim(tmp_path / "run", build(spelt).description, built.tokenizer)
    same_size_and_times(tmp_path / f"{table}.csv", lambda text: text.replace("fine film 3,", "dull film 3,"))
    with pytest.raises(ValueError) as error:
        claim(tmp_path / "run", build(experiment).description, built.tokenizer)
    message = str(error.value)
    assert (
        "\n" not in message
        and f"made with other inputs: data.{table} ({files[table]}) was 24 records" in message
    )
    assert "choose another --workdir" in message


def test_a_run_refuses_another_checkpoint_of_the_run_it_started_from(pretrained, tables, tmp_path):
    experiment = settings(pretrained, tables)
    built = build(experiment)
    assert built.description["inputs"]["init"]["step"] == 4
    claim(tmp_path / "run", built.description, built.tokenizer)
    source = open_run(pretrained)
    source.params["heads"] = {name: {"kernel": jnp.zeros(1)} for name in source.params["heads"]}
    with pytest.raises(ValueError, match=r"init .* was step 4 with sha256 .*, is now step 4 with sha256"):
        claim(tmp_path / "run", build(experiment, source).description, built.tokenizer)
    # From scratch nothing of it is read but the shape.
    assert "init" not in build(settings(pretrained, tables, init_parameters="fresh")).description["inputs"]


def test_a_run_of_an_older_version_goes_on_and_says_what_it_cannot(pretrained, tables, tmp_path, caplog):
    built = build(settings(pretrained, tables))
    old = {name: value for name, value in built.description.items() if name != "inputs"}
    claim(tmp_path / "run", old, built.tokenizer)
    claim(tmp_path / "run", built.description, built.tokenizer)
    (message,) = caplog.messages
    assert "an older version made it and kept no digest of data.eval, data.train, init" in message
    assert "inputs" not in read_json(tmp_path / "run" / "config.json")


# Corpora


def test_a_corpus_is_told_from_others_to_the_last_bit(tmp_path):
    tokens = [[7, 8, 9], [10], [7]]
    docs = Documents.from_tokens(tokens, hashes=[1, 2, 3])
    other = Documents.from_tokens([[7, 8, 9], [11], [7]], hashes=[1, 2, 3])
    moved = Documents.from_tokens([[7, 8], [9, 10], [7]], hashes=[1, 2, 3])
    assert docs.digest == other.digest == moved.digest
    assert len({docs.content, other.content, moved.content, docs.select([0, 1]).content}) == 4
    # Written chunk by chunk, opened and counted anew.
    with DocumentsWriter(tmp_path / "corpus") as writer:
        for some in (slice(0, 1), slice(1, 3)):
            part = Documents.from_tokens(tokens[some])
            writer.add(part.tokens, part.lengths, part.hashes)
        written = writer.finish({})
    assert written.content == docs.content == Documents.load(tmp_path / "corpus").content
    assert "content" not in written.meta and written.select([0, 1, 2]).content == docs.content


def test_pretraining_refuses_a_corpus_of_other_case(tmp_path, caplog):
    text, run = tmp_path / "a.txt", tmp_path / "run"
    text.write_text("\n\n".join(f"Fine film number {i} of many" for i in range(60)))
    tokenizer = train_sentencepiece(
        [text.read_text()], vocab_size=40, lowercase=False, path=tmp_path / "t.model"
    )
    data = TextData(files=(str(text),), tokenizer=f"{tmp_path}/t.model", length=32, held_out=0.2, eval_rows=8)
    model = encoder(vocab_size=tokenizer.vocab_size)
    experiment = Experiment(
        steps=1, batch_size=8, launcher=Mesh(), model=model, objective=MaskedLM(), data=data
    )
    before = build_pretraining(experiment)
    claim(run, before.description, before.tokenizer)
    moved = tmp_path / "b.txt"
    moved.write_text(text.read_text())
    elsewhere = dataclasses.replace(experiment, data=dataclasses.replace(data, files=(str(moved),)))
    claim(run, build_pretraining(elsewhere).description, before.tokenizer)  # the same text in another place
    same_size_and_times(text, lambda content: content.replace("Fine film number 7 ", "fine film number 7 "))
    after = build_pretraining(experiment)
    assert after.description["corpora"] == before.description["corpora"], "blind to case"
    with pytest.raises(
        ValueError, match=r"data.files .*a.txt. was 60 documents with sha256 .*, is now 60 documents"
    ):
        claim(run, after.description, after.tokenizer)
    # What it held out is another text, too.
    source = types.SimpleNamespace(
        folder=run,
        description=before.description,
        tokenizer=before.tokenizer,
        stored=lambda name: decode(before.description[name]),
    )
    with pytest.raises(ValueError, match="the files have changed, and what was held out with them"):
        data.evaluation_rows(experiment, source, ())
    # Scored on all that it was trained on, it is told so.
    told = dataclasses.replace(experiment, objective=after.parts.objective)
    data.read_files(told, source, (str(text),), "", ())
    assert not caplog.messages
    same_size_and_times(text, lambda content: content.replace("fine film number 7 ", "Fine film number 7 "))
    data.read_files(told, source, (str(text),), "", ())
    assert "a.txt is what" in caplog.messages[0] and "was trained on (data.files)" in caplog.messages[0]


def test_a_prepared_corpus_is_fresh_by_content(pretrained, tmp_path, monkeypatch):
    text = tmp_path / "a.txt"
    text.write_text("fine film\n\ndull plot\n")
    tokenizer = pretrained / "tokenizer.model"
    first = prepare(str(text), tokenizer=tokenizer)
    same_size_and_times(text, lambda content: content.replace("dull", "cold"))
    second = prepare(str(text), tokenizer=tokenizer)
    assert first.directory != second.directory and first.content != second.content
    # Whatever its time says, the same content is the same corpus.
    os.utime(text, (1, 1))
    assert prepare(str(text), tokenizer=tokenizer).directory == second.directory


def test_a_large_file_is_hashed_once_and_again_where_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", 4)
    path = tmp_path / "a.txt"
    path.write_text("one two")
    first = file_digest(path)
    hashed = []
    monkeypatch.setattr(digests, "sha256", lambda path: hashed.append(path) or "new")
    # Just written: its times cannot tell it from what may be written in the same moment.
    assert file_digest(path) == "new" and len(hashed) == 1
    monkeypatch.undo()
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setattr(digests, "_SETTLED", -1.0)
    assert file_digest(path) == first
    monkeypatch.setattr(digests, "sha256", lambda path: pytest.fail("hashed again"))
    assert file_digest(path) == first
    monkeypatch.setattr(digests, "sha256", lambda path: "other")
    same_size_and_times(path, lambda content: content.replace("two", "six"))
    assert file_digest(path) == "other"


def test_what_changed_is_said_by_name():
    stored = {
        "data.files[1]": {"documents": 1200, "sha256": "a" * 64},
        "init": {"step": 5, "sha256": "b" * 64},
    }
    new = {
        "data.files[1]": {"documents": 7, "sha256": "c" * 64},
        "init": stored["init"],
        "more": stored["init"],
    }
    description = {"experiment": {"data": {"files": ["x", "y"]}}}
    assert changed(stored, new, description) == [
        "data.files[1] (x, y) was 1,200 documents with sha256 aaaaaaaaaaaaaaaa..., is now 7 documents with sha256 "
        "cccccccccccccccc..."
    ]


def test_where_an_input_lies_is_not_what_it_is():
    files = {"data.files": {"documents": 3, "sha256": "a"}, "init": {"step": 4, "sha256": "b"}}
    assert same(files, files) == ["data.files", "init"]
    assert same(files, {**files, "init": {"step": 5, "sha256": "c"}}) == ["data.files"]
    mixed = {"data.files[0]": {"sha256": "a"}, "data.files[1]": {"sha256": "b"}}
    assert same(mixed, mixed) == ["data.files"]
    assert same(mixed, {**mixed, "data.files[1]": {"sha256": "c"}}) == []
    assert same({}, files) == []  # nobody can say


def test_a_line_can_be_a_document(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("one\ntwo\n\nthree\n")
    assert list(documents(str(file))) == ["one\ntwo", "three"]
    lines = documents(str(file), end="line")
    assert list(lines) == ["one", "two", "three"]
    assert lines.fingerprint != documents(str(file)).fingerprint
