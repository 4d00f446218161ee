"""What a run is: the typed values of one experiment file. Building things from them happens in `build.py`.

Cross-field mistakes are refused here, with both values, before any array exists.
"""

import dataclasses
from typing import Annotated, Literal

from model.config import ModelConfig
from model.ranges import COUNT, NOT_NEGATIVE, SEED, STEPS, check_ranges
from model.row_keys import Generator
from objectives.base import Objective
from train.data import Data
from train.launch import Launcher, Pmap
from train.optimizer import Optimizer

INIT = "init"
"""In place of a companion's run: the one that this run starts from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How long, how often and on what: what pretraining and fine-tuning have in common."""

    steps: Annotated[int, STEPS]
    """Updates in the whole run."""
    batch_size: Annotated[int, COUNT]
    """Rows per update, over all devices."""
    microbatches: Annotated[int, COUNT] = 1
    """Parts in which each batch is computed, to save memory; the numbers do not change."""
    seed: Annotated[int, SEED] = 0
    """Seeds parameters, data order, corruption and dropout."""
    dropout_bits: Generator = "hash"
    """How dropout draws: "hash" costs a tenth of "threefry" (model/row_keys.py)."""
    optimizer: Optimizer = Optimizer()
    launcher: Launcher = Pmap()
    """Pmap (replicated) or Mesh (sharded)."""
    log_every: Annotated[int, COUNT] = 50
    eval_every: Annotated[int, COUNT] = 500
    """Steps between evaluations; one more comes at the end."""
    save_every: Annotated[int, COUNT] = 500
    """Steps between checkpoints; one more comes at the end."""
    keep: Annotated[int, COUNT] = 2
    """Newest checkpoints that stay."""
    best: str = ""
    """Evaluation metric whose best checkpoint is kept under best/, such as eval/accuracy; empty for none."""
    best_mode: Literal["own", "max", "min"] = "own"
    """Whether more or less of it is better: its own is known of every term, and of the metrics that the objective names."""
    patience: Annotated[int, NOT_NEGATIVE] = 0
    """Evaluations without a better `best` after which the run ends; 0 never ends early."""
    init: str = ""
    """The run folder to start from, or one checkpoint of it (RUN/checkpoints/STEP)."""
    companions: tuple[tuple[str, str], ...] = ()
    """Each frozen network that the objective reads: its name, and the run folder (or one checkpoint) that it comes from;
    init stands for the run that this one starts from."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by microbatches {self.microbatches}"
            )
        if not self.init and (started := [name for name, run in self.companions if run == INIT]):
            raise ValueError(
                f"companion {started[0]!r} is the run of init, but init is empty: name that run with --init"
            )
        if self.patience and not self.best:
            raise ValueError(
                f"patience is {self.patience} but best is empty: name the evaluation metric to watch"
            )

    @property
    def sign(self) -> int:
        """1 where more of `best` is better, -1 where less is; ValueError where that was left to the metric."""
        if self.best_mode == "own":
            raise ValueError(f"whether more of {self.best} is better is not settled yet: build the run first")
        return 1 if self.best_mode == "max" else -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Run):
    """A pretraining experiment: `configs/x.py` defines `config() -> Experiment`."""

    model: ModelConfig
    """Of a run that goes on from `init` the shape is that run's; precision, dropout and kernels are said here."""
    objective: Objective
    data: Data
    """What it is fed with: text (train/text.py), or another kind."""
    table: Literal["random", "semantic"] = "random"
    """Where the token table starts: "semantic" computes it from which documents share which words (data.semantics)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table == "semantic" and self.init:
            raise ValueError(
                f"table is 'semantic', but the token table comes from init {self.init}: set --table random"
            )
        self.data.check(self)
