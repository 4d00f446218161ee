"""BERT, RoBERTa (and XLM-R, CamemBERT), DistilBERT and ELECTRA as their published checkpoints name and shape them."""

from collections.abc import Callable

from finetune.published.family import SPAN, Family, Field, Fixed, Heads, activation
from finetune.published.rules import Rules, head, linear, norm, table, vector
from model.bert import BertConfig, DistilBertConfig, RobertaConfig
from model.electra import ElectraConfig

OURS = "backbone/layers"
HeadRules = Callable[[str, str], Rules]


def _embeddings(p: str, types: bool) -> Rules:
    return (
        *table(f"{p}embeddings.word_embeddings", "backbone/embed/tokens"),
        *table(f"{p}embeddings.position_embeddings", "backbone/embed/positions"),
        *(table(f"{p}embeddings.token_type_embeddings", "backbone/embed/types") if types else ()),
        *norm(f"{p}embeddings.LayerNorm", "backbone/embed_norm"),
    )


def _backbone(model: BertConfig, p: str) -> Rules:
    at = f"{p}encoder.layer.{{n}}"
    return (
        *_embeddings(p, types=model.types > 0),
        *linear(f"{at}.attention.self.query", f"{OURS}/attention/query"),
        *linear(f"{at}.attention.self.key", f"{OURS}/attention/key"),
        *linear(f"{at}.attention.self.value", f"{OURS}/attention/value"),
        *linear(f"{at}.attention.output.dense", f"{OURS}/attention/out", inputs=2),
        *norm(f"{at}.attention.output.LayerNorm", f"{OURS}/attention_norm"),
        *linear(f"{at}.intermediate.dense", f"{OURS}/mlp/up"),
        *linear(f"{at}.output.dense", f"{OURS}/mlp/down"),
        *norm(f"{at}.output.LayerNorm", f"{OURS}/mlp_norm"),
    )


def _electra_backbone(model: ElectraConfig, p: str) -> Rules:
    widened = model.embed_width != model.width
    return (
        *_backbone(model, p),
        *(linear(f"{p}embeddings_project", "backbone/embed_widen") if widened else ()),
    )


def _distilbert_backbone(model: DistilBertConfig, p: str) -> Rules:
    at = f"{p}transformer.layer.{{n}}"
    return (
        *_embeddings(p, types=False),
        *linear(f"{at}.attention.q_lin", f"{OURS}/attention/query"),
        *linear(f"{at}.attention.k_lin", f"{OURS}/attention/key"),
        *linear(f"{at}.attention.v_lin", f"{OURS}/attention/value"),
        *linear(f"{at}.attention.out_lin", f"{OURS}/attention/out", inputs=2),
        *norm(f"{at}.sa_layer_norm", f"{OURS}/attention_norm"),
        *linear(f"{at}.ffn.lin1", f"{OURS}/mlp/up"),
        *linear(f"{at}.ffn.lin2", f"{OURS}/mlp/down"),
        *norm(f"{at}.output_layer_norm", f"{OURS}/mlp_norm"),
    )


def _masked_lm(dense: str, layer_norm: str, bias: str) -> HeadRules:
    def rules(p: str, ours: str) -> Rules:
        return (
            *linear(dense, f"{ours}/dense"),
            *norm(layer_norm, f"{ours}/norm"),
            *vector(bias, f"{ours}/bias"),
        )

    return rules


_WIDTHS = (
    Field("hidden_size", "width", 768),
    Field("num_hidden_layers", "layers", 12),
    Field("num_attention_heads", "heads", 12),
    Field("intermediate_size", "mlp_width", 3072),
)
_FIELDS = (
    *_WIDTHS,
    Field("hidden_dropout_prob", "dropout", 0.1),
    Field("attention_probs_dropout_prob", "attention_dropout", 0.1),
    Field("layer_norm_eps", "norm_eps", 1e-12),
    Field("initializer_range", "init_std", 0.02),
)
_FIXED = (
    activation("hidden_act", "gelu"),
    # Version 5 of their library reads no such key any more.
    Fixed("position_embedding_type", "absolute", accepted=(None,)),
    Fixed("is_decoder", False),
    Fixed("add_cross_attention", False),
    Fixed("tie_word_embeddings", True),
)
_BUFFERS = {r"(.*\.)?embeddings\.position_ids": "no parameter: the numbers 0, 1, 2, ..."}
_POOLER = head("{p}pooler.dense")


def _classes(
    name: str, *, bare: Heads, masked_lm: HeadRules, pooler: HeadRules, classifier: HeadRules
) -> dict[str, Heads]:
    """The classes that all encoders have; `pooler` is the layer before the classifier of texts."""
    return {
        f"{name}Model": bare,
        f"{name}ForMaskedLM": {"masked_lm": masked_lm},
        f"{name}ForSequenceClassification": {"pooler": pooler, "classifier": classifier},
        f"{name}ForTokenClassification": {"token_classifier": head("classifier")},
        f"{name}ForQuestionAnswering": {SPAN: head("qa_outputs")},
    }


_BERT_MASKED_LM = _masked_lm(
    "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
)
_NEXT_SENTENCE = head("cls.seq_relationship")

BERT = Family(
    model_type="bert",
    config=BertConfig,
    fields=(
        *_FIELDS,
        Field("vocab_size", "vocab_size", 30522),
        Field("max_position_embeddings", "max_positions", 512),
        Field("type_vocab_size", "types", 2),
    ),
    fixed=_FIXED,
    backbone=_backbone,
    prefix="bert.",
    architectures={
        **_classes(
            "Bert",
            bare={"pooler": _POOLER},
            masked_lm=_BERT_MASKED_LM,
            pooler=_POOLER,
            classifier=head("classifier"),
        ),
        "BertForPreTraining": {
            "masked_lm": _BERT_MASKED_LM,
            "pooler": _POOLER,
            "next_sentence": _NEXT_SENTENCE,
        },
        "BertForNextSentencePrediction": {"pooler": _POOLER, "next_sentence": _NEXT_SENTENCE},
    },
    copies={
        "cls.predictions.decoder.weight": "{p}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=_BUFFERS,
    names_types=True,
)


def _roberta(model_type: str, name: str) -> Family:
    return Family(
        model_type=model_type,
        config=RobertaConfig,
        fields=(
            *_FIELDS,
            Field("vocab_size", "vocab_size", 50265),
            # The first two rows of their table are never used: positions are counted from pad_token_id + 1.
            Field("max_position_embeddings", "max_positions", 512, offset=2),
            Field("type_vocab_size", "types", 2),
        ),
        fixed=(*_FIXED, Fixed("pad_token_id", 1)),
        backbone=_backbone,
        prefix="roberta.",
        architectures=_classes(
            name,
            bare={"pooler": _POOLER},
            masked_lm=_masked_lm("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
            pooler=head("classifier.dense"),
            classifier=head("classifier.out_proj"),
        ),
        copies={
            "lm_head.decoder.weight": "{p}embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        ignored=_BUFFERS,
    )


ROBERTA = _roberta("roberta", "Roberta")
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta")
CAMEMBERT = _roberta("camembert", "Camembert")

DISTILBERT = Family(
    model_type="distilbert",
    config=DistilBertConfig,
    fields=(
        Field("dim", "width", 768, alias="hidden_size"),
        Field("n_layers", "layers", 6, alias="num_hidden_layers"),
        Field("n_heads", "heads", 12, alias="num_attention_heads"),
        Field("hidden_dim", "mlp_width", 3072),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.1),
        Field("initializer_range", "init_std", 0.02),
        Field("vocab_size", "vocab_size", 30522),
        Field("max_position_embeddings", "max_positions", 512),
    ),
    fixed=(activation("activation", "gelu"), Fixed("tie_word_embeddings", True)),
    backbone=_distilbert_backbone,
    prefix="distilbert.",
    architectures=_classes(
        "DistilBert",
        bare={},
        masked_lm=_masked_lm("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        pooler=head("pre_classifier"),
        classifier=head("classifier"),
    ),
    copies={"vocab_projector.weight": "{p}embeddings.word_embeddings.weight"},
    ignored=_BUFFERS,
)


def _discriminator(p: str, ours: str) -> Rules:
    return (
        *linear("discriminator_predictions.dense", f"{ours}/dense"),
        *linear("discriminator_predictions.dense_prediction", f"{ours}/logit/dense"),
    )


ELECTRA = Family(
    model_type="electra",
    config=ElectraConfig,
    fields=(
        Field("embedding_size", "embed_width", 128),
        Field("hidden_size", "width", 256),
        Field("num_hidden_layers", "layers", 12),
        Field("num_attention_heads", "heads", 4),
        Field("intermediate_size", "mlp_width", 1024),
        *_FIELDS[len(_WIDTHS) :],
        Field("vocab_size", "vocab_size", 30522),
        Field("max_position_embeddings", "max_positions", 512),
        Field("type_vocab_size", "types", 2),
    ),
    fixed=_FIXED,
    backbone=_electra_backbone,
    prefix="electra.",
    architectures={
        **_classes(
            "Electra",
            bare={},
            masked_lm=_masked_lm(
                "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"
            ),
            pooler=head("classifier.dense"),
            classifier=head("classifier.out_proj"),
        ),
        "ElectraForPreTraining": {"discriminator": _discriminator},
    },
    copies={"generator_lm_head.weight": "{p}embeddings.word_embeddings.weight"},
    ignored=_BUFFERS,
    names_types=True,
)
