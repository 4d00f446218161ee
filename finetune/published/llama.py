"""Llama, Mistral, Qwen 2 and Qwen 3 as their published checkpoints name and shape them."""

import dataclasses
from typing import Any

from finetune.published.family import SCORE, SPAN, Family, Field, Fixed, activation
from finetune.published.rules import Rules, head, linear, norm, table
from finetune.published.settings import Settings
from model.llama import LlamaConfig
from model.mistral import MistralConfig
from model.qwen import Qwen2Config, Qwen3Config

OURS = "backbone/layers"
STRETCHED = "llama3"
STRETCH = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""What model/rotary.py stretches by."""


def _backbone(model: LlamaConfig, p: str) -> Rules:
    at = f"{p}layers.{{n}}"
    attention, ours = f"{at}.self_attn", f"{OURS}/attention"
    queries = (("q", "query"), ("k", "key"), ("v", "value"))
    return (
        *table(f"{p}embed_tokens", "backbone/embed/tokens"),
        *(() if model.tied else table("lm_head", "backbone/unembed/tokens")),
        *norm(f"{at}.input_layernorm", f"{OURS}/attention_norm", bias=False),
        *(
            rule
            for theirs, name in queries
            for rule in linear(f"{attention}.{theirs}_proj", f"{ours}/{name}", bias=model.query_bias)
        ),
        *(
            rule
            for theirs, name in queries[:2]
            if model.query_norm
            for rule in norm(f"{attention}.{theirs}_norm", f"{ours}/{name}_norm", bias=False)
        ),
        *linear(f"{attention}.o_proj", f"{ours}/out", inputs=2, bias=False),
        *norm(f"{at}.post_attention_layernorm", f"{OURS}/mlp_norm", bias=False),
        *(
            rule
            for name in ("gate", "up", "down")
            for rule in linear(f"{at}.mlp.{name}_proj", f"{OURS}/mlp/{name}", bias=False)
        ),
        *norm(f"{p}norm", "backbone/final_norm", bias=False),
    )


def _rope(settings: Settings) -> dict[str, Any]:
    """The base of the rates and by how much they are stretched. In their library, rope_scaling hides rope_parameters."""
    scaling, parameters = settings.object("rope_scaling"), settings.object("rope_parameters")
    rope = scaling if scaling is not None and scaling.values else parameters
    if rope is None:
        return {"rotary_base": float(settings.number("rope_theta", 10_000.0, least=1.0))}
    for key in ("full_attention", "sliding_attention"):
        if rope.has(key):
            rope.refuse(key, "but all blocks of LlamaConfig have the same rates")
    base = (rope if rope.has("rope_theta") else settings).number("rope_theta", 10_000.0, least=1.0)
    given = {"rotary_base": float(base)}
    said = "rope_type" if rope.has("rope_type") else "type"
    kind = rope.value(said, "default")
    factor = rope.number("factor", None if kind == STRETCHED else 1.0, least=1.0)
    if kind in ("default", "linear") and factor == 1:
        return given
    if kind != STRETCHED:
        rope.refuse(said, f"and factor is {factor}, but LlamaConfig knows rope_type {STRETCHED} only", kind)
    for key, value in STRETCH.items():
        if rope.value(key) != value:
            rope.refuse(key, f"but LlamaConfig stretches by {STRETCH} only")
    key = "original_max_position_embeddings"
    place = settings if settings.has(key) else rope
    trained = place.integer(key, settings.value("max_position_embeddings"))
    return {**given, "stretch": float(factor), "trained_positions": trained}


def _write_rope(model: LlamaConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rotary_base}
    if model.stretch != 1:
        lengths = {"factor": model.stretch, "original_max_position_embeddings": model.trained_positions}
        rope |= {"rope_type": STRETCHED, **STRETCH, **lengths}
    # Their library read the first two before version 5, and reads the third since.
    scaling = None if model.stretch == 1 else {k: v for k, v in rope.items() if k != "rope_theta"}
    return {"rope_theta": model.rotary_base, "rope_scaling": scaling, "rope_parameters": rope}


def _full_attention(settings: Settings) -> None:
    """Raise ValueError where some layers of a Qwen would see a window only."""
    layers, narrow = settings.integer("num_hidden_layers"), settings.flag("use_sliding_window", False)
    if narrow and settings.value("sliding_window", 4096) is not None:
        if settings.integer("max_window_layers", 28, least=0) < layers:
            settings.refuse("use_sliding_window", "but all layers of LlamaConfig see all of the past")
    if settings.value("layer_types") not in (None, ["full_attention"] * layers):
        settings.refuse("layer_types", f"but all {layers} layers of LlamaConfig see all of the past")


def _read_more(settings: Settings, config: type[LlamaConfig], shared: int | None) -> dict[str, Any]:
    """What is no plain number: a head size or a window where this config has one of its own."""
    own = {field.name for field in dataclasses.fields(config)}
    heads, width = settings.integer("num_attention_heads"), settings.integer("hidden_size")
    kv_heads = settings.value("num_key_value_heads", shared)
    kv_heads = heads if kv_heads is None else settings.integer("num_key_value_heads", shared)
    if heads % kv_heads:
        settings.refuse("num_key_value_heads", f"which does not divide num_attention_heads {heads}", kv_heads)
    more = {"tied": settings.flag("tie_word_embeddings", False), "kv_heads": kv_heads, **_rope(settings)}
    head_dim = width // heads if settings.value("head_dim") is None else settings.integer("head_dim")
    if head_dim % 2:
        settings.refuse("head_dim", "but rotary positions need an even one", head_dim)
    if "head_dim" in own:
        more["head_dim"] = head_dim
    elif head_dim * heads != width:
        why = f"which times num_attention_heads {heads} is not hidden_size {width}"
        settings.refuse("head_dim", why, head_dim)
    if "window" in own:
        window = settings.value("sliding_window", 4096)
        more["window"] = None if window is None else settings.integer("sliding_window", 4096)
    if issubclass(config, (Qwen2Config, Qwen3Config)):
        _full_attention(settings)
    return more


def _write_more(model: LlamaConfig) -> dict[str, Any]:
    more = {
        "tie_word_embeddings": model.tied,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        **_write_rope(model),
    }
    if isinstance(model, (Qwen2Config, Qwen3Config)):
        more["use_sliding_window"] = False
    return {**more, "sliding_window": model.window} if isinstance(model, MistralConfig) else more


def _family(
    model_type: str,
    name: str,
    config: type[LlamaConfig],
    *fixed: Fixed,
    shared: int | None,
    tokenizer_kinds: tuple[str, ...] = (),
) -> Family:
    """`shared`: key and value heads where the file says nothing; None is as many as heads."""
    return Family(
        model_type=model_type,
        config=config,
        fields=(
            Field("hidden_size", "width", None),
            Field("num_hidden_layers", "layers", None),
            Field("num_attention_heads", "heads", None),
            Field("intermediate_size", "mlp_width", None),
            Field("vocab_size", "vocab_size", None),
            Field("max_position_embeddings", "max_positions", None),
            Field("rms_norm_eps", "norm_eps", 1e-6),
            Field("attention_dropout", "attention_dropout", 0.0),
            Field("initializer_range", "init_std", 0.02),
        ),
        fixed=(
            activation("hidden_act", "silu"),
            Fixed("partial_rotary_factor", 1.0, accepted=(None,)),
            *fixed,
        ),
        backbone=_backbone,
        prefix="model.",
        prefixes={} if name == "Mistral" else {f"{name}ForQuestionAnswering": "transformer."},
        architectures={
            f"{name}Model": {},
            f"{name}ForCausalLM": {},
            f"{name}ForSequenceClassification": {SCORE: head("score", bias=False)},
            f"{name}ForTokenClassification": {"token_classifier": head("score")},
            f"{name}ForQuestionAnswering": {SPAN: head("qa_outputs")},
        },
        copies={"lm_head.weight": "{p}embed_tokens.weight"},
        ignored={r".*\.rotary_emb\.inv_freq": "no parameter: the rates of rotary positions"},
        with_logits=f"{name}ForCausalLM",
        untabled=lambda model: dataclasses.replace(model, tied=True),
        tokenizer_kinds=tokenizer_kinds,
        read_more=lambda settings: _read_more(settings, config, shared),
        write_more=_write_more,
    )


_NO_BIAS = (Fixed("attention_bias", False), Fixed("mlp_bias", False))

LLAMA = _family("llama", "Llama", LlamaConfig, *_NO_BIAS, shared=None)
MISTRAL = _family("mistral", "Mistral", MistralConfig, shared=8)
QWEN2 = _family("qwen2", "Qwen2", Qwen2Config, shared=32, tokenizer_kinds=("bytes",))
QWEN3 = _family("qwen3", "Qwen3", Qwen3Config, _NO_BIAS[0], shared=32)
