"""The computed token table: what it must say of words that share documents, and where a run may start from it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from data.documents import Documents
from data.semantics import count_matrix, semantic_table, truncated_svd
from objectives.masked_lm import MaskedLM
from tests.tiny import encoder
from train.build import build
from train.experiment import Experiment
from train.text import SEMANTIC_STD, TextData

# Of different letters, so that no piece belongs to both.
GOOD, BAD = "hahu huha hauh".split(), "woky kywo yowk".split()


def topics(count=200, seed=0):
    """Documents of tokens 7..16 or 17..26 with common tokens 27..36; ids below 7 are special."""
    rng = np.random.default_rng(seed)
    draw = [
        np.concatenate([rng.integers(7, 17, 8) + 10 * (i % 2), rng.integers(27, 37, 20)])
        for i in range(count)
    ]
    return Documents.from_tokens(draw)


def test_tokens_that_share_documents_are_alike():
    table = semantic_table(topics(), vocab_size=40, width=8, first_ordinary_id=7)
    assert table.shape == (40, 8) and table.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1.0, rtol=1e-5)
    cosines = table @ table.T
    within = [cosines[a, b] for a in range(7, 17) for b in range(7, a)]
    between = [cosines[a, b] for a in range(7, 17) for b in range(17, 27)]
    assert np.mean(within) > np.mean(between) + 0.4


def test_the_table_is_a_function_of_documents_and_seed():
    first, again, other = (
        semantic_table(topics(), vocab_size=40, width=8, first_ordinary_id=7, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first[:7] != other[:7])


def test_the_svd_equals_the_exact_one():
    counts = count_matrix(topics(60), 40)
    strengths, components = truncated_svd(counts, 3, np.random.default_rng(0))
    _, exact, rows = np.linalg.svd(counts.toarray(), full_matrices=False)
    np.testing.assert_allclose(strengths, exact[:3], rtol=1e-4)
    np.testing.assert_allclose(abs(np.sum(components * rows[:3], axis=1)), 1.0, rtol=1e-3)


def test_fewer_documents_than_components_leave_the_rest_random():
    table = semantic_table(topics(4), vocab_size=40, width=16, first_ordinary_id=7)
    assert np.isfinite(table).all() and np.linalg.norm(table[7:17]) > 0


def corpus(folder):
    rng = np.random.default_rng(0)
    file = folder / "reviews.jsonl"
    texts = [" ".join(rng.choice((GOOD, BAD)[i % 2], 12)) + f" film number {i}" for i in range(200)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def experiment(file, **changes):
    made = Experiment(
        model=encoder(vocab_size=50),
        objective=MaskedLM(),
        data=TextData(files=(file,), length=32, max_segments=4, held_out=0.1, eval_rows=8),
        steps=1,
        batch_size=8,
        table="semantic",
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def built(tmp_path, monkeypatch):
    monkeypatch.setenv("HANDOFF_CACHE", str(tmp_path / "cache"))
    return build(experiment(corpus(tmp_path)))


def test_a_run_starts_from_the_computed_table_and_draws_the_rest(built):
    given = built.parts.initial
    drawn = built.parts.network.init(jax.random.split(jax.random.key(0), 3)[0])
    table = given["backbone"]["embed"]["tokens"]
    assert abs(float(np.sqrt(np.mean(np.square(table)))) - SEMANTIC_STD) < 1e-3
    same = jax.tree_util.tree_map_with_path(
        lambda path, a, b: bool(np.array_equal(a, b)) == (path[-1].key != "tokens"), given, drawn
    )
    assert all(jax.tree.leaves(same))
    unit = np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True))
    vector = {word: unit[built.tokenizer.encode(word)].sum(0) for word in (*GOOD, *BAD)}
    assert vector["hahu"] @ vector["huha"] > vector["hahu"] @ vector["woky"]


def test_a_mixture_of_corpora_has_no_one_table():
    mixed = TextData(files=("a", "b"), weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"'semantic'.*mixes 2"):
        experiment("a", data=mixed)
