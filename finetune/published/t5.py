"""T5 v1.0 and v1.1 as their published checkpoints name and shape them."""

from typing import Any

from finetune.published.family import ACTIVATIONS, TANH, Family, Field, Fixed
from finetune.published.rules import Rules, linear, norm, table
from finetune.published.settings import Settings
from model.t5 import BUCKETS, MAX_DISTANCE, T5Config, T5V11Config

GATED, PLAIN, TIED = "gated-gelu", "relu", "tie_word_embeddings"
_TANHS = (TANH, *ACTIVATIONS[TANH])
LAYERS = Field("num_layers", "layers", 6, alias="num_hidden_layers")


def _stack(side: str, gated: bool) -> Rules:
    """One of the two stacks; the decoder has a sublayer more."""
    ours = f"backbone/{side}/layers"
    sublayers = [("SelfAttention", "attention")]
    if side == "decoder":
        sublayers.append(("EncDecAttention", "cross_attention"))
    rules: list[Any] = [
        *table(
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
            f"backbone/{side}/relative/positions",
        )
    ]
    for at, (theirs, name) in enumerate(sublayers):
        to = f"{side}.block.{{n}}.layer.{at}"
        rules += norm(f"{to}.layer_norm", f"{ours}/{name}_norm", bias=False)
        for letter, kernel in (("q", "query"), ("k", "key"), ("v", "value")):
            rules += linear(f"{to}.{theirs}.{letter}", f"{ours}/{name}/{kernel}", bias=False)
        rules += linear(f"{to}.{theirs}.o", f"{ours}/{name}/out", inputs=2, bias=False)
    to = f"{side}.block.{{n}}.layer.{len(sublayers)}"
    rules += norm(f"{to}.layer_norm", f"{ours}/mlp_norm", bias=False)
    for theirs, kernel in (("wi_0", "gate"), ("wi_1", "up")) if gated else (("wi", "up"),):
        rules += linear(f"{to}.DenseReluDense.{theirs}", f"{ours}/mlp/{kernel}", bias=False)
    rules += linear(f"{to}.DenseReluDense.wo", f"{ours}/mlp/down", bias=False)
    return (*rules, *norm(f"{side}.final_layer_norm", f"backbone/{side}/final_norm", bias=False))


def _backbone(model: T5Config, p: str) -> Rules:
    return (
        *table("shared", "backbone/embed/tokens"),
        *(() if model.tied else table("lm_head", "backbone/unembed/tokens")),
        *_stack("encoder", model.gated),
        *_stack("decoder", model.gated),
    )


def _choose(settings: Settings) -> type[T5Config]:
    """v1.0 or v1.1, which differ in the MLP and in whether there is an output table; other mixtures were not published."""
    mlp = settings.one_of("feed_forward_proj", PLAIN, (PLAIN, GATED, *(f"gated-{name}" for name in _TANHS)))
    # Their version 5 writes tie_word_embeddings true for both, and keeps what it was under the other name.
    key = next((key for key in ("scale_decoder_outputs", TIED) if settings.has(key)), TIED)
    kinds = {(True, True): T5Config, (False, False): T5V11Config}
    chosen = mlp == PLAIN, settings.flag(key, True)
    if chosen not in kinds:
        settings.refuse(
            "feed_forward_proj",
            f"and {key} is {chosen[1]}, but T5 v1.0 has {PLAIN!r} and True, v1.1 {GATED!r} and False",
            mlp,
        )
    # Their class follows these two, where they are there, rather than what they follow from.
    gated = mlp != PLAIN
    if settings.flag("is_gated_act", False) != gated and settings.has("is_gated_act"):
        settings.refuse("is_gated_act", f"but feed_forward_proj is {mlp!r}")
    settings.one_of("dense_act_fn", _TANHS[0] if gated else PLAIN, _TANHS if gated else (PLAIN,))
    return kinds[chosen]


def _read_more(settings: Settings) -> dict[str, Any]:
    layers = settings.value(LAYERS.key(settings), LAYERS.default)
    if settings.value("num_decoder_layers") not in (None, layers):
        settings.refuse(
            "num_decoder_layers", f"but {LAYERS.key(settings)} is {layers}, and T5Config has equal stacks"
        )
    rate = settings.number("dropout_rate", 0.1, below=1)
    return {"dropout": rate, "attention_dropout": rate}


def _write_more(model: T5Config) -> dict[str, Any]:
    return {
        "num_decoder_layers": model.layers,
        "dropout_rate": model.dropout,
        "feed_forward_proj": GATED if model.gated else PLAIN,
        TIED: model.tied,
        "scale_decoder_outputs": model.tied,
    }


T5 = Family(
    model_type="t5",
    config=T5Config,
    fields=(
        Field("d_model", "width", 512, alias="hidden_size"),
        Field("d_kv", "head_dim", 64, alias="head_dim"),
        Field("d_ff", "mlp_width", 2048),
        LAYERS,
        Field("num_heads", "heads", 8, alias="num_attention_heads"),
        Field("vocab_size", "vocab_size", 32128),
        Field("layer_norm_epsilon", "norm_eps", 1e-6),
        Field("initializer_factor", "init_std", 1.0),
    ),
    fixed=(
        Fixed("is_encoder_decoder", True),
        Fixed("relative_attention_num_buckets", BUCKETS),
        Fixed("relative_attention_max_distance", MAX_DISTANCE),
    ),
    backbone=_backbone,
    prefix="",
    architectures={"T5Model": {}, "T5ForConditionalGeneration": {}},
    copies={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    ignored={
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "never read: cross-attention "
        "knows no distances",
    },
    read_more=_read_more,
    write_more=_write_more,
    usual={"decoder_start_token_id": 0},
    choose=_choose,
)
