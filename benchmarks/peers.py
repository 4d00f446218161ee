"""The peer of `benchmarks.step_time`: BERT and GPT-2 of Hugging Face transformers, trained with PyTorch.

Set up as its users do, with the fastest choices it has: sdpa attention, fused AdamW, no attention mask (all rows are
full), batches masked beforehand outside the timed step. Needs `pip install -e '.[bench]'`.
"""

from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from benchmarks.contestant import BATCHES, Contestant, Side, high_water_mib, masked, tokens_BL


def peer(contestant: Contestant) -> Side:
    """One model, its optimizer and its batches; `contestant.variant` says eager or compile and which bf16."""
    torch.manual_seed(0)
    torch.set_num_threads(contestant.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which jax takes by itself
    model = _model(contestant).to(device).train()
    if "pure" in contestant.variant:
        model = model.to(torch.bfloat16)
    count = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if "compile" in contestant.variant else model
    autocast = "autocast" in contestant.variant
    batches = [_batch(contestant, i, device) for i in range(BATCHES)]

    def one(index: int) -> float:
        inputs, labels = batches[index % BATCHES]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            loss = forward(input_ids=inputs, labels=labels, **_flags(contestant)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    def peak() -> float:
        return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else high_water_mib()

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Side(one, count, peak, name)


def _flags(contestant: Contestant) -> dict[str, Any]:
    """GPT-2 would otherwise build a key-value cache in every training step."""
    return {"use_cache": False} if contestant.model == "gpt" else {}


def _batch(contestant: Contestant, index: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = tokens_BL(contestant.size, index)
    inputs, labels = masked(tokens, index) if contestant.model == "bert" else (tokens, tokens)
    return torch.tensor(inputs, dtype=torch.long, device=device), torch.tensor(
        labels, dtype=torch.long, device=device
    )


def _model(contestant: Contestant) -> torch.nn.Module:
    size, rate = contestant.size, contestant.dropout
    if contestant.model == "bert":
        return BertForMaskedLM(
            BertConfig(
                vocab_size=size.vocab,
                hidden_size=size.width,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                intermediate_size=size.mlp_width,
                max_position_embeddings=size.positions,
                hidden_dropout_prob=rate,
                attention_probs_dropout_prob=rate,
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size.vocab,
            n_embd=size.width,
            n_layer=size.layers,
            n_head=size.heads,
            n_inner=size.mlp_width,
            n_positions=size.positions,
            resid_pdrop=rate,
            embd_pdrop=rate,
            attn_pdrop=rate,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
