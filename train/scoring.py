"""Batches that are only scored: sums over all of them, for a run's own evaluations and for looking at one."""

from collections.abc import Callable, Iterable
from typing import Any

from train import metrics
from train.launch import HostBatch, Launcher
from train.read_ahead import ReadAhead


def evaluate(
    step: Callable[..., Any], launcher: Launcher, state: Any, batches: Iterable[HostBatch], rng: Any
) -> dict[str, tuple[float, float]]:
    """Sums with weights over all batches, added in float64 on the host.

    As in training, a batch is dispatched before the sums of the one before it are fetched, and the next ones are read
    meanwhile.
    """
    total: dict[str, tuple[float, float]] = {}
    pending: Any = None
    with ReadAhead(batches) as ahead:
        for batch in ahead:
            rows = launcher.local_rows(len(batch["example_ids"]))
            sums = step(state, launcher.put({k: v[rows] for k, v in batch.items()}), rng)
            if pending is not None:
                metrics.add(total, launcher.fetch(pending))
            pending = sums
    if pending is not None:
        metrics.add(total, launcher.fetch(pending))
    return total
