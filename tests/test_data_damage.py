"""Whatever is wrong with a prepared corpus is one line that names the file, or what is read is the same."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import partial, seals
from data.documents import Documents
from data.packing import Framing, PackedRows
from data.prepare import TrainTokenizer, prepare
from data.tokenizer import SentencePieceTokenizer, load_tokenizer
from tests.damage import damaged_bytes, folder_instead
from train.describe import read_json

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = np.random.default_rng(0).choice(["ba", "do", "fi", "gu", "ke", "lo"], (40, 30))
    (folder / "a.txt").write_text("\n\n".join(" ".join(row) for row in words))
    how = TrainTokenizer(vocab_size=40)
    prepare(str(folder / "a.txt"), tokenizer=how, out=folder / "prepared")
    return folder, how


def read_corpus(folder):
    docs = Documents.load(folder)
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    rows = PackedRows(docs, length=32, framing=Framing.named("cls_sep", tokenizer))
    return (
        docs.tokens.tolist(),
        docs.starts.tolist(),
        docs.hashes.tolist(),
        rows.take(range(len(rows)))["tokens"].tolist(),
    )


@pytest.mark.parametrize("count", [48, pytest.param(600, marks=pytest.mark.thorough)])
def test_damage_to_a_corpus(corpus, tmp_path, count, capsys):
    folder = Path(shutil.copytree(corpus[0] / "prepared", tmp_path / "prepared"))
    before, chance = read_corpus(folder), random.Random(count)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(damaged_bytes(content, chance))
        try:
            assert read_corpus(folder) == before
        except (ValueError, OSError) as error:
            assert str(folder) in str(error) and "\n" not in str(error)
        if path.parent == folder:
            path.write_bytes(content)


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "hashes.npy", "meta.json", "tokenizer.model"])
def test_a_missing_or_odd_file_of_a_corpus_is_named(corpus, tmp_path, name):
    folder = Path(shutil.copytree(corpus[0] / "prepared", tmp_path / "prepared"))
    for damage in (lambda path: path.write_bytes(b""), folder_instead, lambda path: path.rmdir()):
        damage(folder / name)
        with pytest.raises((ValueError, OSError), match=name.split(".")[0]):
            prepare(str(corpus[0] / "a.txt"), tokenizer=corpus[1], out=folder)


def test_a_damaged_corpus_of_the_cache_is_prepared_again(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path))
    given = str(corpus[0] / "a.txt")
    first = prepare(given, tokenizer=corpus[1])
    expected = first.tokens.tolist()
    (first.directory / "meta.json").unlink()
    assert prepare(given, tokenizer=corpus[1]).tokens.tolist() == expected
    assert "no meta.json): preparing it again" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [first.directory.name]


def test_a_corpus_without_hashes_is_read_with_a_line(corpus, tmp_path, capsys):
    folder = Path(shutil.copytree(corpus[0] / "prepared", tmp_path / "prepared"))
    meta = read_json(folder / "meta.json")
    before = read_corpus(folder)
    (folder / "meta.json").write_text(
        json.dumps({k: v for k, v in meta.items() if k not in ("files", "digest")})
    )
    assert read_corpus(folder) == before
    assert "was prepared without hashes" in capsys.readouterr().err
    offsets = np.load(folder / "offsets.npy")
    np.save(folder / "offsets.npy", offsets[::-1])
    with pytest.raises(ValueError, match=r"its offsets end at 0"):
        read_corpus(folder)


def test_large_files_are_hashed_again_only_when_they_were_touched(corpus, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(corpus[0] / "prepared", tmp_path / "prepared"))
    monkeypatch.setattr(seals, "LARGE", 500)
    hashed = []
    real = seals.sha256
    monkeypatch.setattr(seals, "sha256", lambda path: hashed.append(path.name) or real(path))
    for _ in range(2):
        Documents.load(folder)
    assert hashed.count("tokens.npy") == 1 and hashed.count("hashes.npy") >= 1
    content = bytearray((folder / "tokens.npy").read_bytes())
    state = (folder / "tokens.npy").stat()
    content[-1] ^= 1
    (folder / "tokens.npy").write_bytes(content)
    os.utime(folder / "tokens.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ValueError, match=r"tokens.npy is damaged: its hash differs"):
        Documents.load(folder)


LEAVES = "import os, sys, signal; from pathlib import Path; from data.partial import partial_folder\n" + (
    "with partial_folder(Path(sys.argv[1])) as partial:\n"
    "    (partial / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path):
    final = tmp_path / "corpus"
    subprocess.run([sys.executable, "-c", LEAVES, str(final)], cwd=ROOT, check=False)
    (tmp_path / "corpus.partial-0123456789ab").mkdir()  # as older versions left it
    os.utime(tmp_path / "corpus.partial-0123456789ab", (0, 0))
    assert len(list(tmp_path.iterdir())) == 3
    with partial.partial_folder(final) as mine:
        with partial.partial_folder(final) as other:
            assert mine.is_dir() and other.is_dir()
        assert mine.is_dir() and not other.exists()
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_file_that_is_damaged_is_named(tmp_path):
    for content in (b"", b"{", b'{"format": 1}', b"x" * 100, SentencePieceTokenizer.__doc__.encode()):
        (tmp_path / "t.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.model is damaged or no tokenizer"):
            load_tokenizer(tmp_path / "t.model")
    with contextlib.suppress(FileNotFoundError):
        load_tokenizer(tmp_path)
