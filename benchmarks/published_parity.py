"""Do published checkpoints compute here what they compute in the library they come from? Random models of each.

    pip install -e '.[bench]'
    python -m benchmarks.published_parity                     # 20 of each family: a table, exit code 1 on a difference
    python -m benchmarks.published_parity --families bert --count 100
    python -m benchmarks.published_parity --goldens tests/golden/families    # rewrite its test's files

Each model is drawn (widths, depth, heads, vocabulary, tied or not, class), initialised and perturbed in PyTorch, saved
there, read here, compared on rows of different fill, written here and opened there again. Differences are relative to the
largest value, over positions that are no padding.
"""

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from finetune.published.families import FAMILIES
from finetune.published.reading import Published, read
from finetune.published.rules import tensors
from finetune.published.writing import choose, write
from tests.published import difference, outputs
from train.checkpoint import flat

LENGTH, ROWS, PADDING = 14, 3, 1
OUTPUTS, GRADIENTS = 1e-4, 1e-3
LOGITS = ("MaskedLM", "CausalLM", "LMHeadModel", "ConditionalGeneration")
HEADS = (
    ("bert", "BertForPreTraining"),
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForQuestionAnswering"),
    ("roberta", "RobertaForSequenceClassification"),
    ("roberta", "RobertaForTokenClassification"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("electra", "ElectraForPreTraining"),
    ("electra", "ElectraForSequenceClassification"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("modernbert", "ModernBertForTokenClassification"),
    ("modernbert", "ModernBertForQuestionAnswering"),
    ("gpt2", "GPT2ForSequenceClassification"),
    ("gpt2", "GPT2ForTokenClassification"),
    ("llama", "LlamaForSequenceClassification"),
    ("llama", "LlamaForQuestionAnswering"),
    ("qwen2", "Qwen2ForTokenClassification"),
)
VARIANTS = (("t5_v1_0", "t5", 1), ("llama_stretched", "llama", 1), ("llama_untied", "llama", 3))
"""Draws that come out otherwise than the first."""
WITH_GRADIENTS = ("bert", "gpt2", "t5")
Arrays = dict[str, np.ndarray]


def drawn_config(model_type: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of their config class: small, and different every time."""
    heads, size = int(rng.integers(1, 5)), 2 * int(rng.integers(2, 7))
    layers, width = int(rng.integers(1, 4)), heads * size
    vocab, inner = int(rng.integers(20, 90)), int(rng.integers(8, 50))
    shape = {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    positions = {"max_position_embeddings": int(rng.integers(LENGTH, 40))}
    groups = int(rng.choice([g for g in range(1, heads + 1) if heads % g == 0]))
    grouped = {
        **shape,
        **positions,
        "num_key_value_heads": groups,
        "tie_word_embeddings": bool(rng.integers(2)),
    }
    special = {"pad_token_id": PADDING, "bos_token_id": 0, "eos_token_id": 2}
    rope = {"rope_theta": float(rng.choice([100.0, 10_000.0])), "rope_type": "default"}
    if model_type == "bert":
        return {**shape, **positions, "type_vocab_size": int(rng.integers(1, 4))}
    if model_type in ("roberta", "xlm-roberta", "camembert"):
        return {
            **shape,
            **special,
            "max_position_embeddings": LENGTH + 2 + int(rng.integers(9)),
            "type_vocab_size": 1,
        }
    if model_type == "electra":
        return {**shape, **positions, "embedding_size": int(rng.choice([width, size, 2 * size + 1]))}
    if model_type == "distilbert":
        return {
            "vocab_size": vocab,
            "dim": width,
            "n_layers": layers,
            "n_heads": heads,
            "hidden_dim": inner,
            **positions,
        }
    if model_type == "gpt2":
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": LENGTH + 3}
        return {**sizes, "vocab_size": vocab, **special, "n_inner": [None, inner][int(rng.integers(2))]}
    if model_type == "llama":
        if rng.integers(2):
            own = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            rope |= {**own, "factor": 8.0, "original_max_position_embeddings": 32}
        return {**grouped, **special, "rope_parameters": rope}
    if model_type == "mistral":
        own = {"head_dim": int(rng.choice([size, 2 * size])), "sliding_window": int(rng.choice([3, 100]))}
        return {**grouped, **special, **own, "rope_parameters": rope}
    if model_type == "qwen2":
        return {**grouped, **special, "rope_parameters": rope}
    if model_type == "qwen3":
        return {**grouped, **special, "head_dim": int(rng.choice([size, 2 * size])), "rope_parameters": rope}
    if model_type == "modernbert":
        own = {"num_hidden_layers": int(rng.integers(2, 6)), "local_attention": int(rng.choice([4, 64]))}
        own |= {"cls_token_id": 0, "sep_token_id": 2, "classifier_pooling": str(rng.choice(["cls", "mean"]))}
        return {**shape, **positions, **special, **own}
    gated = bool(rng.integers(2))
    stacks = {"num_layers": layers, "num_heads": heads, "d_kv": size, "d_ff": inner}
    kind = {"feed_forward_proj": "gated-gelu" if gated else "relu", "tie_word_embeddings": not gated}
    return {"vocab_size": vocab, "d_model": 2 * int(rng.integers(4, 20)), **stacks, **kind}


def their_model(model_type: str, architecture: str, rng: np.random.Generator) -> Any:
    """A model of theirs with parameters that are all different from their first values."""
    kind = transformers.AutoConfig.for_model(model_type).__class__
    arguments = drawn_config(model_type, rng)
    if "Classification" in architecture:
        arguments["num_labels"] = int(rng.integers(2, 6))
    config = kind(attn_implementation="eager", **arguments)
    torch.manual_seed(int(rng.integers(2**31)))
    model = getattr(transformers, architecture)(config)
    if model_type == "t5" and not arguments["tie_word_embeddings"]:
        # Their version 5 ties in any case when it makes a model; the published files have a table of their own.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def batch_for(config: Any, rng: np.random.Generator) -> Arrays:
    """Rows of different fill, padded at the end."""
    fill = np.array([LENGTH, int(rng.integers(2, LENGTH)), int(rng.integers(1, LENGTH))])
    real = np.arange(LENGTH)[None] < fill[:, None]
    tokens = np.where(real, rng.integers(PADDING + 1, config.vocab_size, (ROWS, LENGTH)), PADDING)
    kinds = config.type_vocab_size if hasattr(config, "type_vocab_size") else 1
    batch = {
        "tokens": tokens,
        "segment_ids": real,
        "positions": np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH)),
        "type_ids": np.where(real, rng.integers(0, kinds, (ROWS, LENGTH)), 0),
    }
    targets = {"target_tokens": rng.integers(PADDING + 1, config.vocab_size, (ROWS, LENGTH - 3))}
    targets["target_segment_ids"] = np.ones((ROWS, LENGTH - 3))
    targets["target_positions"] = np.broadcast_to(np.arange(LENGTH - 3), (ROWS, LENGTH - 3))
    return {name: np.ascontiguousarray(x, np.int32) for name, x in (batch | targets).items()}


def outputs_there(model: Any, batch: Arrays) -> dict[str, torch.Tensor]:
    """The same from their model."""
    inputs = {name: torch.tensor(x).long() for name, x in batch.items()}
    kind, name = model.config.model_type, type(model).__name__
    more = {"token_type_ids": inputs["type_ids"]} if kind in ("bert", "electra") else {}
    if kind == "t5":
        more = {"decoder_input_ids": inputs["target_tokens"]}
    base = name.endswith("Model") and not name.endswith("LMHeadModel")
    out = model(inputs["tokens"], attention_mask=inputs["segment_ids"], output_hidden_states=True, **more)
    if kind == "t5":
        by_name = {"hidden": out.encoder_last_hidden_state, "decoded": out.decoder_hidden_states[-1]}
        return by_name if base else {**by_name, "logits": out.logits}
    by_name = {"hidden": out.last_hidden_state if base else out.hidden_states[-1]}
    if base and out.get("pooler_output") is not None:
        by_name["pooled"] = out.pooler_output
    if "prediction_logits" in out:
        return {**by_name, "logits": out.prediction_logits, "of_text": out.seq_relationship_logits}
    if "start_logits" in out:
        return {**by_name, "logits": torch.stack([out.start_logits, out.end_logits], -1)}
    if "logits" in out:
        of_text = "SequenceClassification" in name or "NextSentence" in name
        by_name["of_text" if of_text else "logits"] = out.logits
    return by_name


def gradients_differ(published: Published, model: Any, batch: Arrays, rng: np.random.Generator) -> float:
    """The largest difference of any tensor's gradient, of a random sum of outputs, over its largest entry.

    Where the true gradient is zero (keys' biases), both sides hold rounding: entries below a thousandth of the largest of
    all count as that.
    """
    there = outputs_there(model, batch)
    name = "logits" if "logits" in there else "hidden"
    weights = rng.normal(size=there[name].shape).astype(np.float32)
    if weights.shape[:2] == batch["tokens"].shape:
        weights *= batch["segment_ids"].reshape(ROWS, LENGTH, *(1 for _ in weights.shape[2:]))
    (there[name] * torch.tensor(weights)).sum().backward()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(outputs(published, p, batch)[name] * weights)))(
        published.params
    )
    leaves = {"/".join(path): np.asarray(leaf) for path, leaf in flat(gradient).items()}
    family, own = published.family, published.family.architectures[published.architecture]
    heads = {name: own[name] for name in published.params["heads"]}
    prefix = family.prefix_of(published.architecture)
    rules = family.rules(published.network.backbone.config, heads, prefix)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    ours = tensors(rules, shapes, lambda path, n: leaves[path] if n is None else leaves[path][n])
    parameters = dict(model.named_parameters())
    least = 1e-3 * max(float(p.grad.abs().max()) for p in parameters.values() if p.grad is not None)
    worst = 0.0
    for tensor, mine in ours:
        given = parameters[tensor].grad
        if given is None:
            assert not np.any(mine), f"{tensor} has a gradient here and none there"
            continue
        size = max(float(given.abs().max()), least)
        worst = max(worst, float(np.abs(mine - given.numpy()).max()) / size)
    return worst


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """The worst of all models of a family."""

    models: int = 0
    outputs: float = 0.0
    gradients: float | None = None
    bits: bool = True
    """Whether every tensor came back with the same bits, read and written here and opened there."""


def architecture_of(model_type: str, seed: int) -> str:
    """Classes take turns; of a T5 it is the one with logits, because the other has no table of its own to write."""
    names = list(next(f for f in FAMILIES if f.model_type == model_type).architectures)
    return with_logits(model_type) if model_type == "t5" else names[seed % len(names)]


def with_logits(model_type: str) -> str:
    """The class whose outputs are logits over the vocabulary."""
    names = next(f for f in FAMILIES if f.model_type == model_type).architectures
    return next(name for name in names if name.endswith(LOGITS))


def compare(
    model_type: str, architecture: str, seed: int, outcome: Outcome, keep: Path | None = None
) -> None:
    """One random model, both ways; with `keep` its files and outputs are left there."""
    rng = np.random.default_rng([seed, *model_type.encode()])
    model = their_model(model_type, architecture, rng)
    with tempfile.TemporaryDirectory() as folder:
        saved, written = Path(folder) / "theirs", Path(folder) / "ours"
        model.save_pretrained(saved)
        batch = batch_for(model.config, rng)
        with torch.no_grad():
            there = {name: x.numpy() for name, x in outputs_there(model, batch).items()}
        published = read(saved)
        here = jax.jit(lambda params: outputs(published, params, batch))(published.params)
        worst = max(difference(np.asarray(here[name]), x, batch) for name, x in there.items())
        outcome.models, outcome.outputs = outcome.models + 1, max(outcome.outputs, worst)
        if model_type in WITH_GRADIENTS:
            outcome.gradients = max(outcome.gradients or 0.0, gradients_differ(published, model, batch, rng))
        own, same_class = choose(
            published.network.backbone.config, frozenset(published.params["heads"]), architecture, model_type
        )
        write(
            written,
            model=published.network.backbone.config,
            params=published.params,
            family=own,
            architecture=same_class,
            classes=published.classes,
            config=published.config,
        )
        again = type(model).from_pretrained(written)
        before, after = model.state_dict(), again.state_dict()
        equal = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        outcome.bits = outcome.bits and equal
        if keep is not None:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(
                saved, keep, ignore=lambda _, files: set(files) - {"config.json", "model.safetensors"}
            )
            np.savez_compressed(keep / "outputs.npz", **{f"in_{k}": x for k, x in batch.items()}, **there)


def goldens() -> Iterator[tuple[str, str, str, int]]:
    """(folder, model type, class, seed) of each golden file: all families' logits, and the heads that differ."""
    for family in FAMILIES:
        yield family.model_type, family.model_type, with_logits(family.model_type), 0
    for model_type, architecture in HEADS:
        yield architecture, model_type, architecture, 0
    for folder, model_type, seed in VARIANTS:
        yield folder, model_type, with_logits(model_type), seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare random models with those of the library they come from."""

    families: tuple[str, ...] = tuple(family.model_type for family in FAMILIES)
    """Their model types."""
    count: int = 20
    """Models of each."""
    goldens: str = ""
    """Write one model of each family with its outputs below this folder, and stop."""


def report(outcomes: Mapping[str, Outcome]) -> bool:
    """Print the table; whether all agree."""
    table = Table()
    for column in ("family", "models", "outputs differ by", "gradients differ by", "same bits back"):
        table.add_column(column, justify="left" if column == "family" else "right")
    good = True
    for name, one in outcomes.items():
        fine = one.outputs < OUTPUTS and (one.gradients or 0.0) < GRADIENTS and one.bits
        good = good and fine
        gradients = "" if one.gradients is None else f"{one.gradients:.1e}"
        cells = (name, str(one.models), f"{one.outputs:.1e}", gradients, "yes" if one.bits else "NO")
        table.add_row(*cells, style=None if fine else "bold red")
    Console(width=120).print(table)
    return good


def main(arguments: Sequence[str]) -> int:
    """Compare, print, and say by the exit code whether all agree."""
    parsed = tyro.cli(Arguments, args=list(arguments), prog="python -m benchmarks.published_parity")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    outcomes: dict[str, Outcome] = {}
    if parsed.goldens:
        for folder, model_type, architecture, seed in goldens():
            outcome = outcomes.setdefault(folder, Outcome())
            compare(model_type, architecture, seed, outcome, Path(parsed.goldens) / folder)
        return 0 if report(outcomes) else 1
    for name in parsed.families:
        outcomes[name] = Outcome()
        for seed in tqdm(range(parsed.count), desc=name, disable=not sys.stderr.isatty()):
            compare(name, architecture_of(name, seed), seed, outcomes[name])
    return 0 if report(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
