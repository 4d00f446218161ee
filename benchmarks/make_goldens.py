"""Write tests/golden/*.npz: what the published PyTorch models compute at a small size.

Weights and inputs follow the rule of tests/golden/weights.py, which the JAX side shares.

Run from the repository root, in an environment with torch and transformers (the "bench" extra):

    python -m benchmarks.make_goldens

Outputs are computed in float64 and stored in float32, beside `versions`; which arrays each file holds is said by the
functions below. Last written with torch 2.13.0, transformers 5.23.0.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

from tests.golden.weights import (
    KV_HEADS,
    LLAMA_STRETCH,
    MODERN_BERT,
    PADDING,
    SHAPE,
    T5_HEAD_DIM,
    draw,
    inputs,
    seq2seq_inputs,
)

D, H, F, N = SHAPE["width"], SHAPE["heads"], SHAPE["mlp_width"], SHAPE["layers"]
V, P, K = SHAPE["vocab_size"], SHAPE["max_positions"], SHAPE["width"] // SHAPE["heads"]
INTO_HEADS, OUT_OF_HEADS = (D, H, K), (H, K, D)

T5_K, KV_H = T5_HEAD_DIM, KV_HEADS
BERT_SHAPE = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "intermediate_size": F,
    "attn_implementation": "eager",
}

Weights = dict[str, np.ndarray]
Outputs = dict[str, torch.Tensor]


def matrix(target: str, source: str, shape: tuple[int, ...], inputs: int = 1, suffix: str = "") -> Weights:
    """A torch Linear [out, in] without bias from our kernel [in..., out...]."""
    rows = int(np.prod(shape[:inputs]))
    return {f"{target}.weight": draw(f"{source}/kernel{suffix}", shape).reshape(rows, -1).T}


def linear(target: str, source: str, shape: tuple[int, ...], inputs: int = 1, suffix: str = "") -> Weights:
    """A torch Linear with bias."""
    bias = draw(f"{source}/bias{suffix}", shape[inputs:]).reshape(-1)
    return matrix(target, source, shape, inputs, suffix) | {f"{target}.bias": bias}


def scale(target: str, source: str, suffix: str = "") -> Weights:
    """A torch norm without bias from our Norm."""
    return {f"{target}.weight": draw(f"{source}/scale{suffix}", (D,))}


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


def t5_weights(gated: bool) -> Weights:
    """T5 v1.0 or v1.1 with heads x head size other than the width."""
    into_heads, out_of_heads = (D, H, T5_K), (H, T5_K, D)
    weights = {"shared.weight": draw("embed/tokens", (V, D))}
    if gated:
        weights["lm_head.weight"] = draw("unembed/tokens", (V, D))
    for side in ("encoder", "decoder"):
        sublayers = ["attention"] + ["cross_attention"] * (side == "decoder")
        first = f"{side}.block.0.layer.0.SelfAttention"
        weights[f"{first}.relative_attention_bias.weight"] = draw(f"{side}/relative/positions", (32, H))
        weights |= scale(f"{side}.final_layer_norm", f"{side}/final_norm")
        for n in range(N):
            ours, i = f"{side}/layers", f"/{n}"
            for at, name in enumerate(sublayers):
                to = f"{side}.block.{n}.layer.{at}"
                weights |= scale(f"{to}.layer_norm", f"{ours}/{name}_norm", i)
                to = f"{to}.{'EncDecAttention' if at else 'SelfAttention'}"
                for theirs, kernel in (("q", "query"), ("k", "key"), ("v", "value")):
                    weights |= matrix(f"{to}.{theirs}", f"{ours}/{name}/{kernel}", into_heads, suffix=i)
                weights |= matrix(f"{to}.o", f"{ours}/{name}/out", out_of_heads, 2, i)
            to = f"{side}.block.{n}.layer.{len(sublayers)}"
            weights |= scale(f"{to}.layer_norm", f"{ours}/mlp_norm", i)
            ups = (("wi_0", "gate"), ("wi_1", "up")) if gated else (("wi", "up"),)
            for theirs, kernel in ups:
                weights |= matrix(f"{to}.DenseReluDense.{theirs}", f"{ours}/mlp/{kernel}", (D, F), suffix=i)
            weights |= matrix(f"{to}.DenseReluDense.wo", f"{ours}/mlp/down", (F, D), suffix=i)
    return weights


def llama_weights(tied: bool) -> Weights:
    """Llama with fewer key and value heads than query heads."""
    weights = {"model.embed_tokens.weight": draw("embed/tokens", (V, D)), **scale("model.norm", "final_norm")}
    if not tied:
        weights["lm_head.weight"] = draw("unembed/tokens", (V, D))
    for n in range(N):
        to, i = f"model.layers.{n}", f"/{n}"
        shapes = (("q", "query", INTO_HEADS), ("k", "key", (D, KV_H, K)), ("v", "value", (D, KV_H, K)))
        for theirs, kernel, shape in shapes:
            weights |= matrix(f"{to}.self_attn.{theirs}_proj", f"layers/attention/{kernel}", shape, suffix=i)
        weights |= matrix(f"{to}.self_attn.o_proj", "layers/attention/out", OUT_OF_HEADS, 2, i)
        for name in ("gate", "up"):
            weights |= matrix(f"{to}.mlp.{name}_proj", f"layers/mlp/{name}", (D, F), suffix=i)
        weights |= matrix(f"{to}.mlp.down_proj", "layers/mlp/down", (F, D), suffix=i)
        weights |= scale(f"{to}.input_layernorm", "layers/attention_norm", i)
        weights |= scale(f"{to}.post_attention_layernorm", "layers/mlp_norm", i)
    return weights


def modern_bert_weights() -> Weights:
    """ModernBERT, which stores q, k, v on top of each other, and the activated half of its MLP on the other."""
    weights = {"embeddings.tok_embeddings.weight": draw("embed/tokens", (V, D))}
    weights |= scale("embeddings.norm", "embed_norm") | scale("final_norm", "final_norm")
    for n in range(MODERN_BERT["layers"]):
        # The first block has no attention norm, so it is not stacked with the others.
        to, ours, i = f"layers.{n}", "layers" if n else "embed_block", f"/{n - 1}" if n else ""
        qkv = [matrix("", f"{ours}/attention/{q}", INTO_HEADS, suffix=i) for q in ("query", "key", "value")]
        weights[f"{to}.attn.Wqkv.weight"] = np.concatenate([w[".weight"] for w in qkv])
        halves = [matrix("", f"{ours}/mlp/{name}", (D, F), suffix=i) for name in ("gate", "up")]
        weights[f"{to}.mlp.Wi.weight"] = np.concatenate([w[".weight"] for w in halves])
        weights |= matrix(f"{to}.attn.Wo", f"{ours}/attention/out", OUT_OF_HEADS, 2, i)
        weights |= matrix(f"{to}.mlp.Wo", f"{ours}/mlp/down", (F, D), suffix=i)
        weights |= scale(f"{to}.mlp_norm", f"{ours}/mlp_norm", i)
        if n:
            weights |= scale(f"{to}.attn_norm", f"{ours}/attention_norm", i)
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


def torch_inputs(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The shared inputs as torch wants them."""
    return {name: torch.tensor(np.array(x)).long() for name, x in batch.items()}


def bert() -> Outputs:
    """BERT with its pretraining heads."""
    batch = torch_inputs(inputs())
    config = transformers.BertConfig(max_position_embeddings=P, **BERT_SHAPE)
    model = transformers.BertForPreTraining(config)
    head = (
        linear("cls.predictions.transform.dense", "masked_lm/dense", (D, D))
        | norm("cls.predictions.transform.LayerNorm", "masked_lm/norm")
        | linear("bert.pooler.dense", "pooler/dense", (D, D))
        | linear("cls.seq_relationship", "next_sentence/dense", (D, 2))
        | {"cls.predictions.bias": draw("masked_lm/bias", (V,))}
    )
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    load(model, prefixed("bert", bert_weights(2, P)) | head, tied)
    out = model(
        batch["tokens"],
        attention_mask=batch["segment_ids"],
        token_type_ids=batch["type_ids"],
        output_hidden_states=True,
    )
    return {
        "bert_hidden": out.hidden_states[-1],
        "bert_masked_lm": out.prediction_logits,
        "bert_next_sentence": out.seq_relationship_logits,
    }


def roberta() -> Outputs:
    """RoBERTa with its masked-LM head."""
    batch = torch_inputs(inputs())
    config = transformers.RobertaConfig(
        max_position_embeddings=P + 2,
        type_vocab_size=1,
        pad_token_id=PADDING,
        layer_norm_eps=1e-5,
        **BERT_SHAPE,
    )
    model = transformers.RobertaForMaskedLM(config)
    head = (
        linear("lm_head.dense", "masked_lm/dense", (D, D))
        | norm("lm_head.layer_norm", "masked_lm/norm")
        | {"lm_head.bias": draw("masked_lm/bias", (V,))}
    )
    tied = {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    load(model, prefixed("roberta", bert_weights(1, P + 2)) | head, tied)
    out = model(batch["tokens"], attention_mask=batch["segment_ids"], output_hidden_states=True)
    return {"roberta_hidden": out.hidden_states[-1], "roberta_masked_lm": out.logits}


def gpt2() -> Outputs:
    """GPT-2 with its tied logits."""
    batch = torch_inputs(inputs())
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=P, n_embd=D, n_layer=N, n_head=H, n_inner=F, attn_implementation="eager"
    )
    model = transformers.GPT2LMHeadModel(config)
    load(model, prefixed("transformer", gpt2_weights()), {"lm_head.weight"})
    out = model(batch["tokens"], attention_mask=batch["segment_ids"], output_hidden_states=True)
    return {"gpt2_hidden": out.hidden_states[-1], "gpt2_logits": out.logits}


def t5(name: str, gated: bool) -> Outputs:
    """The encoder's hidden states and the logits of T5 v1.0 or, gated and untied, v1.1."""
    batch = torch_inputs(seq2seq_inputs())
    config = transformers.T5Config(
        vocab_size=V,
        d_model=D,
        d_kv=T5_K,
        d_ff=F,
        num_layers=N,
        num_heads=H,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        attn_implementation="eager",
    )
    model = transformers.T5ForConditionalGeneration(config)
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if gated:  # this version of transformers always ties, but the checkpoints of v1.1 hold a table of its own
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    else:
        tied.add("lm_head.weight")
    load(model, t5_weights(gated), tied)
    out = model(
        batch["tokens"],
        attention_mask=batch["segment_ids"],
        decoder_input_ids=batch["target_tokens"],
        decoder_attention_mask=batch["target_segment_ids"],
    )
    return {f"{name}_encoder": out.encoder_last_hidden_state, f"{name}_logits": out.logits}


def t5_buckets() -> Outputs:
    """The bucket of every distance from -300 to 300, key minus query."""
    bucket_of = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distance = torch.arange(-300, 301)
    return {
        "t5_encoder_buckets": bucket_of(distance, bidirectional=True),
        "t5_decoder_buckets": bucket_of(distance, bidirectional=False),
    }


def llama(name: str, stretched: bool) -> Outputs:
    """Hidden states and logits of Llama; stretched as 3.1 and 3.2 are, and then tied."""
    batch = torch_inputs(inputs(36))
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    if stretched:
        rope = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **LLAMA_STRETCH}
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=N,
        num_attention_heads=H,
        num_key_value_heads=KV_H,
        intermediate_size=F,
        max_position_embeddings=P,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        tie_word_embeddings=stretched,
        attn_implementation="eager",
    )
    tied = {"lm_head.weight"} if stretched else set()
    model = load(transformers.LlamaForCausalLM(config), llama_weights(stretched), tied)
    out = model(batch["tokens"], attention_mask=batch["segment_ids"], output_hidden_states=True)
    return {f"{name}_hidden": out.hidden_states[-1], f"{name}_logits": out.logits[:, ::3]}


def modern_bert() -> Outputs:
    """Hidden states of ModernBERT with a window much smaller than the row.

    Each row alone, without its padding: padding far from all tokens sees nothing in a local block, and the NaN that
    comes of it reaches every token in the next block.
    """
    batch = inputs(36)
    config = transformers.ModernBertConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=MODERN_BERT["layers"],
        num_attention_heads=H,
        intermediate_size=F,
        max_position_embeddings=P,
        local_attention=MODERN_BERT["window"],
        pad_token_id=PADDING,
        attn_implementation="eager",
    )
    model = load(transformers.ModernBertModel(config), modern_bert_weights(), set())
    hidden = torch.zeros(*batch["tokens"].shape, D)
    for row, fill in enumerate(batch["segment_ids"].sum(axis=1)):
        hidden[row, :fill] = model(torch.tensor(batch["tokens"][[row], :fill]).long()).last_hidden_state[0]
    return {"modern_bert_hidden": hidden}


def main() -> None:
    """Compute and write."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    files = {
        "published": bert() | roberta() | gpt2(),
        "t5": t5("t5", gated=False) | t5("t5_v1_1", gated=True) | t5_buckets(),
        "llama": llama("llama", stretched=False) | llama("llama_stretched", stretched=True),
        "modern_bert": modern_bert(),
    }
    for file, outputs in files.items():
        arrays = {name: x.detach().numpy().astype(np.float32) for name, x in outputs.items()}
        np.savez_compressed(Path(f"tests/golden/{file}.npz"), versions=versions, **arrays)
        print(file, versions, {name: x.shape for name, x in arrays.items()})


if __name__ == "__main__":
    main()
