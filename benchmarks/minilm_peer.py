"""The peer of `benchmarks.minilm`: transformers and PyTorch, set up as their users do. Needs the extra "bench"."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from benchmarks.contestant import high_water_mib
from benchmarks.minilm_jobs import BETAS, CLIP, EPS, JOBS, LENGTH, WARMUP, WEIGHT_DECAY
from data.sources import records
from finetune.tasks.token_classification import entity_scores

IGNORED = -100


def theirs(published: Path, task: str, seed: int) -> dict[str, float]:
    """Fine-tune and score on the test split."""
    job, words = JOBS[task], task == "entities"
    torch.manual_seed(seed)
    splits = {
        name: [record.values for record in records(f"{job.data}:{name}", split=name)]
        for name in ("train", "test")
    }
    classes = sorted({c for r in splits["train"] for c in (r[job.label] if words else [r[job.label]])})
    tokenizer = AutoTokenizer.from_pretrained(published)
    kind = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    model = kind.from_pretrained(published, num_labels=len(classes)).train()
    started = time.perf_counter()
    train(model, tokenizer, splits["train"], classes, task, seed)
    minutes, peak = (time.perf_counter() - started) / 60, high_water_mib()
    return {
        **score(model.eval(), tokenizer, splits["test"], classes, task),
        "minutes": minutes,
        "peak_mib": peak,
    }


def their_answers(published: Path, texts: Sequence[str]) -> list[list[float]]:
    """Probabilities of texts, by a checkpoint that was written here."""
    tokenizer = AutoTokenizer.from_pretrained(published)
    model = AutoModelForSequenceClassification.from_pretrained(published).eval()
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        probabilities: list[list[float]] = model(**batch).logits.softmax(-1).tolist()
    return probabilities


def train(
    model: Any, tokenizer: Any, examples: Sequence[Any], classes: Sequence[str], task: str, seed: int
) -> None:
    """AdamW with the decay's usual exceptions, a linear schedule and clipping."""
    job, exempt = (
        JOBS[task],
        ("bias", "LayerNorm.weight", "position_embeddings.weight", "token_type_embeddings.weight"),
    )
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if not n.endswith(exempt)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in named if n.endswith(exempt)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=job.learning_rate, betas=BETAS, eps=EPS)
    steps = round(job.epochs * len(examples) / job.examples)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
    rng, order = np.random.default_rng(seed), np.array([], int)
    for _ in range(steps):
        if len(order) < job.examples:
            order = np.concatenate([order, rng.permutation(len(examples))])
        chosen, order = order[: job.examples], order[job.examples :]
        batch = inputs(tokenizer, [examples[i] for i in chosen], classes, task)
        optimizer.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()


def inputs(
    tokenizer: Any, examples: Sequence[Any], classes: Sequence[str], task: str
) -> dict[str, torch.Tensor]:
    """Examples filled up to the longest; the first piece of a word carries its label."""
    job, words = JOBS[task], task == "entities"
    texts = [example[job.text] for example in examples]
    batch = tokenizer(
        texts,
        is_split_into_words=words,
        padding=True,
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    if not words:
        labels = [classes.index(example[job.label]) for example in examples]
        return {**batch, "labels": torch.tensor(labels)}
    labels = torch.full(batch["input_ids"].shape, IGNORED)
    for row, example in enumerate(examples):
        owners = batch.word_ids(row)
        for place, word in enumerate(owners):
            if word is not None and word != owners[place - 1]:
                labels[row, place] = classes.index(example[job.label][word])
    return {**batch, "labels": labels}


def score(
    model: Any, tokenizer: Any, examples: Sequence[Any], classes: Sequence[str], task: str
) -> dict[str, float]:
    """The same numbers as `finetune.evaluate`."""
    job, words, right, weight = JOBS[task], task == "entities", 0, 0
    predicted = [["O"] * len(example[job.text]) for example in examples] if words else []
    for start in range(0, len(examples), 64):
        batch = inputs(tokenizer, examples[start : start + 64], classes, task)
        with torch.no_grad():
            chosen = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.argmax(-1)
        where = batch["labels"] != IGNORED
        right += int((chosen == batch["labels"])[where].sum())
        weight += int(where.sum())
        if words:
            encoded = tokenizer(
                [example[job.text] for example in examples[start : start + 64]],
                is_split_into_words=True,
                padding=True,
                truncation=True,
                max_length=LENGTH,
            )
            for row, place in torch.argwhere(where).tolist():
                predicted[start + row][encoded.word_ids(row)[place]] = classes[chosen[row, place]]
    scores = {"accuracy": right / weight, "examples": float(len(examples))}
    return scores | (entity_scores([example[job.label] for example in examples], predicted) if words else {})
