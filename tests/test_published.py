"""Published checkpoints: they compute here what they compute there and come back with the same bits; a wrong door is named.

The models of tests/golden/families were drawn and run in PyTorch by benchmarks/published_parity.py.
"""

import json
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune.published.families import FAMILIES, families_for, family_of
from finetune.published.files import PublishedFiles, write_files
from finetune.published.reading import read
from finetune.published.writing import choose, write
from model.encoder import encoder_tiny
from objectives.sequence_classification import SequenceClassification
from objectives.token_classification import TokenClassification
from tests.published import assert_computes_the_same, batch_of
from train.checkpoint import flat
from train.launch import Mesh

GOLDEN = Path(__file__).parent / "golden" / "families"
NAMES = [family.model_type for family in FAMILIES]
THOROUGH = (
    "bert",
    "gpt2",
    "llama_stretched",
    "mistral",
    "modernbert",
    "t5_v1_0",
    "RobertaForSequenceClassification",
)
"""One of each way to read a config.json: here every key gets every wrong value."""
FILES = sorted(path.name for path in GOLDEN.iterdir())


@pytest.fixture
def bert(tmp_path):
    """A copy to damage: (folder, its tensors)."""
    folder = tmp_path / "bert"
    shutil.copytree(GOLDEN / "bert", folder)
    return folder, load_file(folder / "model.safetensors")


def put(folder, tensors, **config):
    save_file(tensors, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))


def written(found, folder, **more):
    model = found.network.backbone.config
    family, architecture = choose(
        model, frozenset(found.params["heads"]), found.architecture, found.family.model_type
    )
    return write(folder, model=model, params=found.params, family=family, architecture=architecture, **more)


@pytest.mark.parametrize("name", FILES)
def test_it_computes_what_it_computes_there(name):
    assert_computes_the_same(read(GOLDEN / name), GOLDEN / name / "outputs.npz")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("Classification")])
def test_the_objective_that_fine_tunes_here_says_what_their_class_says(name):
    found, golden = read(GOLDEN / name), np.load(GOLDEN / name / "outputs.npz")
    batch = batch_of(golden)
    bound, classes = found.network.bind(found.params), len(found.classes)
    hidden = bound.encode(batch)
    if "TokenClassification" in name:
        ours, real = (
            TokenClassification(classes=classes).logits(bound, hidden, batch),
            batch["segment_ids"] > 0,
        )
        np.testing.assert_allclose(ours[real], golden["logits"][real], atol=1e-4)
    else:
        objective = SequenceClassification(classes=classes, pooling=found.pooling)
        one_text_a_row = batch | {"labels": np.zeros((len(batch["tokens"]), 1), np.int32)}
        ours = objective.logits(bound, hidden, one_text_a_row)[:, 0]
        np.testing.assert_allclose(ours, golden["of_text"], atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_what_was_read_is_written_with_the_same_bits(name, tmp_path):
    found = read(GOLDEN / name)
    written(found, tmp_path / "out", config=found.config, classes=found.classes)
    before, after = (load_file(f / "model.safetensors") for f in (GOLDEN / name, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(before[k].dtype == after[k].dtype and np.array_equal(before[k], after[k]) for k in before)
    again = read(tmp_path / "out")
    assert again.network.backbone.config == found.network.backbone.config
    assert again.architecture == found.architecture


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_and_every_leaf_is_accounted_for(name):
    found = read(GOLDEN / name)
    restored = {entry.path for entry in found.passport.entries if entry.status == "restored"}
    assert restored == {"/".join(path) for path in flat(found.params)}
    # Nothing is left over, so all tensors went into them: none of these files repeats any.
    assert len(restored) == len(found.passport.entries)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_short_dtype_keeps_its_bits_too(dtype, tmp_path):
    found = read(GOLDEN / "llama")
    written(found, tmp_path / "short", dtype=dtype)
    short = read(tmp_path / "short")
    assert short.dtype == dtype and all(x.dtype == np.float32 for x in jax.tree.leaves(short.params))
    written(short, tmp_path / "again", dtype=short.dtype)
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("short", "again"))
    assert all(np.array_equal(before[k].view(np.uint16), after[k].view(np.uint16)) for k in before)


def test_shards_are_read_as_one_and_written_as_many(tmp_path):
    found = read(GOLDEN / "gpt2")
    tensors = load_file(GOLDEN / "gpt2" / "model.safetensors")
    files = write_files(tmp_path / "many", found.config, iter(tensors.items()), shard_bytes=4000)
    assert len(files) > 2 and all(file.exists() for file in files)
    sharded = read(tmp_path / "many")
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(sharded.params), strict=True):
        np.testing.assert_array_equal(a, b)
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{files[1].name} is missing"):
        read(tmp_path / "many")


@pytest.mark.parametrize("name", ["llama", "gpt2", "modernbert"])
def test_onto_a_mesh_each_device_gets_its_part(name):
    plain, placed = read(GOLDEN / name), read(GOLDEN / name, launcher=Mesh(fsdp=2, tensor=2))
    for path, leaf in flat(placed.params).items():
        np.testing.assert_array_equal(flat(plain.params)[path], leaf)
    parts = [leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(placed.params)]
    assert min(parts) <= 0.5


def test_old_names_of_norms_and_repeated_tensors_are_understood(bert):
    folder, tensors = bert
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in tensors.items()
    }
    table = tensors["bert.embeddings.word_embeddings.weight"]
    put(folder, old | {"cls.predictions.decoder.weight": table, "bert.embeddings.position_ids": np.arange(9)})
    found, plain = read(folder), read(GOLDEN / "bert")
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_array_equal(a, b)
    dropped = {e.path: e.why for e in found.passport.entries if e.status == "dropped"}
    assert dropped == {
        "cls.predictions.decoder.weight": "says again what bert.embeddings.word_embeddings.weight says",
        "bert.embeddings.position_ids": "no parameter: the numbers 0, 1, 2, ...",
    }


def test_another_class_leaves_heads_behind(bert):
    folder, _ = bert
    found = read(folder, architecture="BertModel")
    assert not found.params["heads"]
    left = {e.why for e in found.passport.entries if e.status == "dropped"}
    assert left == {"of BertForMaskedLM, not of BertModel"} or left == {
        "of BertForPreTraining, not of BertModel"
    }


DAMAGES = [
    ({}, {"cls.predictions.bias": None}, r"cls\.predictions\.bias \[\d+\] is missing"),
    ({}, {"bert.extra": np.zeros(3, np.float32)}, r"tensors that no bert .* has: bert\.extra \[3\]"),
    (
        {},
        {"cls.predictions.bias": np.zeros(2, np.float32)},
        r"cls\.predictions\.bias has shape \[2\], but config.json asks for \[\d+\]",
    ),
    ({}, {"cls.predictions.bias": "int"}, r"cls\.predictions\.bias is of dtype I32, not one of F64"),
    (
        {},
        {"cls.predictions.decoder.weight": np.zeros((2, 2), np.float32)},
        r"cls\.predictions\.decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight",
    ),
    ({"model_type": "bart"}, {}, "model_type 'bart' cannot be read; those that can are bert, roberta"),
    ({"model_type": None}, {}, "model_type None cannot be read"),
    ({"hidden_act": "relu"}, {}, "hidden_act is 'relu', but BertConfig computes 'gelu' only"),
    ({"num_hidden_layers": 10**9}, {}, "asks for 1,000,000,000 layers, but the file has"),
    ({"hidden_size": "64"}, {}, "hidden_size is '64', which is no int for width"),
    ({"hidden_size": 10**12}, {}, "hidden_size is 1000000000000"),
    ({"hidden_size": True}, {}, "hidden_size is True"),
    ({"vocab_size": 12.5}, {}, "vocab_size is 12.5"),
    ({"num_attention_heads": 7}, {}, "is not divisible by heads 7"),
    ({"layer_norm_eps": None}, {}, "layer_norm_eps is None, which is no float"),
    (
        {"architectures": ["BertForSomething"]},
        {},
        "'BertForSomething' of bert cannot be read; choose one of BertModel",
    ),
]


@pytest.mark.parametrize(("config", "changes", "message"), DAMAGES, ids=range(len(DAMAGES)))
def test_a_wrong_door_is_named(bert, config, changes, message):
    folder, tensors = bert
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = tensors[name].astype(np.int32) if isinstance(value, str) else value
    put(folder, tensors, **config)
    with pytest.raises(ValueError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_opened(bert):
    folder, _ = bert
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle, which may run code .* s.save_file"):
        read(folder)


def test_an_index_names_files_of_its_own_folder_only(bert):
    folder, tensors = bert
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError,
        match=r"names '\.\./elsewhere\.safetensors', which is no \.safetensors file of this folder",
    ):
        read(folder)
    for places in ({"x": "a" * 300 + ".safetensors"}, {}, ["x"], {"x": None}):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        with pytest.raises(
            ValueError, match=r"which is no \.safetensors file|has no weight_map of names to files"
        ):
            read(folder)


@pytest.mark.parametrize("size", [2**63, 2**40, 200_000_000, 0, 7])
def test_a_header_of_a_malicious_size_is_refused(bert, size):
    folder, _ = bert
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", size) + file.read_bytes()[8:])
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        PublishedFiles(folder)


@pytest.mark.parametrize(
    ("name", "thorough"),
    [(name, False) for name in FILES]
    + [pytest.param(name, True, marks=pytest.mark.slow) for name in THOROUGH],
)
def test_whatever_is_damaged_ends_in_one_clear_error(name, thorough, tmp_path):
    """Bytes of the header changed or cut off; values of config.json replaced."""
    folder = tmp_path / "damaged"
    shutil.copytree(GOLDEN / name, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, settings = weights.read_bytes(), json.loads(config.read_text())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    values = [0, -1, 3, 10**30, 12.5, 1e300, float("nan"), "x", None, [], {}, True, [["x"]], {"0": 1}]
    trials = [(key, value) for key in settings for value in values] if thorough else []
    trials += [(rng.choice(list(settings)), values[rng.integers(len(values))]) for _ in range(9)]
    cuts = [whole[: rng.integers(len(whole))] for _ in range(4)]
    for _ in range(8):
        damaged = bytearray(whole)
        damaged[rng.integers(header)] = rng.integers(256)
        cuts.append(bytes(damaged))
    refused = 0
    for number in range(len(trials) + len(cuts)):
        key, value = trials[number] if number < len(trials) else ("", None)
        weights.write_bytes(whole if key else cuts[number - len(trials)])
        config.write_text(json.dumps(settings | ({key: value} if key else {})))
        try:
            read(folder)
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 4  # cut files always


def test_a_modernbert_classifier_pools_as_its_file_says(tmp_path):
    """Both are published; the golden is of one of them, and the other says something else."""
    name = "ModernBertForSequenceClassification"
    shutil.copytree(GOLDEN / name, tmp_path / name)
    path = tmp_path / name / "config.json"
    settings = json.loads(path.read_text())
    other = {"cls": "mean", "mean": "cls"}[settings["classifier_pooling"]]
    path.write_text(json.dumps(settings | {"classifier_pooling": other}))
    assert read(tmp_path / name).pooling == other
    with pytest.raises(AssertionError, match="of_text"):
        assert_computes_the_same(read(tmp_path / name), GOLDEN / name / "outputs.npz")
    path.write_text(json.dumps(settings | {"classifier_pooling": "max"}))
    with pytest.raises(ValueError, match="classifier_pooling is 'max', but there are 'cls' and 'mean'"):
        read(tmp_path / name)


def test_all_heads_of_a_file_come_along_whatever_class_it_names(tmp_path):
    """As in bert-base-uncased."""
    folder = tmp_path / "full"
    shutil.copytree(GOLDEN / "BertForPreTraining", folder)
    settings = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(settings))
    found = read(folder)
    assert found.architecture == "BertForPreTraining"
    assert set(found.params["heads"]) == {"masked_lm", "pooler", "next_sentence"}


def test_a_bare_decoder_stays_one(tmp_path):
    found = read(GOLDEN / "llama_untied", architecture="LlamaModel")
    left = {entry.path: entry.why for entry in found.passport.entries if entry.status == "dropped"}
    assert left == {"lm_head.weight": "the table of the logits, which LlamaModel has not"}
    model = found.network.backbone.config
    assert choose(model, frozenset(), "", "llama", came_as="LlamaModel")[1] == "LlamaModel"
    assert choose(model, frozenset(), "", "llama")[1] == "LlamaForCausalLM"


def test_a_decoder_with_a_head_that_it_does_not_name_is_no_other_class(tmp_path):
    shutil.copytree(GOLDEN / "llama_untied", tmp_path / "more")
    tensors = load_file(tmp_path / "more" / "model.safetensors")
    width = tensors["model.norm.weight"].shape[0]
    put(tmp_path / "more", tensors | {"score.weight": np.zeros((2, width), np.float32)})
    assert not read(tmp_path / "more").params["heads"]


def test_two_tables_that_a_config_ties_are_named_with_the_way_out(tmp_path):
    shutil.copytree(GOLDEN / "llama_untied", tmp_path / "tied")
    put(tmp_path / "tied", load_file(tmp_path / "tied" / "model.safetensors"), tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs.*set tie_word_embeddings to false"):
        read(tmp_path / "tied")


def test_the_table_of_the_logits_stays_out_of_a_class_without_one(tmp_path):
    found = read(GOLDEN / "llama_untied")
    model, family = found.network.backbone.config, found.family
    assert not model.tied
    write(tmp_path, model=model, params=found.params, family=family, architecture="LlamaModel")
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_a_head_that_nothing_here_has_is_left_behind_if_asked(tmp_path):
    folder = tmp_path / "chooses"
    shutil.copytree(GOLDEN / "gpt2", folder)
    put(
        folder,
        load_file(folder / "model.safetensors") | {"choice.weight": np.zeros((2, 8), np.float32)},
        architectures=["GPT2DoubleHeadsModel"],
    )
    with pytest.raises(ValueError, match="'GPT2DoubleHeadsModel' of gpt2 cannot be read"):
        read(folder)
    left = [e for e in read(folder, architecture="GPT2Model").passport.entries if e.status == "dropped"]
    assert [(e.path, e.why) for e in left] == [("choice.weight", "of another head, not of GPT2Model")]


def test_a_model_that_nobody_publishes_is_named():
    with pytest.raises(ValueError, match="no published family has the shape of EncoderConfig"):
        families_for(encoder_tiny(vocab_size=50))


def test_heads_that_no_class_has_are_named():
    model = read(GOLDEN / "bert").network.backbone.config
    with pytest.raises(ValueError, match=r"no class of bert has exactly the heads \['classifier'\]"):
        choose(model, frozenset({"classifier"}), "", "bert")
    assert choose(model, frozenset({"classifier"}), "BertModel", "bert")[1] == "BertModel"
    with pytest.raises(ValueError, match=r"BertForMaskedLM has the heads \['masked_lm'\], but this run"):
        choose(model, frozenset({"classifier"}), "BertForMaskedLM", "bert")


def test_nothing_is_overwritten(tmp_path):
    found = read(GOLDEN / "bert")
    written(found, tmp_path)
    with pytest.raises(ValueError, match="already holds config.json"):
        written(found, tmp_path)


def test_every_family_says_its_own_config_again():
    for name in NAMES:
        settings = json.loads((GOLDEN / name / "config.json").read_text())
        family = family_of(settings)
        model = family.read_config(settings)
        assert family.read_config(family.write_config(model)) == model
