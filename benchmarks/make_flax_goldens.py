"""Writes tests/golden/flax: small models of the Flax classes of transformers 4, as they saved them, with their outputs.

Those classes are gone from version 5, so this runs in an environment of its own, which needs nothing of this project:

    pip install 'transformers==4.49.0' 'flax==0.10.2' 'jax==0.4.35'
    python benchmarks/make_flax_goldens.py tests/golden/flax
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers

LENGTH, ROWS, PADDING = 11, 3, 1
SHAPE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
SPECIAL = {"pad_token_id": PADDING, "bos_token_id": 0, "eos_token_id": 2}
T5 = {"d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
# Folders, which begin with the name of the class.
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("FlaxBertForMaskedLM", SHAPE),
    ("FlaxBertForPreTraining", SHAPE),
    ("FlaxBertForSequenceClassification", {**SHAPE, "num_labels": 3}),
    ("FlaxRobertaForSequenceClassification", {**SHAPE, **SPECIAL, "num_labels": 3, "type_vocab_size": 1}),
    ("FlaxXLMRobertaForTokenClassification", {**SHAPE, **SPECIAL, "num_labels": 4, "type_vocab_size": 1}),
    ("FlaxDistilBertForMaskedLM", {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20}),
    ("FlaxElectraForPreTraining", {**SHAPE, "embedding_size": 8}),
    ("FlaxGPT2LMHeadModel", {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 20, **SPECIAL}),
    ("FlaxLlamaForCausalLM", {**SHAPE, **SPECIAL, "num_key_value_heads": 3, "tie_word_embeddings": False}),
    (
        "FlaxT5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    ("FlaxMistralForCausalLM", {**SHAPE, **SPECIAL, "num_key_value_heads": 1, "max_position_embeddings": 64}),
    ("FlaxBertForQuestionAnswering", SHAPE),
    ("FlaxRobertaForMaskedLM", {**SHAPE, **SPECIAL, "type_vocab_size": 1}),
    ("FlaxT5ForConditionalGeneration_v1_0", T5),
)


def batch_of(rng: np.random.Generator, vocabulary: int) -> dict[str, np.ndarray]:
    """Rows of different fill, padded at the end."""
    real = np.arange(LENGTH)[None] < np.array([LENGTH, 7, 4])[:, None]
    draw = rng.integers(PADDING + 1, vocabulary, (2, ROWS, LENGTH))
    places = np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH))
    batch = {"tokens": np.where(real, draw[0], PADDING), "segment_ids": real, "positions": places}
    batch |= {
        "target_tokens": draw[1],
        "target_segment_ids": np.ones_like(draw[1]),
        "target_positions": places,
    }
    return {name: np.ascontiguousarray(x, np.int32) for name, x in batch.items()}


def outputs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model says, under the names of tests/published.py."""
    name = type(model).__name__
    more = {"decoder_input_ids": batch["target_tokens"]} if "T5" in name else {}
    if "Electra" in name:
        # Where nothing is said, their Flax class takes type 1 (and their PyTorch class 0).
        more = {"token_type_ids": np.zeros_like(batch["tokens"])}
    out = model(batch["tokens"], attention_mask=batch["segment_ids"], output_hidden_states=True, **more)
    if "T5" in name:
        return {"hidden": out.encoder_last_hidden_state, "logits": out.logits}
    states = {"hidden": out.hidden_states[-1]}
    if "prediction_logits" in out:
        return {**states, "logits": out.prediction_logits, "of_text": out.seq_relationship_logits}
    if "start_logits" in out:
        return {**states, "logits": np.stack([out.start_logits, out.end_logits], -1)}
    return {**states, "of_text" if "SequenceClassification" in name else "logits": out.logits}


def main(folder: Path) -> None:
    """Draw each model, save it as its users did, and note what it computes."""
    for seed, (name, arguments) in enumerate(MODELS):
        rng = np.random.default_rng(seed)
        kind = getattr(transformers, name.split("_")[0])
        model = kind(kind.config_class(vocab_size=30, **arguments), seed=seed)
        model.params = jax.tree.map(
            lambda x, rng=rng: x + rng.normal(0, 0.2, x.shape).astype(x.dtype), model.params
        )
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        batch = batch_of(rng, 30)
        there = {key: np.asarray(x) for key, x in outputs(model, batch).items()}
        np.savez_compressed(
            folder / name / "outputs.npz", **{f"in_{k}": x for k, x in batch.items()}, **there
        )
        print(name, {key: x.shape for key, x in there.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
