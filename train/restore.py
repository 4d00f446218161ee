"""Opening a run folder: which checkpoint, model, tokenizer and parameters. Starts no training.

Everything comes from the folder itself, so model shape, tokenizer and parameters cannot disagree. What an older version
wrote is brought up to this one (migrations.py), and the reader is told.
"""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.paths import local_path
from data.prepare import TOKENIZER_FILE
from data.tokenizer import Tokenizer, load_tokenizer
from model.config import ModelConfig, TextConfig
from objectives.base import Objective
from objectives.rows import RowShape
from train.adapter import Adapter, Params
from train.checkpoint import HASHES, damaged_file, flat, load_params, newest_whole, saved_steps
from train.describe import decode, read_description, taken_from
from train.migrations import migrate
from train.own_code import OwnCode, check_code

PUBLISHED = {"model_type", "architectures"}
"""Keys of the config.json of a published checkpoint, none of which a run's has."""
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """An opened run: what a hand-off takes from it."""

    folder: Path
    checkpoint: Path
    """The checkpoint that was read."""
    description: dict[str, Any]
    """What config.json says, in this version's words and still encoded; `stored` decodes an entry."""
    code: OwnCode
    """Where its types come from that are not ours."""
    notices: tuple[str, ...]
    """What an older version wrote otherwise, one line each."""
    params: Params
    """{"backbone": ..., "heads": ...} as numpy arrays, the run's own adapter already merged."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.checkpoint.name)

    def stored(self, name: str) -> Any:
        """One entry of config.json as the values it encodes; an error says which are there."""
        if name not in self.description:
            untrained = "imported" in self.description and "experiment" not in self.description
            raise ValueError(
                f"{self.folder / 'config.json'} has no {name!r}, only {sorted(self.description)}"
                + (
                    f": it was imported, not trained here; train from it with --init {self.folder}"
                    if untrained
                    else ""
                )
            )
        with taken_from(self.folder / "config.json"):
            return decode(self.description[name], self.code)

    def stored_as(self, name: str, kind: type) -> Any:
        """One entry, which must be of this kind."""
        value = self.stored(name)
        if not isinstance(value, kind):
            raise ValueError(
                f"{self.folder / 'config.json'}: the stored {name} is a {type(value).__name__}, no {kind.__name__}"
            )
        return value

    @functools.cached_property
    def digest(self) -> str:
        """Of the parameters, as `digest` gives it."""
        return digest(self.params)

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
        rows: RowShape = self.stored_as("rows", RowShape)
        return rows

    @functools.cached_property
    def objective(self) -> Objective:
        """The run's objective, told of its rows."""
        objective: Objective = self.stored_as("objective", Objective)
        rows = self.rows
        with taken_from(self.folder / "config.json"):
            return objective.for_rows(rows)

    @property
    def has_tokenizer(self) -> bool:
        """Whether what it reads are ids."""
        return "tokenizer" in self.description

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer, checked against config.json."""
        path = self.folder / TOKENIZER_FILE
        tokenizer = load_tokenizer(path)
        expected = self.stored_as("tokenizer", str)
        if tokenizer.fingerprint != expected:
            raise ValueError(
                f"{path} is {tokenizer.fingerprint[:16]}..., but the run was made with {expected[:16]}..."
            )
        if isinstance(self.model, TextConfig) and tokenizer.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"{path} has {tokenizer.vocab_size} pieces, the model's vocab_size is {self.model.vocab_size}"
            )
        return tokenizer


def digest(params: Params) -> str:
    """SHA-256 of all leaves with their paths."""
    total = hashlib.sha256()
    for path, leaf in sorted(flat(params).items()):
        total.update("/".join(path).encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def open_run(run: str | Path, code: Sequence[Path] = ()) -> Source:
    """Open a run folder, or one checkpoint of it (RUN/checkpoints/STEP or RUN/best/STEP).

    Of a run folder the best checkpoint is taken if one was kept, else the newest whole one.

    Args:
      run: the folder.
      code: files of the reader's own (--code), whose classes the run may name if it was made with the same text.

    Raises:
      FileNotFoundError: there is no such folder, or nothing was saved in it.
      ValueError: what is there is damaged, or was written by another version.
    """
    path = local_path(run)
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    explicit = path.name.isdigit() and path.parent.name in ("checkpoints", "best")
    folder = path.parent.parent if explicit else path
    # Orbax warns that the checkpoint lacks metadata that a reader of its own would have written.
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = folder / "config.json"
    with taken_from(config):
        stored = read_description(config)
        if "model" not in stored and PUBLISHED & stored.keys():
            raise ValueError(
                f"{folder} is a published checkpoint, no run: make one of it with `python -m finetune.convert import "
                f"{folder} --to RUN`, and name that run"
            )
        description, notices = migrate(stored, functools.partial(load_tokenizer, folder / TOKENIZER_FILE))
        check_code(description)
    if notices:
        log.warning(f"{folder} opened as a run of an older version: {'; '.join(notices)}")
    source = Source(
        folder=folder,
        checkpoint=verify_checkpoint(path) if explicit else pick_checkpoint(folder),
        description=description,
        code=OwnCode(kept=description["code"] if "code" in description else {}, files=tuple(code)),
        notices=notices,
        params={},
    )
    checkpoint = source.checkpoint
    sides = load_params(checkpoint.parent, int(checkpoint.name))
    trainable, frozen = (sides[k] if k in sides else {} for k in ("trainable", "frozen"))
    adapter = source.stored_as("adapter", Adapter)
    with taken_from(config):
        merged = jax.tree.map(np.asarray, adapter.merge(trainable, frozen))
    # A checkpoint holds leaves: a run without heads has no entry for them.
    return dataclasses.replace(source, params={"backbone": {}, "heads": {}} | merged)


def verify_checkpoint(checkpoint: Path) -> Path:
    """The checkpoint itself; ValueError if a file of it is missing, altered or was never finished."""
    if not (checkpoint / HASHES).exists():
        raise ValueError(f"{checkpoint} was never completed (the process ended while saving it)")
    damage = damaged_file(checkpoint)
    if damage is not None:
        raise ValueError(damage)
    return checkpoint


def pick_checkpoint(folder: Path) -> Path:
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
