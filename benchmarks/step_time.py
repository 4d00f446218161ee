"""Training-step time of BERT and GPT, ours against PyTorch transformers, in alternating rounds of one run.

Command:  python -m benchmarks.step_time            (needs `pip install -e '.[bench]'` for the PyTorch side)
          python -m benchmarks.step_time --models bert --dtypes fp32 --rounds 3 --no-compile     (a quick look)

A step is forward, backward, clipping at norm 1 and AdamW, on 32 rows of 128 tokens, with dropout 0.1 as published on
both sides. Every contestant is a process of its own, blocked on a pipe until its turn; the order rotates from round to
round. A ratio is formed within a round, so that load which both sides feel cancels out. Knows neither jax nor torch.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contestant import Contestant, Size
from train.cli import one_line_errors

REST = 0.05
"""Seconds between turns, in which the thread pool of the last one falls asleep."""

OURS: dict[str, tuple[str, ...]] = {"bert": ("gathered", "every position"), "gpt": ("chunked",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    models: tuple[Literal["bert", "gpt"], ...] = ("bert", "gpt")
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    rounds: int = 7
    """Rounds in which every contestant takes one turn; one more before them is not counted."""
    steps: int = 5
    """Steps per turn."""
    dropout: float = 0.1
    """Of embeddings, sublayers and attention probabilities, on both sides."""
    compile: bool = True
    """Whether torch.compile takes part beside eager PyTorch."""
    peers: bool = True
    """Whether PyTorch takes part at all."""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    """PyTorch's threads; XLA always uses every core that the process may run on."""
    out: Path = Path("benchmarks/results")
    """Folder of the .json and the .md."""
    size: Size = Size()


def check(options: Options) -> None:
    """Refuse runs that could measure nothing. (Raised while tyro parses, an error would become a box.)"""
    if options.rounds < 1 or options.steps < 1:
        raise ValueError(f"rounds {options.rounds} and steps {options.steps} must be at least 1")
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if options.peers and missing:
        raise ValueError(
            f"{' and '.join(missing)} not installed: pip install -e '.[bench]', or run --no-peers"
        )


def contestants(options: Options, model: str, dtype: str) -> list[Contestant]:
    """Who races for one model and dtype; ours first, the one that ratios are formed with foremost."""
    kinds = [("ours", variant) for variant in OURS[model]]
    if options.peers:
        modes = ["eager", "compile"] if options.compile else ["eager"]
        how = [""] if dtype == "fp32" else [" autocast", " pure bf16"]
        kinds += [("peer", mode + suffix) for mode in modes for suffix in how]
    shared: dict[str, Any] = {"threads": options.threads, "dropout": options.dropout, "size": options.size}
    return [Contestant(side=s, model=model, dtype=dtype, variant=v, **shared) for s, v in kinds]  # type: ignore[arg-type]


class Racer:
    """A contestant's process and what it has measured."""

    def __init__(self, contestant: Contestant) -> None:
        """Start it and wait for its first step."""
        self.contestant = contestant
        # One GPU for each side: ours would take all, the peer takes the first.
        environment = {
            "CUDA_VISIBLE_DEVICES": "0",
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        command = [sys.executable, "-m", "benchmarks.serve", json.dumps(dataclasses.asdict(contestant))]
        self.errors = tempfile.TemporaryFile(
            "w+"
        )  # a pipe that nobody reads would fill and block the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.seconds: list[float] = []
        """Per step, one number for each counted round."""
        self.last: dict[str, Any] = {}
        self.first = self._answer()

    def turn(self, steps: int, counted: bool) -> None:
        """Run `steps` steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self.process.stdin.flush()
        self.last = self._answer()
        if counted:
            self.seconds.append(self.last["seconds"] / steps)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            tail = self.errors.read().strip().splitlines()[-1:]
            raise ValueError(f"{self.contestant.name} ({self.contestant.dtype}) died: {' '.join(tail)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def started(entries: Sequence[Contestant]) -> Iterator[list[Racer]]:
    """All processes, started one after another so that none disturbs another's first step."""
    racers: list[Racer] = []
    try:
        for entry in entries:
            racers.append(Racer(entry))
        yield racers
    finally:
        for racer in racers:
            racer.close()


def race(options: Options, model: str, dtype: str, console: Console) -> list[dict[str, Any]]:
    """One group: every contestant of a model and dtype, in rotating order."""
    with started(contestants(options, model, dtype)) as racers:
        for fact in ("parameters", "device"):
            by_contestant = {racer.contestant.name: racer.first[fact] for racer in racers}
            if len(set(by_contestant.values())) > 1:
                raise ValueError(f"{fact} must be the same for all contestants, but: {by_contestant}")
        for number in range(options.rounds + 1):
            turn = number % len(racers)
            for racer in racers[turn:] + racers[:turn]:
                racer.turn(options.steps, counted=number > 0)
                time.sleep(REST)
            console.print(f"{model} {dtype}: round {number} of {options.rounds}", style="dim")
        return [summary(racer, racers[0]) for racer in racers]


def summary(racer: Racer, best: Racer) -> dict[str, Any]:
    """One row of the table; ratios say how many times faster `best`, the first of ours, was in the same round."""
    entry = racer.contestant
    ratios = [theirs / ours for theirs, ours in zip(racer.seconds, best.seconds, strict=True)]
    return {
        "model": entry.model,
        "dtype": entry.dtype,
        "contestant": entry.name,
        "side": entry.side,
        "tokens_per_second": entry.size.tokens / statistics.median(racer.seconds),
        "step_ms": 1e3 * statistics.median(racer.seconds),
        "ours_times_faster": statistics.median(ratios),
        "ours_times_faster_min": min(ratios),
        "ours_times_faster_max": max(ratios),
        "peak_mib": racer.last["peak_mib"],
        "first_step_seconds": racer.first["first_step_seconds"],
        "first_loss": racer.first["loss"],
        "last_loss": racer.last["loss"],
        "parameters": racer.first["parameters"],
        "device": racer.first["device"],
        "step_seconds_per_round": racer.seconds,
    }


def device(reported: str) -> str:
    """The accelerator that the contestants reported; of "cpu" the processor's name and how many cores there are."""
    if reported != "cpu":
        return reported
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def circumstances(options: Options, arguments: Sequence[str]) -> dict[str, Any]:
    """Everything that a reader needs to judge or repeat the run."""
    packages = ["jax", "jaxlib", "flax", "optax"] + (["torch", "transformers"] if options.peers else [])
    return {
        "command": " ".join(["python -m benchmarks.step_time", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in packages},
        "options": json.loads(json.dumps(dataclasses.asdict(options), default=str)),
    }


HEADINGS = (
    "model", "dtype", "contestant", "tokens/s", "ms/step", "ours / it (min-max)", "peak MiB", "first step s",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text."""
    ratio = f"{row['ours_times_faster']:.2f} ({row['ours_times_faster_min']:.2f}-{row['ours_times_faster_max']:.2f})"
    return (
        row["model"],
        row["dtype"],
        row["contestant"],
        f"{row['tokens_per_second']:,.0f}",
        f"{row['step_ms']:.0f}",
        ratio,
        f"{row['peak_mib']:,.0f}",
        f"{row['first_step_seconds']:.1f}",
    )


def notes(facts: dict[str, Any]) -> list[str]:
    """What the numbers are."""
    options, size = facts["options"], facts["options"]["size"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        f"{facts['date']}; {facts['device']}; load average before the run {facts['load_before']:.1f}; {versions}.",
        f"Command: `{facts['command']}`",
        f"{size['rows']} rows x {size['length']} tokens, {size['layers']} layers of {size['width']}, vocabulary "
        f"{size['vocab']}; dropout {options['dropout']} on both sides; AdamW (fused in PyTorch), clipping at 1; "
        f"{options['threads']} threads; our layers unrolled (unroll={size['layers']}; the presets of BERT and GPT-2 scan).",
        f"Medians of {options['rounds']} alternating rounds of {options['steps']} steps; ratios within a round, against "
        "our first row of that model and dtype.",
        "Masking is drawn inside our step; PyTorch gets batches masked beforehand, with labels for every position (-100 "
        "where not scored), and no attention mask. Our step builds segment masks and checks that everything is finite.",
        "bf16: ours keeps float32 parameters and computes in bfloat16, as autocast does; 'pure bf16' stores parameters and "
        "moments in bfloat16 too.",
        "Peak: on a GPU, bytes that the side's allocator held; on a CPU, the largest resident set of its own process, "
        "libraries and compiler included. First step: from building the model to the end of the first step, imports of "
        "jax or torch and compilation included.",
    ]


def report(rows: list[dict[str, Any]], facts: dict[str, Any], out: Path, console: Console) -> None:
    """Print the table and write it as .json and .md."""
    table = Table(title="Training step")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            *cells(row), style="bold" if row is rows[0] or row["ours_times_faster_min"] == 1.0 else None
        )
    console.print(table)
    slug = "_".join("".join(c if c.isalnum() else " " for c in facts["device"].lower()).split())
    out.mkdir(parents=True, exist_ok=True)
    (out / f"step_time_{slug}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    lines = ["# Training-step time", "", *[f"- {note}" for note in notes(facts)], ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    (out / f"step_time_{slug}.md").write_text("\n".join(lines) + "\n")
    console.print(f"written: {out}/step_time_{slug}.json and .md")


def main(arguments: Sequence[str]) -> None:
    """Parse, race, report."""
    options = tyro.cli(
        Options, prog="python -m benchmarks.step_time", args=list(arguments), description=__doc__
    )
    check(options)
    console = Console()
    facts = circumstances(options, arguments)
    rows = [
        row
        for model in options.models
        for dtype in options.dtypes
        for row in race(options, model, dtype, console)
    ]
    report(rows, facts | {"device": device(rows[0]["device"])}, options.out, console)


if __name__ == "__main__":
    sys.exit(one_line_errors(main, sys.argv[1:]))
