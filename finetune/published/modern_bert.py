"""ModernBERT as its published checkpoints name and shape it."""

from typing import Any

from finetune.published.family import SPAN, Family, Field, Fixed, activation
from finetune.published.rules import Rules, head, linear, norm, table, vector
from finetune.published.settings import Settings
from model.modern_bert import ModernBertConfig

WINDOW, EVERY = Field("local_attention", "window", 128), "global_attn_every_n_layers"
LAYERS, POOLING = Field("num_hidden_layers", "layers", 22), "classifier_pooling"
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


_RATES = (
    ("full_attention", "global_rope_theta", ModernBertConfig.rotary_base),
    ("sliding_attention", "local_rope_theta", ModernBertConfig.local_rotary_base),
)
"""Kinds of blocks, the older key of the base of their rates, and that base."""


def _read_more(settings: Settings) -> dict[str, Any]:
    """Which blocks are global, the rates of both kinds, and what is pooled, are as published or refused."""
    settings.one_of(POOLING, "cls", ("cls", "mean"))
    scaling, given = settings.object("rope_scaling"), settings.object("rope_parameters")
    for kind, older, base in _RATES:
        own = None if given is None else given.object(kind)
        # In their library rope_scaling overrides both kinds.
        ropes = [rope for rope in (scaling, own) if rope is not None]
        for rope in ropes:
            for key in ("rope_type", "type"):
                if rope.value(key, "default") != "default":
                    rope.refuse(key, "but ModernBertConfig scales no positions")
        place, key = next(((r, "rope_theta") for r in ropes if r.has("rope_theta")), (settings, older))
        if place.number(key, base) != base:
            place.refuse(key, f"but {kind} of ModernBertConfig has {base}")
    layers, every = settings.value(LAYERS.theirs, LAYERS.default), ModernBertConfig.global_every
    # Where both are there, the list counts.
    if settings.value("layer_types") is None:
        if settings.integer(EVERY, every) != every:
            settings.refuse(EVERY, f"but every third of {layers} blocks of ModernBertConfig is global")
    elif settings.value("layer_types") != _layer_types(layers):
        settings.refuse("layer_types", f"but every third of {layers} blocks of ModernBertConfig is global")
    half = settings.value("sliding_window")
    if half is not None and half != settings.value(WINDOW.theirs, WINDOW.default) // 2:
        settings.refuse("sliding_window", f"which is not half of {WINDOW.theirs}")
    return {}


def _layer_types(layers: int) -> list[str]:
    every = ModernBertConfig.global_every
    return ["sliding_attention" if n % every else "full_attention" for n in range(layers)]


def _write_more(model: ModernBertConfig) -> dict[str, Any]:
    return {
        **{older: base for _, older, base in _RATES},
        "rope_parameters": {kind: {"rope_theta": base, "rope_type": "default"} for kind, _, base in _RATES},
        EVERY: ModernBertConfig.global_every,
        "layer_types": _layer_types(model.layers),
    }


MODERN_BERT = Family(
    model_type="modernbert",
    config=ModernBertConfig,
    fields=(
        Field("hidden_size", "width", 768),
        LAYERS,
        Field("num_attention_heads", "heads", 12),
        Field("intermediate_size", "mlp_width", 1152),
        Field("vocab_size", "vocab_size", 50368),
        Field("max_position_embeddings", "max_positions", 8192),
        Field("norm_eps", "norm_eps", 1e-5),
        WINDOW,
        Field("embedding_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "init_std", 0.02),
    ),
    fixed=(
        activation("hidden_activation", "gelu"),
        activation("classifier_activation", "gelu"),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("norm_bias", False),
        Fixed("classifier_bias", False),
        Fixed("decoder_bias", True),
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
    pooling_key=POOLING,
    read_more=_read_more,
    write_more=_write_more,
    usual={"mlp_dropout": 0.0},
)
