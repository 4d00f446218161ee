"""Opening a run, whole or damaged, and the leaf-by-leaf account of what is taken from it."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from data.tokenizer import train_sentencepiece
from model.heads import Classifier, MaskedLMHead
from model.network import Network
from train.checkpoint import flat
from train.passport import hand_off
from train.restore import open_run

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
