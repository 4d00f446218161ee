"""Folders and files that are no published checkpoint are named for what they are; wrapped and unnamed models are read."""

import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data.tokenizer_files import published_tokenizer
from finetune.published.files import PublishedFiles
from finetune.published.names import tensor_names
from finetune.published.reading import read
from finetune.published.writing import write

GOLDEN = Path(__file__).parent / "golden" / "families"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n"
BERT = "embeddings.word_embeddings.weight"


@pytest.fixture
def copied(tmp_path):
    """Copies a golden, with its tensors by other names and config.json changed: the folder."""

    def copy(name, rename=lambda tensor: tensor, **config):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
        tensors = load_file(folder / "model.safetensors")
        save_file({rename(key): x for key, x in tensors.items()}, folder / "model.safetensors")
        said = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
        return folder

    return copy


@pytest.mark.parametrize(
    ("name", "rename", "left_out"),
    [
        ("bert", lambda t: f"module.{t}", "module."),
        ("gpt2", lambda t: f"_orig_mod.module.{t}", "module., _orig_mod."),
        ("llama_untied", lambda t: f"base_model.model.{t}", "base_model.model."),
        ("BertForSequenceClassification", lambda t: f"student.{t}", "student."),
        # Only a part of it was compiled, or only the backbone was wrapped.
        ("modernbert", lambda t: t.replace("layers.", "layers._orig_mod."), "_orig_mod."),
        ("bert", lambda t: f"model.{t}" if t.startswith("bert.") else t, "model."),
    ],
)
def test_what_a_training_wrapped_a_model_in_is_left_out(name, rename, left_out, copied, caplog):
    found, plain = read(copied(name, rename)), read(GOLDEN / name)
    assert f"{left_out} is left out of the names of its tensors" in caplog.text
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sentence_transformer_is_its_model_and_what_else_it_has_is_named(copied, caplog):
    folder = copied("bert", lambda t: f"0.auto_model.{t.removeprefix('bert.')}", architectures=["BertModel"])
    tensors = load_file(folder / "model.safetensors")
    own = {key: x for key, x in tensors.items() if "cls." not in key}
    save_file(own, folder / "model.safetensors")
    (folder / "modules.json").write_text("[]")
    for module in ("1_Pooling", "2_Dense"):
        (folder / module).mkdir()
        save_file({"linear.weight": np.zeros((2, 2), np.float32)}, folder / module / "model.safetensors")
    assert read(folder).architecture == "BertModel"
    assert "0.auto_model. is left out" in caplog.text and "2_Dense is not read" in caplog.text


def test_several_models_and_adapters_in_one_file_are_named():
    def names(*given):
        return tensor_names(given, BERT, ("bert.",), "/there")

    with pytest.raises(
        ValueError, match=r"/there holds 2 models, with names under 'student\.bert\.' and 'teacher\."
    ):
        names(f"student.bert.{BERT}", f"teacher.bert.{BERT}")
    with pytest.raises(ValueError, match=r"adapter beside the model \(.*lora_A.*\): merge the two"):
        names(BERT, "encoder.layer.0.attention.self.query.lora_A.default.weight")
    with pytest.raises(ValueError, match=r"has module\.x and x, which are both x"):
        names("module.x", "x")
    assert names(f"model.{BERT}").prefix == "" and names(f"model.bert.{BERT}").prefix == "bert."


def test_names_of_another_model_are_shown(copied):
    with pytest.raises(
        ValueError, match=r"embeddings\.weight \[.*is missing; .* what is there instead begins with x\."
    ):
        read(copied("bert", lambda t: f"x.{t[::-1]}"))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("BertForPreTraining", "BertForPreTraining"),
        ("BertForSequenceClassification", "BertForSequenceClassification"),
        ("RobertaForTokenClassification", "RobertaForTokenClassification"),
        ("ElectraForPreTraining", "ElectraForPreTraining"),
        ("LlamaForSequenceClassification", "LlamaForSequenceClassification"),
        ("llama_untied", "LlamaForCausalLM"),
        ("t5", "T5ForConditionalGeneration"),
    ],
)
def test_a_file_that_names_no_class_is_of_the_one_that_its_tensors_fit(name, architecture, copied):
    folder = copied(name, architectures=None)
    found = read(folder)
    assert (
        found.architecture == architecture
        and found.params["heads"].keys() == read(GOLDEN / name).params["heads"].keys()
    )
    assert {entry.status for entry in found.passport.entries} == {"restored"}


def test_tensors_that_fit_several_classes_need_a_name(copied):
    folder = copied("ModernBertForTokenClassification", architectures=None)
    with pytest.raises(
        ValueError, match=r"names no architectures, and the tensors fit .*Sequence.* and .*Token"
    ):
        read(folder)
    assert read(folder, architecture="ModernBertForTokenClassification").params["heads"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_no_numbers_are_named(value, dtype, copied):
    folder = copied("bert")
    tensors = {key: x.astype(dtype) for key, x in load_file(folder / "model.safetensors").items()}
    tensors["cls.predictions.bias"][3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: cls\.predictions\.bias holds 1 .* first {value} at \[3\]"
    ):
        read(folder)


def test_no_file_is_written_of_numbers_that_it_cannot_hold(tmp_path):
    found = read(GOLDEN / "bert")
    own = {"model": found.network.backbone.config, "family": found.family, "architecture": found.architecture}
    bias = found.params["heads"]["masked_lm"]["bias"]
    bias[2] = 1e6
    with pytest.raises(
        ValueError, match=r"cls\.predictions\.bias has values up to 1e\+06, but float16 ends at 65504"
    ):
        write(tmp_path / "short", params=found.params, dtype="float16", **own)
    write(tmp_path / "long", params=found.params, dtype="bfloat16", **own)
    bias[2] = np.nan
    with pytest.raises(
        ValueError, match=r"cls\.predictions\.bias holds 1 values .* export an earlier checkpoint"
    ):
        write(tmp_path / "none", params=found.params, **own)


def test_what_a_t5_starts_its_decoder_with_is_written_again(tmp_path):
    found = read(GOLDEN / "t5")
    own = {"model": found.network.backbone.config, "family": found.family, "architecture": found.architecture}
    for config, start in ((found.config | {"decoder_start_token_id": 5}, 5), ({}, 0)):
        write(tmp_path / str(start), params=found.params, config=config, **own)
        assert (
            json.loads((tmp_path / str(start) / "config.json").read_text())["decoder_start_token_id"] == start
        )


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [(POINTER, "is a pointer of Git LFS"), ("<!doctype html>", "is a page of HTML"), ("", "is empty")],
)
def test_what_stands_in_for_a_file_is_named(file, content, what, copied):
    folder = copied("bert")
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=f"{file} {what}"):
        PublishedFiles(folder)


@pytest.mark.parametrize("file", ["flax_model.msgpack", "pytorch_model.bin", "model.safetensors.index.json"])
def test_pointers_to_other_weights_are_named_too(file, copied):
    folder = copied("bert")
    (folder / "model.safetensors").unlink()
    (folder / file).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{file} is a pointer of Git LFS"):
        PublishedFiles(folder)


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "spiece.model"]
)
def test_pointers_to_tokenizers_are_named(file, tmp_path):
    (tmp_path / file).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{file} is a pointer of Git LFS"):
        published_tokenizer(tmp_path)


def test_folders_that_are_something_else_are_named(copied, tmp_path):
    whole, folder = copied("bert"), tmp_path / "folder"
    folder.mkdir()

    def refused(match, opened=folder):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as caught:
            PublishedFiles(opened)
        assert "\n" not in str(caught.value)

    refused("is no published checkpoint .it is empty")
    refused("it is a file, name the folder that it is in", whole / "config.json")
    (folder / "tf_model.h5").touch()
    refused("it holds tf_model.h5")
    shutil.copytree(whole, folder / "snapshots" / "abc")
    refused("but there is one in .*snapshots/abc")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "bert-base-uncased"}')
    refused(r"an adapter of PEFT, which needs the weights of 'bert-base-uncased': .*merge_and_unload")
    shutil.copy(whole / "config.json", folder)
    refused("is no whole model, but an adapter of PEFT")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    refused("index.json is of pickles, which may run code")
    refused("quantization_config says", copied("bert", quantization_config={"bits": 4}))
