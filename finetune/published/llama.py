"""Llama, Mistral, Qwen 2 and Qwen 3 as their published checkpoints name and shape them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from finetune.published.family import SCORE, SPAN, Family, Field, Fixed, Json
from finetune.published.rules import Rules, head, linear, norm, table
from model.llama import LlamaConfig
from model.mistral import MistralConfig
from model.qwen import Qwen2Config, Qwen3Config

OURS = "backbone/layers"
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


def _rope(theirs: Json) -> dict[str, Any]:
    """The base of the rates and by how much they are stretched, wherever the file says it."""
    base = theirs["rope_theta"] if "rope_theta" in theirs else 10_000.0
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if key in theirs and theirs[key] is not None:
            rope = dict(theirs[key])
    kind = next((rope[key] for key in ("rope_type", "type") if key in rope), "default")
    given = {"rotary_base": float(rope["rope_theta"] if "rope_theta" in rope else base)}
    if kind == "default":
        return given
    if kind != "llama3" or any(rope[key] != value for key, value in STRETCH.items()):
        raise ValueError(
            f"config.json: positions are scaled by {rope}, but LlamaConfig knows rope_type llama3 with {STRETCH} only"
        )
    return {
        **given,
        "stretch": float(rope["factor"]),
        "trained_positions": rope["original_max_position_embeddings"],
    }


def _write_rope(model: LlamaConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rotary_base}
    if model.stretch != 1:
        lengths = {"factor": model.stretch, "original_max_position_embeddings": model.trained_positions}
        rope |= {"rope_type": "llama3", **STRETCH, **lengths}
    # Their library read the first two before version 5, and reads the third since.
    scaling = None if model.stretch == 1 else {k: v for k, v in rope.items() if k != "rope_theta"}
    return {"rope_theta": model.rotary_base, "rope_scaling": scaling, "rope_parameters": rope}


def _more(
    config: type[LlamaConfig],
) -> tuple[Callable[[Json], dict[str, Any]], Callable[[Any], dict[str, Any]]]:
    """What is read and written beside plain numbers: a head size or a window where this config has one of its own."""
    own = {field.name for field in dataclasses.fields(config)}

    def read(theirs: Json) -> dict[str, Any]:
        heads, width = theirs["num_attention_heads"], theirs["hidden_size"]
        head_dim = theirs["head_dim"] if "head_dim" in theirs and theirs["head_dim"] else width // heads
        more = {"tied": theirs["tie_word_embeddings"] if "tie_word_embeddings" in theirs else False}
        shared = theirs["num_key_value_heads"] if "num_key_value_heads" in theirs else None
        more |= {"kv_heads": heads if shared is None else shared, **_rope(theirs)}
        if "head_dim" in own:
            more["head_dim"] = head_dim
        elif head_dim * heads != width:
            raise ValueError(
                f"config.json: head_dim {head_dim} x num_attention_heads {heads} is not hidden_size {width}"
            )
        if "window" in own:
            more["window"] = theirs["sliding_window"] if "sliding_window" in theirs else 4096
        return more

    def write(model: Any) -> dict[str, Any]:
        more = {
            "tie_word_embeddings": model.tied,
            "num_key_value_heads": model.kv_heads,
            **_write_rope(model),
        }
        more["head_dim"] = model.head_dim
        return {**more, "sliding_window": model.window} if "window" in own else more

    return read, write


def _family(
    model_type: str,
    name: str,
    config: type[LlamaConfig],
    *fixed: Fixed,
    tokenizer_kinds: tuple[str, ...] = (),
) -> Family:
    read, write = _more(config)
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
        fixed=(Fixed("hidden_act", "silu"), *fixed),
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
        read_more=read,
        write_more=write,
    )


_NO_BIAS = (Fixed("attention_bias", False), Fixed("mlp_bias", False))
_NO_WINDOW = Fixed("use_sliding_window", False)

LLAMA = _family("llama", "Llama", LlamaConfig, *_NO_BIAS)
MISTRAL = _family("mistral", "Mistral", MistralConfig)
QWEN2 = _family("qwen2", "Qwen2", Qwen2Config, _NO_WINDOW, tokenizer_kinds=("bytes",))
QWEN3 = _family("qwen3", "Qwen3", Qwen3Config, _NO_WINDOW, _NO_BIAS[0])
