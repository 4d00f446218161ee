"""All families, and which one a config.json or one of our configs is of."""

from finetune.published.bert import BERT, CAMEMBERT, DISTILBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from finetune.published.family import Family
from finetune.published.gpt2 import GPT2
from finetune.published.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from finetune.published.modern_bert import MODERN_BERT
from finetune.published.settings import Json
from finetune.published.t5 import T5
from model.config import TransformerConfig

FAMILIES: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    DISTILBERT,
    ELECTRA,
    MODERN_BERT,
    GPT2,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    T5,
)


def family_of(config: Json, file: str = "config.json") -> Family:
    """The family that a config.json (at `file`) names."""
    known = {family.model_type: family for family in FAMILIES}
    if "model_type" not in config:
        raise ValueError(f"{file} names no model_type; those that can be read are {', '.join(known)}")
    named = config["model_type"]
    if not isinstance(named, str) or named not in known:
        raise ValueError(
            f"{file}: model_type {named!r} cannot be read; those that can are {', '.join(known)}"
        )
    return known[named]


def families_for(model: TransformerConfig) -> list[Family]:
    """The families that publish models of this kind; several share RoBERTa's."""
    kind = type(model)
    found = [f for f in FAMILIES if kind is f.config or (f.choose is not None and issubclass(kind, f.config))]
    if not found:
        kinds = sorted({f.config.__name__ for f in FAMILIES})
        raise ValueError(
            f"no published family has the shape of {kind.__name__}: those of {', '.join(kinds)} can be written"
        )
    return found
