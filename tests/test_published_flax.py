"""Weights that the Flax classes of transformers 4 wrote: they compute here what they computed there.

The models of tests/golden/flax were made and run by benchmarks/make_flax_goldens.py.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize, to_bytes
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from finetune.convert import export_run
from finetune.published.reading import read
from finetune.published.writing import write
from finetune.states import hidden_states, load, rows
from tests.published import assert_computes_the_same
from train.checkpoint import flat

GOLDEN = Path(__file__).parent / "golden" / "flax"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
FILE = "flax_model.msgpack"


@pytest.fixture
def bert(tmp_path):
    """A copy to damage: (folder, its tree)."""
    folder = tmp_path / "bert"
    shutil.copytree(GOLDEN / "FlaxBertForMaskedLM", folder)
    return folder, msgpack_restore((folder / FILE).read_bytes())


def assert_same(a, b):
    for path, leaf in flat(a.params).items():
        np.testing.assert_array_equal(leaf, flat(b.params)[path], err_msg="/".join(path))


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_it_computed_there(name):
    found = read(GOLDEN / name)
    assert "Flax" + found.architecture == name.split("_")[0]
    assert_computes_the_same(found, GOLDEN / name / "outputs.npz")
    assert {entry.status for entry in found.passport.entries} == {"restored"}


@pytest.mark.parametrize("name", NAMES)
def test_written_as_safetensors_it_is_the_same_model(name, tmp_path):
    found = read(GOLDEN / name)
    own = {"family": found.family, "architecture": found.architecture, "classes": found.classes}
    write(tmp_path, model=found.network.backbone.config, params=found.params, config=found.config, **own)
    assert_same(found, read(tmp_path))


def test_a_run_goes_out_and_comes_back_as_flax(pretrained, tmp_path):
    export_run(pretrained, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    leaves = {}
    for name, x in tensors.items():
        *path, leaf = name.split(".")
        if leaf == "weight":
            leaf = "embedding" if "embeddings" in path[-1] else "kernel" if x.ndim == 2 else "scale"
        leaves[(*path, leaf)] = np.ascontiguousarray(x.T) if leaf == "kernel" else x
    (tmp_path / FILE).write_bytes(to_bytes(unflatten_dict(leaves)))
    before = load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    after = load(tmp_path)
    batch = rows(after, ["a fine film", "dull"])
    np.testing.assert_array_equal(hidden_states(before, batch), hidden_states(after, batch))


def test_shards_and_short_numbers(bert):
    folder, tree = bert
    whole = read(folder)
    leaves = {path: x.astype(jax.numpy.bfloat16) for path, x in flatten_dict(tree).items()}
    (folder / FILE).unlink()
    places = {}
    for number, path in enumerate(leaves):
        places["/".join(path)] = f"flax_model-0000{1 + number % 2}-of-00002.msgpack"
    for file in set(places.values()):
        own = {path: x for path, x in leaves.items() if places["/".join(path)] == file}
        (folder / file).write_bytes(to_bytes(unflatten_dict(own)))
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": places}))
    found = read(folder)
    assert found.dtype == "bfloat16"
    for path, leaf in flat(found.params).items():
        np.testing.assert_allclose(leaf, flat(whole.params)[path], rtol=2**-8)
    places["bert/pooler/extra/kernel"] = file
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"lacks bert\.pooler\.extra\.weight, which its index says"):
        read(folder)


def test_safetensors_of_flax_are_known_by_what_they_say(bert):
    folder, tree = bert
    found = read(folder)
    (folder / FILE).unlink()
    flattened = {".".join(path): np.ascontiguousarray(x) for path, x in flatten_dict(tree).items()}
    save_file(flattened, folder / "model.safetensors", metadata={"format": "flax"})
    assert_same(found, read(folder))
    save_file(flattened, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is no whole BertForMaskedLM"):
        read(folder)


def test_safetensors_are_read_where_there_are_both(bert, tmp_path):
    folder, _ = bert
    found = read(folder)
    write(
        tmp_path / "safe",
        model=found.network.backbone.config,
        params=found.params,
        family=found.family,
        architecture=found.architecture,
    )
    (tmp_path / "safe" / FILE).write_bytes(b"nothing")
    assert_same(found, read(tmp_path / "safe"))


def test_damaged_files_are_one_line(bert):
    folder, tree = bert
    whole = (folder / FILE).read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[: rng.integers(len(whole))] for _ in range(20)]
    for _ in range(60):
        damaged = bytearray(whole)
        # The beginning, where names, shapes and lengths are dense.
        damaged[rng.integers(min(len(whole), 400))] = rng.integers(256)
        cuts.append(bytes(damaged))
    refused = 0
    for damaged in cuts:
        (folder / FILE).write_bytes(damaged)
        try:
            read(folder)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 30  # all cut ones; a byte of a number changes nothing that is checked
    for wrong in ([1, 2], 3, {"bert": {"a": "text"}}, {"bert": {"a": None}}, {b"bert": {1: tree}}):
        (folder / FILE).write_bytes(msgpack_serialize(wrong))
        with pytest.raises(ValueError, match=r"no msgpack of Flax|which is no array"):
            read(folder)
