"""Where a run's numbers go: `metrics.jsonl` and TensorBoard event files. Knows no model and no loop.

Everything arrives as sums with weights; the one division happens here.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

Sums = Mapping[str, tuple[Any, Any]]


def add(total: dict[str, tuple[float, float]], sums: Sums) -> None:
    """Add sums and weights in place, in float64."""
    for name, (value, weight) in sums.items():
        before = total[name] if name in total else (0.0, 0.0)
        total[name] = (before[0] + float(value), before[1] + float(weight))


def means(total: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Divide sum by weight; what had no weight is left out rather than reported as a number."""
    return {name: value / weight for name, (value, weight) in total.items() if weight > 0}


def refuse_no_gradient(step: int, sums: Sums, terms: Collection[str]) -> None:
    """Raise ValueError at the first step if terms were scored and yet no parameter can move: no later step would differ."""
    scored = {name: float(sums[name][1]) for name in terms if sums[name][1] > 0}
    if step or not scored or float(sums["grad_norm"][0]) != 0:
        return
    counted = ", ".join(f"{weight:g} of {name!r}" for name, weight in scored.items())
    raise ValueError(
        f"step {step}: the loss is {float(sums['loss'][0]):g} over {counted}, but has no gradient, so nothing can be "
        "learned: a loss that compares texts needs different ones in a batch (batch_size), any other a part that learns"
    )


class Writer:
    """Appends rows of one run; rows after `resume_step` are cut off first, so that a resumed run repeats none."""

    def __init__(self, workdir: Path, resume_step: int):
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            kept = [row for row in read_rows(self.path) if row["step"] <= resume_step]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            temporary.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row of finite numbers; nan and inf become null, which JSON can carry."""
        row = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, np.float64(value), step)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that a killed process left half-written is dropped."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows
