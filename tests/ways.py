"""How long the way of one batch through the project's files is: python -m tests.ways [--verbose].

What is counted:

- Files are those of model/, objectives/, data/, train/ and finetune/. Calls of Python functions in them are followed with
  `sys.settrace`: every function, comprehensions and lambdas too, but not what a dataclass or a library generates.
- The way begins in train/loop.py, which asks for the batch and starts the step, and goes through one
  `stream.batch(0)` and one `train_step` as the launcher compiles it. The step is traced (`jax.eval_shape`); nothing is
  compiled. `files` are all files on it; `without internals` leaves out those of model/, but for model/network.py.
- `moves` and `forward files` are of one forward: the first call of the objective in the step, from its caller and back
  to it. A move is a change of file, by a call or by a return. Model internals count as one file here.
- `network` is how often the forward calls from elsewhere into model/network.py.
- Every cache is empty: what an earlier trace has kept would hide calls.

The experiments are the shipped ones with a tiny model on a made-up corpus, so that a person can follow them in configs/.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune.adapters import LoRA
from finetune.build import build as build_fine_tuning
from finetune.experiment import FineTune
from objectives.bert import bert
from objectives.bert_next_sentence import BertNextSentence
from objectives.masked_lm import MaskedLM
from objectives.mixture import Mixture
from objectives.next_sentence import NextSentence
from train.build import Built, build
from train.checkpoint import Checkpoints
from train.cli import load_config
from train.experiment import Experiment, Run
from train.launch import Mesh
from train.loop import Parts
from train.state import TrainState, create_state
from train.step import train_step
from train.workdir import claim

ROOT = Path(__file__).parent.parent
ROOMS = ("model", "objectives", "data", "train", "finetune")
BEGINNING = "train/loop.py"
INTERNALS = "model/*"
VOCAB = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """Where the way is: in this function, just called or come back to."""

    file: str
    function: str
    called: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """The way of one batch."""

    whole: tuple[Visit, ...]
    forward: tuple[Visit, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All files in the order in which they are first entered."""
        return (BEGINNING, *dict.fromkeys(visit.file for visit in self.whole))

    @property
    def files_without_internals(self) -> tuple[str, ...]:
        return tuple(file for file in self.files if folded(file) == file)

    @property
    def forward_files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(folded(visit.file) for visit in self.forward))

    @property
    def moves(self) -> tuple[Visit, ...]:
        """Where each move of the forward leads."""
        pairs = zip(self.forward, self.forward[1:], strict=False)
        return tuple(after for before, after in pairs if folded(before.file) != folded(after.file))

    @property
    def network_entries(self) -> int:
        """How often the forward calls into model/network.py."""
        return sum(visit.file == "model/network.py" and visit.called for visit in self.moves)


def folded(file: str) -> str:
    """The file, or what stands for all model internals."""
    return INTERNALS if file.startswith("model/") and file != "model/network.py" else file


class Recorder:
    """Notes each visit of a function in the project while it is active."""

    def __init__(self, forward: Any):
        """`forward`: the function whose first call is the forward."""
        self.visits: list[Visit] = []
        self.forward = slice(0)
        self._code = forward.__code__
        self._start: int | None = None
        self._depth = -1
        self._stack: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        file = project_file(code.co_filename)
        if file is None:
            return None
        if code is self._code and self._start is None:
            self._start, self._depth = len(self.visits) - 1, len(self._stack)
        self._stack.append((file, code.co_qualname))
        self.visits.append(Visit(file=file, function=code.co_qualname, called=True))
        frame.f_trace_lines = False
        return self._return

    def _return(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            self._stack.pop()
            if self._stack:
                file, function = self._stack[-1]
                self.visits.append(Visit(file=file, function=function, called=False))
            if len(self._stack) == self._depth:
                self.forward, self._depth = slice(self._start, len(self.visits)), -1
        return self._return


@functools.cache
def project_file(name: str) -> str | None:
    """The path of a project file from the root on, or None for any other file."""
    path = Path(name)
    if not path.is_relative_to(ROOT):
        return None
    file = path.relative_to(ROOT)
    return file.as_posix() if file.parts[0] in ROOMS else None


def follow(run: Run, parts: Parts) -> Way:
    """Follow one batch of a run."""
    tx, key = run.optimizer.build(run.steps), jax.random.key(0)
    state = abstract_state(run, parts)
    empty_caches()
    recorder = Recorder(type(parts.objective).__call__)
    with recorder.active():
        batch = parts.stream.batch(0)
        step = functools.partial(
            train_step, network=parts.network, objective=parts.objective, tx=tx, adapter=parts.adapter
        )
        jax.eval_shape(run.launcher.compile(step, donate=False), state, batch, key)
    if not recorder.forward.stop:
        raise ValueError(
            f"train_step never called {type(parts.objective).__name__}.__call__: name what it calls instead as the forward"
        )
    return Way(whole=tuple(recorder.visits), forward=tuple(recorder.visits[recorder.forward]))


def abstract_state(run: Run, parts: Parts) -> TrainState:
    """Shapes of the state before the first step."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    create = functools.partial(create_state, tx=run.optimizer.build(run.steps), adapter=parts.adapter)
    return jax.eval_shape(create, jax.eval_shape(parts.network.init, key), key)


def empty_caches() -> None:
    """Empty jax's caches and those of the project's own functions."""
    jax.clear_caches()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ROOMS:
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def tiny(experiment: Experiment, corpus: Path, **changes: Any) -> Experiment:
    """The same experiment with a model that is quickly traced."""
    model = dataclasses.replace(experiment.model, vocab_size=VOCAB, layers=1, width=16, heads=2, mlp_width=32)
    # The text is short, so a larger share of it must be held out.
    data = dataclasses.replace(experiment.data, files=(str(corpus),), held_out=0.2)
    values = {"model": model, "data": data, "batch_size": 8, "launcher": Mesh(), **changes}
    return dataclasses.replace(experiment, **values)


def pretraining(corpus: Path) -> dict[str, Experiment]:
    """The experiments by the name of their way."""
    gpt = load_config(str(ROOT / "configs/gpt_mini.py"), Experiment)
    mini = load_config(str(ROOT / "configs/bert_mini.py"), Experiment)
    masked_lm, next_sentence = part_of(mini.objective, MaskedLM), part_of(mini.objective, NextSentence)
    # As configs/bert_published_mini.py has it, whose vocabulary would have to be fetched; any id may end a sentence.
    published = BertNextSentence(**vars(next_sentence), sentence_ends=(10, 11, 12))
    return {
        "causal LM": tiny(gpt, corpus),
        "masked LM": tiny(mini, corpus, objective=masked_lm),
        "BERT (mixture)": tiny(mini, corpus, objective=bert(masked_lm, published)),
    }


def part_of(mixture: Mixture, kind: type) -> Any:
    """The part of that kind."""
    return next(part for _, part, _ in mixture.parts if type(part) is kind)


def fine_tuning(init: Path, folder: Path, rng: np.random.Generator) -> FineTune:
    """Text classification with LoRA from that run, on tables that are written into the folder."""
    shipped = load_config(str(ROOT / "configs/text_classification.py"), FineTune)
    tables = {name: folder / f"{name}.csv" for name in ("train", "eval")}
    for path in tables.values():
        with path.open("w", newline="") as file:
            rows = [(sentence(rng), ("bad", "good")[number % 2]) for number in range(40)]
            csv.writer(file).writerows([("text", "label"), *rows])
    data = dataclasses.replace(shipped.data, train=str(tables["train"]), eval=str(tables["eval"]))
    return dataclasses.replace(
        shipped, init=str(init), data=data, adapter=LoRA(rank=2), batch_size=8, launcher=Mesh()
    )


def sentence(rng: np.random.Generator) -> str:
    return " ".join("".join(rng.choice(list("abcdefghijklmno"), 3)) for _ in range(12))


def save_untrained(built: Built, run: Run, folder: Path) -> None:
    """A run folder that holds the run's first state; all parameters are zero, because only their shapes matter here."""
    claim(folder, built.description, built.tokenizer)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_state(run, built.parts))
    checkpoints = Checkpoints(folder / "checkpoints", 1)
    checkpoints.save(0, zeros, {})
    checkpoints.wait()
    checkpoints.close()


def follow_all() -> dict[str, Way]:
    """Every way by its name; changes HANDOFF_CACHE of this process and empties its caches."""
    ways: dict[str, Way] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        os.environ["HANDOFF_CACHE"] = str(folder / "cache")
        corpus = folder / "corpus.txt"
        corpus.write_text("\n\n".join(" ".join(sentence(rng) for _ in range(4)) for _ in range(120)))
        for way, experiment in pretraining(corpus).items():
            built = build(experiment)
            ways[way] = follow(experiment, built.parts)
            if way == "masked LM":
                save_untrained(built, experiment, folder / "run")
        tuned = build_fine_tuning(fine_tuning(folder / "run", folder, rng))
        ways["fine-tuning with LoRA"] = follow(tuned.experiment, tuned.parts)
    return ways


def table(ways: dict[str, Way]) -> str:
    """A row of Markdown for each way."""
    lines = [
        "| way | moves | forward files | network | files | without internals |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in ways.items():
        numbers = (
            len(way.moves),
            len(way.forward_files),
            way.network_entries,
            len(way.files),
            len(way.files_without_internals),
        )
        lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def account(name: str, way: Way) -> str:
    """One way in full: its files in order, then every move of its forward."""
    lines = [f"\n{name}, files in the order in which a batch enters them:"]
    lines += [f"  {file}" for file in way.files]
    lines += [f"{name}, one forward:", f"      {way.forward[0].file} {way.forward[0].function}"]
    for number, visit in enumerate(way.moves, 1):
        arrow = "->" if visit.called else "<-"
        lines.append(f"  {number:2} {arrow} {visit.file} {visit.function}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ways", description="Count the way of one batch.")
    parser.add_argument("--verbose", action="store_true", help="print every file and every move, too")
    verbose = parser.parse_args().verbose
    ways = follow_all()
    print(table(ways))
    if verbose:
        print(*(account(name, way) for name, way in ways.items()), sep="\n")


if __name__ == "__main__":
    main()
