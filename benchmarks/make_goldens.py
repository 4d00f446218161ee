"""Write tests/golden/published.npz: what the published PyTorch models compute at a small size.

Weights and inputs follow the rule of tests/golden/weights.py, which the JAX side shares.

Run from the repository root, in an environment with torch and transformers (the "bench" extra):

    python -m benchmarks.make_goldens

Arrays: bert_hidden, bert_masked_lm, bert_next_sentence, roberta_hidden, roberta_masked_lm, gpt2_hidden and
gpt2_logits, computed in float64 and stored in float32; and `versions`. Last written with torch 2.13.0,
transformers 5.23.0.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

from tests.golden.weights import PADDING, SHAPE, draw, inputs

D, H, F, N = SHAPE["width"], SHAPE["heads"], SHAPE["mlp_width"], SHAPE["layers"]
V, P, K = SHAPE["vocab_size"], SHAPE["max_positions"], SHAPE["width"] // SHAPE["heads"]
INTO_HEADS, OUT_OF_HEADS = (D, H, K), (H, K, D)

Weights = dict[str, np.ndarray]


def linear(target: str, source: str, shape: tuple[int, ...], inputs: int = 1, suffix: str = "") -> Weights:
    """A torch Linear [out, in] from our kernel [in..., out...] and bias [out...]."""
    rows = int(np.prod(shape[:inputs]))
    return {
        f"{target}.weight": draw(f"{source}/kernel{suffix}", shape).reshape(rows, -1).T,
        f"{target}.bias": draw(f"{source}/bias{suffix}", shape[inputs:]).reshape(-1),
    }


def norm(target: str, source: str, suffix: str = "") -> Weights:
    """A torch LayerNorm from our Norm."""
    return {
        f"{target}.weight": draw(f"{source}/scale{suffix}", (D,)),
        f"{target}.bias": draw(f"{source}/bias{suffix}", (D,)),
    }


def bert_weights(types: int, position_rows: int) -> Weights:
    """The body of BERT and RoBERTa, by the names that both have in transformers."""
    weights = {
        "embeddings.word_embeddings.weight": draw("embed/tokens", (V, D)),
        "embeddings.position_embeddings.weight": draw("embed/positions", (position_rows, D)),
        "embeddings.token_type_embeddings.weight": draw("embed/types", (types, D)),
        **norm("embeddings.LayerNorm", "embed_norm"),
    }
    for n in range(N):
        to, i = f"encoder.layer.{n}", f"/{n}"
        for name in ("query", "key", "value"):
            weights |= linear(f"{to}.attention.self.{name}", f"layers/attention/{name}", INTO_HEADS, suffix=i)
        weights |= linear(f"{to}.attention.output.dense", "layers/attention/out", OUT_OF_HEADS, 2, i)
        weights |= norm(f"{to}.attention.output.LayerNorm", "layers/attention_norm", i)
        weights |= linear(f"{to}.intermediate.dense", "layers/mlp/up", (D, F), suffix=i)
        weights |= linear(f"{to}.output.dense", "layers/mlp/down", (F, D), suffix=i)
        weights |= norm(f"{to}.output.LayerNorm", "layers/mlp_norm", i)
    return weights


def gpt2_weights() -> Weights:
    """The body of GPT-2, which stores matrices as [in, out] and q, k, v side by side."""
    weights = {
        "wte.weight": draw("embed/tokens", (V, D)),
        "wpe.weight": draw("embed/positions", (P, D)),
        **norm("ln_f", "final_norm"),
    }
    for n in range(N):
        to, i = f"h.{n}", f"/{n}"
        qkv = [linear("", f"layers/attention/{q}", INTO_HEADS, suffix=i) for q in ("query", "key", "value")]
        weights[f"{to}.attn.c_attn.weight"] = np.concatenate([w[".weight"].T for w in qkv], axis=1)
        weights[f"{to}.attn.c_attn.bias"] = np.concatenate([w[".bias"] for w in qkv])
        matrices = (
            linear(f"{to}.attn.c_proj", "layers/attention/out", OUT_OF_HEADS, 2, i)
            | linear(f"{to}.mlp.c_fc", "layers/mlp/up", (D, F), suffix=i)
            | linear(f"{to}.mlp.c_proj", "layers/mlp/down", (F, D), suffix=i)
        )
        weights |= {name: w.T if name.endswith("weight") else w for name, w in matrices.items()}
        weights |= norm(f"{to}.ln_1", "layers/attention_norm", i) | norm(f"{to}.ln_2", "layers/mlp_norm", i)
    return weights


def load(model: torch.nn.Module, weights: Weights, tied: set[str]) -> torch.nn.Module:
    """Load all weights, strictly but for what is tied or a buffer."""
    state = {name: torch.tensor(np.ascontiguousarray(w)) for name, w in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= tied, missing
    return model.double().eval()


def prefixed(prefix: str, weights: Weights) -> Weights:
    """The same weights under a module's name."""
    return {f"{prefix}.{name}": w for name, w in weights.items()}


def main() -> None:
    """Compute and write."""
    batch = {name: torch.tensor(np.array(x)).long() for name, x in inputs().items()}
    ids, mask, types = batch["tokens"], batch["segment_ids"], batch["type_ids"]
    shape = {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "intermediate_size": F,
        "attn_implementation": "eager",
    }
    bert = transformers.BertForPreTraining(transformers.BertConfig(max_position_embeddings=P, **shape))
    head = (
        linear("cls.predictions.transform.dense", "masked_lm/dense", (D, D))
        | norm("cls.predictions.transform.LayerNorm", "masked_lm/norm")
        | linear("bert.pooler.dense", "pooler/dense", (D, D))
        | linear("cls.seq_relationship", "next_sentence/dense", (D, 2))
        | {"cls.predictions.bias": draw("masked_lm/bias", (V,))}
    )
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    load(bert, prefixed("bert", bert_weights(2, P)) | head, tied)
    b = bert(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)

    config = transformers.RobertaConfig(
        max_position_embeddings=P + 2, type_vocab_size=1, pad_token_id=PADDING, layer_norm_eps=1e-5, **shape
    )
    roberta = transformers.RobertaForMaskedLM(config)
    head = (
        linear("lm_head.dense", "masked_lm/dense", (D, D))
        | norm("lm_head.layer_norm", "masked_lm/norm")
        | {"lm_head.bias": draw("masked_lm/bias", (V,))}
    )
    tied = {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    load(roberta, prefixed("roberta", bert_weights(1, P + 2)) | head, tied)
    r = roberta(ids, attention_mask=mask, output_hidden_states=True)

    config = transformers.GPT2Config(
        vocab_size=V, n_positions=P, n_embd=D, n_layer=N, n_head=H, n_inner=F, attn_implementation="eager"
    )
    gpt2 = load(
        transformers.GPT2LMHeadModel(config), prefixed("transformer", gpt2_weights()), {"lm_head.weight"}
    )
    g = gpt2(ids, attention_mask=mask, output_hidden_states=True)

    outputs = {
        "bert_hidden": b.hidden_states[-1],
        "bert_masked_lm": b.prediction_logits,
        "bert_next_sentence": b.seq_relationship_logits,
        "roberta_hidden": r.hidden_states[-1],
        "roberta_masked_lm": r.logits,
        "gpt2_hidden": g.hidden_states[-1],
        "gpt2_logits": g.logits,
    }
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    arrays = {name: x.detach().numpy().astype(np.float32) for name, x in outputs.items()}
    np.savez_compressed(Path("tests/golden/published.npz"), versions=versions, **arrays)
    print(versions, {name: x.shape for name, x in arrays.items()})


if __name__ == "__main__":
    main()
