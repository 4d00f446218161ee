"""What a published config.json may say: every entry of every family, plain ways to say the same, and one line for the rest.

The expected numbers of rotary positions are what transformers 5.24 makes of the same files.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from data.json_objects import read_object
from finetune.published.classes import class_names
from finetune.published.families import FAMILIES, family_of

GOLDEN = Path(__file__).parent / "golden" / "families"
FILE = "/there/config.json"
WRONG = [
    None,
    "x",
    "",
    -1,
    0,
    10**12,
    1e300,
    0.5,
    float("nan"),
    float("inf"),
    [],
    {},
    True,
    ["x"],
    {"0": "a"},
]
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def said(name):
    return json.loads((GOLDEN / name / "config.json").read_text())


def understood(config):
    return family_of(config, FILE).read_config(config, FILE)


@pytest.mark.parametrize("name", [family.model_type for family in FAMILIES])
def test_a_wrong_entry_is_one_line_with_the_file_the_entry_and_its_value(name):
    config, refused = said(name), 0
    given = {f.theirs: f.default for f in family_of(config).fields}
    ropes = (
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "head_dim",
        "n_inner",
        "local_rope_theta",
        "layer_types",
    )
    for key in sorted(config.keys() | given.keys() | set(ropes)):
        for value in WRONG:
            try:
                understood(config | {key: value})
            except ValueError as error:
                refused += 1
                assert str(error).startswith(f"{FILE}: ") and key in str(error), (key, value, error)
                assert "\n" not in str(error) and len(str(error)) < 400, (key, value, error)
    for field in family_of(config).fields:
        for value in ("x", None, [], -1, float("nan"), 2**31):
            with pytest.raises(ValueError, match=rf"{FILE}: {field.theirs} is "):
                understood(config | {field.theirs: value})
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "changes", "base", "stretch", "trained"),
    [
        ("llama_untied", {"rope_parameters": {"rope_theta": 50.0}}, 50.0, 1.0, None),
        ("llama_untied", {"rope_parameters": None}, 10_000.0, 1.0, None),
        ("llama_untied", {"rope_parameters": None, "rope_theta": 50}, 50.0, 1.0, None),
        # rope_scaling hides rope_parameters, the base in it too; an empty one does not.
        ("llama_untied", {"rope_scaling": STRETCHED}, 10_000.0, 8.0, 16),
        ("llama_untied", {"rope_scaling": STRETCHED, "rope_theta": 50.0}, 50.0, 8.0, 16),
        ("llama_stretched", {"rope_scaling": {"rope_type": "default", "rope_theta": 50.0}}, 50.0, 1.0, None),
        ("llama_untied", {"rope_scaling": {}, "rope_parameters": {"rope_theta": 50.0}}, 50.0, 1.0, None),
        ("mistral", {"rope_scaling": {"type": "linear", "factor": 1.0}}, 10_000.0, 1.0, None),
        ("qwen3", {"rope_scaling": {"type": "default"}, "rope_theta": 70.0}, 70.0, 1.0, None),
        (
            "llama_untied",
            {
                "rope_scaling": {k: v for k, v in STRETCHED.items() if "original" not in k},
                "max_position_embeddings": 33,
            },
            10_000.0,
            8.0,
            33,
        ),
    ],
)
def test_rotary_positions_are_those_of_the_published_library(name, changes, base, stretch, trained):
    model = understood(said(name) | changes)
    assert (model.rotary_base, model.stretch) == (base, stretch)
    assert trained in (None, model.trained_positions)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type is 'linear', and factor is 2.0",
        ),
        ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'"),
        (
            "llama",
            {"rope_scaling": STRETCHED | {"factor": None}},
            "rope_scaling.factor is None, which is no float",
        ),
        (
            "llama",
            {"rope_scaling": STRETCHED | {"low_freq_factor": 2.0}},
            "rope_scaling.low_freq_factor is 2.0, but",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_theta": None}},
            "rope_parameters.rope_theta is None, which is no float",
        ),
        ("llama", {"rope_parameters": {"rope_theta": "x"}}, "rope_parameters.rope_theta is 'x'"),
        (
            "qwen2",
            {"rope_parameters": {"full_attention": {}}},
            "rope_parameters.full_attention is {}, but all blocks",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but LlamaConfig"),
        (
            "modernbert",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type is 'linear', but Modern",
        ),
        (
            "modernbert",
            {"rope_scaling": {"rope_theta": 5.0}},
            "rope_scaling.rope_theta is 5.0, but full_attention",
        ),
        (
            "modernbert",
            {"rope_parameters": None, "local_rope_theta": None},
            "local_rope_theta is None, which is no float",
        ),
        (
            "modernbert",
            {"rope_parameters": {"sliding_attention": {"rope_theta": 160000.0}}},
            "sliding_attention.rope_theta is 160000.0, but sliding_attention of ModernBertConfig has 10000.0",
        ),
        (
            "modernbert",
            {"layer_types": None, "global_attn_every_n_layers": 2},
            "global_attn_every_n_layers is 2, but",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
            "use_sliding_window is True, but all layers",
        ),
        ("qwen2", {"layer_types": ["sliding_attention"]}, r"layer_types is \['sliding_attention'\], but all"),
        ("t5", {"dense_act_fn": "silu"}, "dense_act_fn is 'silu', but there are 'gelu_new' and"),
        ("t5", {"is_gated_act": False}, "is_gated_act is False, but feed_forward_proj is 'gated-gelu'"),
        ("t5", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu', but there are"),
        ("gpt2", {"resid_pdrop": 0.0}, "resid_pdrop is 0.0, but embd_pdrop is 0.1"),
        (
            "bert",
            {"num_attention_heads": 7},
            "is not divisible by heads 7: hidden_size is .*, num_attention_heads is 7",
        ),
        ("bert", {"eos_token_id": "x"}, "eos_token_id is 'x', which is no id of a token"),
        ("bert", {"classifier_dropout": "x"}, "classifier_dropout is 'x', which is no float"),
    ],
)
def test_what_is_not_computed_here_is_named(name, changes, message):
    with pytest.raises(ValueError, match=f"{FILE}: .*{message}"):
        understood(said(name) | changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"hidden_act": "gelu_python"}),
        ("bert", {"position_embedding_type": None}),
        ("roberta", {"is_decoder": None, "add_cross_attention": None}),
        ("distilbert", {"activation": "gelu_python"}),
        ("modernbert", {"hidden_activation": "gelu_python", "classifier_activation": "gelu_python"}),
        ("modernbert", {"global_attn_every_n_layers": None}),
        ("gpt2", {"activation_function": "gelu_fast"}),
        ("gpt2", {"activation_function": "gelu_accurate", "scale_attn_by_inverse_layer_idx": None}),
        ("llama", {"hidden_act": "swish", "attention_bias": None}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 99}),
        ("t5", {"feed_forward_proj": "gated-gelu_new"}),
        ("t5", {"num_decoder_layers": None}),
    ],
)
def test_other_words_for_the_same_are_understood(name, changes):
    assert understood(said(name) | changes) == understood(said(name))


def test_the_names_that_their_library_maps_count():
    for name, field in (
        ("gpt2", "num_attention_heads"),
        ("distilbert", "num_attention_heads"),
        ("t5", "hidden_size"),
    ):
        with pytest.raises(ValueError, match=f"{field} is 'x'"):
            understood(said(name) | {field: "x"})
    assert understood({"model_type": "gpt2", "num_attention_heads": 4}).heads == 4


def test_key_heads_that_a_file_does_not_name_are_those_of_its_class():
    base = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 64, "intermediate_size": 8}
    base |= {"vocab_size": 9, "max_position_embeddings": 8}
    found = {
        name: understood(base | {"model_type": name}).kv_heads
        for name in ("llama", "mistral", "qwen2", "qwen3")
    }
    assert found == {"llama": 64, "mistral": 8, "qwen2": 32, "qwen3": 32}


def test_a_config_in_any_encoding_of_json_but_never_with_two_values_for_a_key(tmp_path):
    path, text = tmp_path / "config.json", json.dumps({"hidden_size": 8, "name": "ä"})
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes(text.encode(encoding))
        assert read_object(path, 1000) == {"hidden_size": 8, "name": "ä"}
    path.write_text('{"a": 1, "a": 1}')
    assert read_object(path, 1000) == {"a": 1}
    for damaged, why in (
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has 'c' twice, with different values"),
        ("[" * 100_000, "is damaged"),
        ('{"a": ' + "9" * 5000 + "}", "is damaged"),
        ("", "is empty"),
        ("<!DOCTYPE html><html>", "is a page of HTML"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=f"config.json .*{why}"):
            read_object(path, 1_000_000)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "calls both class 0 and class 2 'a'"),
        ({"id2label": {"0": "a", "2": "b"}}, "not 0 to 1: '2' is wrong"),
        ({"id2label": {"0": "a", "00": "b"}}, "not 0 to 1: '00' is wrong"),
        ({"id2label": {"a": "0", "b": "1"}}, "not 0 to 1: 'a' is wrong"),
        ({"id2label": {"0.0": "a"}}, "'0.0' is wrong"),
        ({"id2label": {"-1": "a"}}, "'-1' is wrong"),
        ({"id2label": {str(2 * i): "x" for i in range(5000)}}, r"\.\.\., not 0 to 4999"),
        ({"id2label": ["a", "b"]}, "does not name classes by number"),
        ({"id2label": {}}, "does not name classes by number"),
        ({"id2label": {"0": "a", "1": None}}, "names class 1 None, which is no text"),
        ({"id2label": {"0": "a", "1": "\ud83d"}}, "names class 1 .*, which cannot be written"),
        ({"id2label": {"0": "a", "1": "b\nc"}}, "names class 1 .*, which cannot be written"),
        ({"num_labels": None}, "num_labels is None"),
        ({"num_labels": True}, "num_labels is True"),
        ({"num_labels": -1}, "num_labels is -1"),
    ],
)
def test_classes_without_a_name_of_their_own_are_refused(config, message):
    with pytest.raises(ValueError, match=f"{FILE}: .*{message}") as caught:
        class_names(config, FILE)
    assert len(str(caught.value)) < 400


def test_classes_are_named_in_the_order_of_their_numbers():
    assert class_names({"id2label": {"10": "k", **{str(i): f"n{i}" for i in range(10)}}}, FILE)[10] == "k"
    assert class_names({"id2label": {"1": 7, "00": "a"}}, FILE) == ("a", "7")
    assert class_names({"id2label": None, "num_labels": 3}, FILE) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert class_names({}, FILE) == ("LABEL_0", "LABEL_1")


def test_what_a_model_of_ours_writes_it_reads_again_with_all_that_is_usual():
    for family in FAMILIES:
        model = understood(said(family.model_type))
        written = family.usual | family.write_config(model)
        assert dataclasses.replace(family.read_config(written)) == model
