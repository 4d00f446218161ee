"""GPT-2 as its published checkpoints name and shape it."""

from typing import Any

from finetune.published.family import SCORE, SPAN, Family, Field, Fixed, Json
from finetune.published.rules import Rules, conv1d, head, norm, table
from model.gpt2 import Gpt2Config

OURS = "backbone/layers"


def _backbone(model: Gpt2Config, p: str) -> Rules:
    at = f"{p}h.{{n}}"
    return (
        *table(f"{p}wte", "backbone/embed/tokens"),
        *table(f"{p}wpe", "backbone/embed/positions"),
        *norm(f"{at}.ln_1", f"{OURS}/attention_norm"),
        *conv1d(f"{at}.attn.c_attn", *(f"{OURS}/attention/{name}" for name in ("query", "key", "value"))),
        *conv1d(f"{at}.attn.c_proj", f"{OURS}/attention/out", inputs=2),
        *norm(f"{at}.ln_2", f"{OURS}/mlp_norm"),
        *conv1d(f"{at}.mlp.c_fc", f"{OURS}/mlp/up"),
        *conv1d(f"{at}.mlp.c_proj", f"{OURS}/mlp/down"),
        *norm(f"{p}ln_f", "backbone/final_norm"),
    )


def _read_more(theirs: Json) -> dict[str, Any]:
    """The MLP is four times as wide where nothing is said; there are two rates of dropout, of which ours has one."""
    width = theirs["n_embd"] if "n_embd" in theirs else 768
    inner = theirs["n_inner"] if "n_inner" in theirs else None
    rates = {theirs[key] for key in ("resid_pdrop", "embd_pdrop") if key in theirs} or {0.1}
    if len(rates) > 1:
        raise ValueError(
            f"config.json: resid_pdrop and embd_pdrop are {sorted(rates)}, but Gpt2Config has one rate"
        )
    return {"mlp_width": 4 * width if inner is None else inner, "dropout": rates.pop()}


def _write_more(model: Gpt2Config) -> dict[str, Any]:
    return {"n_inner": model.mlp_width, "resid_pdrop": model.dropout, "embd_pdrop": model.dropout}


GPT2 = Family(
    model_type="gpt2",
    config=Gpt2Config,
    fields=(
        Field("n_embd", "width", 768),
        Field("n_layer", "layers", 12),
        Field("n_head", "heads", 12),
        Field("n_positions", "max_positions", 1024),
        Field("vocab_size", "vocab_size", 50257),
        Field("attn_pdrop", "attention_dropout", 0.1),
        Field("layer_norm_epsilon", "norm_eps", 1e-5),
        Field("initializer_range", "init_std", 0.02),
    ),
    fixed=(
        Fixed("activation_function", "gelu_new", accepted=("gelu_pytorch_tanh",)),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
        Fixed("tie_word_embeddings", True),
        Fixed("add_cross_attention", False),
    ),
    backbone=_backbone,
    prefix="transformer.",
    architectures={
        "GPT2Model": {},
        "GPT2LMHeadModel": {},
        "GPT2ForSequenceClassification": {SCORE: head("score", bias=False)},
        "GPT2ForTokenClassification": {"token_classifier": head("classifier")},
        "GPT2ForQuestionAnswering": {SPAN: head("qa_outputs")},
    },
    copies={"lm_head.weight": "{p}wte.weight"},
    ignored={r"(.*\.)?h\.\d+\.attn\.(masked_)?bias": "no parameter: the causal mask"},
    read_more=_read_more,
    write_more=_write_more,
)
