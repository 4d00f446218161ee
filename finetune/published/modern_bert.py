"""ModernBERT as its published checkpoints name and shape it."""

from typing import Any

from finetune.published.family import SPAN, Family, Field, Fixed, Json
from finetune.published.rules import Rules, head, linear, norm, table, vector
from model.modern_bert import ModernBertConfig

QUERIES, HALVES = ("query", "key", "value"), ("gate", "up")


def _block(theirs: str, ours: str, first: int) -> Rules:
    at, mlp = f"{ours}/attention", f"{ours}/mlp"
    return (
        *linear(f"{theirs}.attn.Wqkv", *(f"{at}/{q}" for q in QUERIES), bias=False, first=first),
        *linear(f"{theirs}.attn.Wo", f"{at}/out", inputs=2, bias=False, first=first),
        *norm(f"{theirs}.mlp_norm", f"{ours}/mlp_norm", bias=False, first=first),
        *linear(f"{theirs}.mlp.Wi", *(f"{mlp}/{half}" for half in HALVES), bias=False, first=first),
        *linear(f"{theirs}.mlp.Wo", f"{mlp}/down", bias=False, first=first),
    )


def _backbone(model: ModernBertConfig, p: str) -> Rules:
    ours = "backbone/layers"
    return (
        *table(f"{p}embeddings.tok_embeddings", "backbone/embed/tokens"),
        *norm(f"{p}embeddings.norm", "backbone/embed_norm", bias=False),
        # The first block has no norm before its attention, so it is not stacked with the others.
        *_block(f"{p}layers.0", "backbone/embed_block", first=0),
        *_block(f"{p}layers.{{n}}", ours, first=1),
        *norm(f"{p}layers.{{n}}.attn_norm", f"{ours}/attention_norm", bias=False, first=1),
        *norm(f"{p}final_norm", "backbone/final_norm", bias=False),
    )


def _head(p: str, ours: str) -> Rules:
    return (
        *linear("head.dense", f"{ours}/dense", bias=False),
        *norm("head.norm", f"{ours}/norm", bias=False),
    )


def _masked_lm(p: str, ours: str) -> Rules:
    return (*_head(p, ours), *vector("decoder.bias", f"{ours}/bias"))


_CLASSIFIER = head("classifier")


def _read_more(theirs: Json) -> dict[str, Any]:
    """Which blocks are global, the rates of both kinds, and what is pooled, are as published or refused."""
    if "classifier_pooling" in theirs and theirs["classifier_pooling"] not in ("cls", "mean"):
        raise ValueError(
            f"config.json: classifier_pooling is {theirs['classifier_pooling']!r}, but there are 'cls' and 'mean'"
        )
    rates = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
    for key, kind in (("global_rope_theta", "full_attention"), ("local_rope_theta", "sliding_attention")):
        if key in theirs and theirs[key] is not None and theirs[key] != rates[kind]:
            raise ValueError(f"config.json: {key} is {theirs[key]}, but ModernBertConfig has {rates[kind]}")
    if "rope_parameters" in theirs:
        for kind, rope in theirs["rope_parameters"].items():
            if rope["rope_theta"] != rates[kind] or rope["rope_type"] != "default":
                raise ValueError(
                    f"config.json: rope_parameters of {kind} are {rope}, but ModernBertConfig has {rates[kind]}"
                )
    if "layer_types" in theirs and theirs["layer_types"] != _layer_types(len(theirs["layer_types"])):
        raise ValueError(
            f"config.json: layer_types are {theirs['layer_types']}, but every third block of ModernBertConfig is global"
        )
    return {}


def _layer_types(layers: int) -> list[str]:
    every = ModernBertConfig.global_every
    return ["sliding_attention" if n % every else "full_attention" for n in range(layers)]


def _write_more(model: ModernBertConfig) -> dict[str, Any]:
    globally, locally = model.rotary_base, model.local_rotary_base
    return {
        "global_rope_theta": globally,
        "local_rope_theta": locally,
        "rope_parameters": {
            "full_attention": {"rope_theta": globally, "rope_type": "default"},
            "sliding_attention": {"rope_theta": locally, "rope_type": "default"},
        },
        "layer_types": _layer_types(model.layers),
        "embedding_dropout": model.dropout,
        "mlp_dropout": 0.0,
        "decoder_bias": True,
    }


MODERN_BERT = Family(
    model_type="modernbert",
    config=ModernBertConfig,
    fields=(
        Field("hidden_size", "width", 768),
        Field("num_hidden_layers", "layers", 22),
        Field("num_attention_heads", "heads", 12),
        Field("intermediate_size", "mlp_width", 1152),
        Field("vocab_size", "vocab_size", 50368),
        Field("max_position_embeddings", "max_positions", 8192),
        Field("norm_eps", "norm_eps", 1e-5),
        Field("local_attention", "window", 128),
        Field("embedding_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "init_std", 0.02),
    ),
    fixed=(
        Fixed("hidden_activation", "gelu"),
        Fixed("classifier_activation", "gelu"),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("norm_bias", False),
        Fixed("classifier_bias", False),
        Fixed("global_attn_every_n_layers", ModernBertConfig.global_every),
        Fixed("tie_word_embeddings", True),
    ),
    backbone=_backbone,
    prefix="model.",
    architectures={
        "ModernBertModel": {},
        "ModernBertForMaskedLM": {"masked_lm": _masked_lm},
        "ModernBertForSequenceClassification": {"pooler": _head, "classifier": _CLASSIFIER},
        "ModernBertForTokenClassification": {"pooler": _head, "token_classifier": _CLASSIFIER},
        "ModernBertForQuestionAnswering": {"pooler": _head, SPAN: _CLASSIFIER},
    },
    copies={"decoder.weight": "{p}embeddings.tok_embeddings.weight"},
    pooling_key="classifier_pooling",
    read_more=_read_more,
    write_more=_write_more,
)
