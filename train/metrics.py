"""Where a run's numbers go: `metrics.jsonl` and TensorBoard event files.

Everything arrives as sums with weights; the one division happens here.
"""

import json
import math
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from data.files import LARGEST_JSON, read_file, writing

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
    if step or float(sums["grad_norm"][0]) != 0:
        return
    scored = {name: float(sums[name][1]) for name in terms if sums[name][1] > 0}
    if not scored:
        return
    counted = ", ".join(f"{weight:g} of {name!r}" for name, weight in scored.items())
    raise ValueError(
        f"step {step}: the loss is {float(sums['loss'][0]):g} over {counted}, but has no gradient, so nothing can be "
        "learned: a loss that compares texts needs different ones in a batch (batch_size), any other a part that learns"
    )


class Writer:
    """Appends rows of one run; rows after `resume_step` are cut off first, so that a resumed run repeats none.

    Every write is on its way to the disk when it returns, so that a full one is said here and not in a thread.
    """

    def __init__(self, workdir: Path, resume_step: int, *, evaluates_again: bool = False):
        """`evaluates_again`: whether the evaluation of `resume_step` is to be repeated, too."""
        self.path = workdir / "metrics.jsonl"
        self._events = workdir / "tensorboard"
        if self.path.exists():
            kept = [row for row in read_rows(self.path) if row["step"] <= resume_step]
            if evaluates_again:
                kept = [row for row in kept if row["step"] < resume_step or "train/loss" in row]
            temporary = self.path.with_suffix(".tmp")
            with writing(self.path):
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
                temporary.replace(self.path)
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")
        with writing(self._events):
            # Not its SummaryWriter: where the thread of that cannot write, closing it waits for ever.
            self._events.mkdir(exist_ok=True)
            self._board = EventsWriter(str(self._events / "events"))
            purged = SessionLog(status=SessionLog.START)
            self._write_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=purged))

    def _write_event(self, event: Any) -> None:
        self._board.write_event(event)
        self._board.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row of finite numbers; nan and inf become null, which JSON can carry."""
        row = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        with writing(self.path):
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._file.flush()
        scalars = Summary(value=[Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items()])
        with writing(self._events):
            self._write_event(Event(wall_time=time.time(), step=step, summary=scalars))

    def close(self) -> None:
        """Flush and close both files."""
        with writing(self.path):
            self._file.close()
        with writing(self._events):
            self._board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that a killed process left half-written is dropped.

    Raises:
      FileNotFoundError, ValueError: it is not there, or damaged; the message names it.
    """
    rows = []
    lines = read_file(path, 100 * LARGEST_JSON).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "step" not in row or not isinstance(row["step"], int):
                raise ValueError("it is no row with a step")
            rows.append(row)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows
