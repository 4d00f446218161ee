"""The progress bar of a run."""

import sys
from typing import Any

import jax
from tqdm import tqdm


def progress_bar(label: str, total: int, start: int) -> "tqdm[Any]":
    """Of steps, from `start`; in a log file a line every 20 seconds, on one process of several."""
    return tqdm(
        total=total,
        initial=start,
        desc=label,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 20,
        disable=jax.process_index() > 0,
    )


def say_compiling(bar: "tqdm[Any]") -> None:
    """Before the first step, which may take minutes in which nothing else is said."""
    if not bar.disable:
        tqdm.write(f"{bar.desc}: compiling the step, before the first is taken", file=sys.stderr)


def start_clock(bar: "tqdm[Any]") -> None:
    """After the first step: what it took, compilation included, says nothing of those that are left."""
    if not bar.disable:
        bar.unpause()
        bar.initial = bar.last_print_n = bar.n + 1
