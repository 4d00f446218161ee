"""GPT-2 as its published checkpoints name and shape it."""

from typing import Any

from finetune.published.family import SCORE, SPAN, TANH, Family, Field, Fixed, activation
from finetune.published.rules import Rules, conv1d, head, norm, table
from finetune.published.settings import Settings
from model.gpt2 import Gpt2Config

OURS = "backbone/layers"
WIDTH = Field("n_embd", "width", 768, alias="hidden_size")


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


def _read_more(settings: Settings) -> dict[str, Any]:
    """The MLP is four times as wide where nothing is said; there are two rates of dropout, of which ours has one."""
    width = settings.integer(WIDTH.key(settings), WIDTH.default)
    inner = 4 * width if settings.value("n_inner") is None else settings.integer("n_inner")
    rates = [settings.number(key, 0.1, below=1) for key in ("resid_pdrop", "embd_pdrop")]
    if rates[0] != rates[1]:
        settings.refuse("resid_pdrop", f"but embd_pdrop is {rates[1]}, and Gpt2Config has one rate", rates[0])
    return {"mlp_width": inner, "dropout": rates[0]}


def _write_more(model: Gpt2Config) -> dict[str, Any]:
    return {"n_inner": model.mlp_width, "resid_pdrop": model.dropout, "embd_pdrop": model.dropout}


GPT2 = Family(
    model_type="gpt2",
    config=Gpt2Config,
    fields=(
        WIDTH,
        Field("n_layer", "layers", 12, alias="num_hidden_layers"),
        Field("n_head", "heads", 12, alias="num_attention_heads"),
        Field("n_positions", "max_positions", 1024, alias="max_position_embeddings"),
        Field("vocab_size", "vocab_size", 50257),
        Field("attn_pdrop", "attention_dropout", 0.1),
        Field("layer_norm_epsilon", "norm_eps", 1e-5),
        Field("initializer_range", "init_std", 0.02),
    ),
    fixed=(
        activation("activation_function", TANH),
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
