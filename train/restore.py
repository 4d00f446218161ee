"""Opening a run folder: which checkpoint, model, tokenizer and parameters. Starts no training.

Everything comes from the folder itself, so model shape, tokenizer and parameters cannot disagree. It must not
know what the run was trained for, nor what it is opened for.
"""

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.prepare import TOKENIZER_FILE
from data.tokenizer import Tokenizer, load_tokenizer
from model.config import ModelConfig, TextConfig
from objectives.base import Objective
from objectives.rows import RowShape
from train.adapter import Params
from train.checkpoint import HASHES, damaged_file, load_params, newest_whole, saved_steps
from train.describe import decode, read_json

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """An opened run: what a hand-off takes from it."""

    folder: Path
    checkpoint: Path
    """The checkpoint that was read."""
    description: dict[str, Any]
    """What config.json says, still encoded; `stored` decodes an entry."""
    params: Params
    """{"backbone": ..., "heads": ...} as numpy arrays, the run's own adapter already merged."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.checkpoint.name)

    def stored(self, name: str) -> Any:
        """One entry of config.json as the values it encodes; an error says which are there."""
        if name not in self.description:
            raise ValueError(
                f"{self.folder / 'config.json'} has no {name!r}, only {sorted(self.description)}"
            )
        return decode(self.description[name])

    @functools.cached_property
    def model(self) -> ModelConfig:
        """The model's configuration."""
        config = self.stored("model")
        if not isinstance(config, ModelConfig):
            raise ValueError(
                f"{self.folder}: the stored model is a {type(config).__name__}, no model configuration"
            )
        return config

    @functools.cached_property
    def rows(self) -> RowShape:
        """What the run's rows are."""
        rows: RowShape = self.stored("rows")
        return rows

    @functools.cached_property
    def objective(self) -> Objective:
        """The run's objective, told of its rows."""
        objective: Objective = self.stored("objective")
        return objective.for_rows(self.rows)

    @property
    def has_tokenizer(self) -> bool:
        """Whether what it reads are ids."""
        return "tokenizer" in self.description

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer, checked against config.json."""
        path = self.folder / TOKENIZER_FILE
        tokenizer = load_tokenizer(path)
        expected = self.stored("tokenizer")
        if tokenizer.fingerprint != expected:
            raise ValueError(
                f"{path} is {tokenizer.fingerprint[:16]}..., but the run was made with {expected[:16]}..."
            )
        if isinstance(self.model, TextConfig) and tokenizer.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"{path} has {tokenizer.vocab_size} pieces, the model's vocab_size is {self.model.vocab_size}"
            )
        return tokenizer


def open_run(run: str | Path) -> Source:
    """Open a run folder, or one checkpoint of it (RUN/checkpoints/STEP or RUN/best/STEP).

    Of a run folder the best checkpoint is taken if one was kept, else the newest whole one.

    Raises:
      FileNotFoundError: there is no such folder, or nothing was saved in it.
      ValueError: what is there is damaged, or was written by another version.
    """
    path = Path(run).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    explicit = path.name.isdigit() and path.parent.name in ("checkpoints", "best")
    folder = path.parent.parent if explicit else path
    # Orbax warns that the checkpoint lacks metadata that a reader of its own would have written.
    logging.getLogger("absl").setLevel(logging.ERROR)
    description = read_json(folder / "config.json")
    checkpoint = _whole(path) if explicit else _choose(folder)
    source = Source(folder=folder, checkpoint=checkpoint, description=description, params={})
    sides = load_params(checkpoint.parent, int(checkpoint.name))
    trainable, frozen = (sides[k] if k in sides else {} for k in ("trainable", "frozen"))
    merged = jax.tree.map(np.asarray, source.stored("adapter").merge(trainable, frozen))
    # A checkpoint holds leaves: a run without heads has no entry for them.
    return dataclasses.replace(source, params={"backbone": {}, "heads": {}} | merged)


def _whole(checkpoint: Path) -> Path:
    if not (checkpoint / HASHES).exists():
        raise ValueError(f"{checkpoint} was never completed (the process ended while saving it)")
    damage = damaged_file(checkpoint)
    if damage is not None:
        raise ValueError(damage)
    return checkpoint


def _choose(folder: Path) -> Path:
    """The best checkpoint, else the newest whole one; what was passed over is logged."""
    notices: list[str] = []
    for name in ("best", "checkpoints"):
        if saved_steps(folder / name):
            step = newest_whole(folder / name, notices)
            for notice in notices:
                log.warning(notice)
            if step is not None:
                return folder / name / str(step)
    raise FileNotFoundError(f"{folder} holds no finished checkpoint: has the run saved one yet?")
