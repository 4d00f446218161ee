"""What a run is: the typed values of one experiment file. Building things from them happens in `build.py`.

Cross-field mistakes are refused here, with both values, before any array exists.
"""

import dataclasses
from typing import Literal

from model.config import TransformerConfig
from objectives.base import Objective
from train.launch import Launcher, Pmap
from train.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How long, how often and on what: what pretraining and fine-tuning have in common."""

    steps: int
    """Updates in the whole run."""
    batch_size: int
    """Rows per update, over all devices."""
    microbatches: int = 1
    """Parts in which each batch is computed, to save memory; the numbers do not change."""
    seed: int = 0
    """Seeds parameters, data order, corruption and dropout."""
    optimizer: Optimizer = Optimizer()
    launcher: Launcher = Pmap()
    """Pmap (replicated) or Mesh (sharded)."""
    log_every: int = 50
    eval_every: int = 500
    """Steps between evaluations; one more comes at the end."""
    save_every: int = 500
    """Steps between checkpoints; one more comes at the end."""
    keep: int = 2
    """Newest checkpoints that stay."""
    best: str = ""
    """Evaluation metric whose best checkpoint is kept under best/, such as eval/accuracy; empty for none."""
    best_mode: Literal["max", "min"] = "max"
    patience: int = 0
    """Evaluations without a better `best` after which the run ends; 0 never ends early."""

    def __post_init__(self) -> None:
        for field in ("batch_size", "microbatches", "log_every", "eval_every", "save_every", "keep"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by microbatches {self.microbatches}"
            )
        if self.patience and not self.best:
            raise ValueError(
                f"patience is {self.patience} but best is empty: name the evaluation metric to watch"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData:
    """Unlabelled text, and how it becomes rows."""

    files: tuple[str, ...] = ()
    """Globs of .txt or .jsonl files (plain or .gz), or TFDS names (with a slash: tfds:NAME/CONFIG[:SPLIT]); one corpus,
    unless `weights` are given."""
    column: str = "text"
    """Where the text is in .jsonl files and TFDS data sets."""
    weights: tuple[float, ...] = ()
    """Mix the entries of `files` as corpora of their own, by these weights."""
    length: int = 128
    """Tokens per row."""
    max_segments: int = 8
    """Most documents (or pairs) that share a row."""
    framing: Literal["cls_sep", "bos_eos"] = "cls_sep"
    """Special tokens around each piece of text."""
    held_out: float = 0.01
    """Share of documents, chosen by hash, that is kept for evaluation."""
    tokenizer: str = ""
    """A SentencePiece model file, or a run's tokenizer (RUN/tokenizer.model); empty trains one on the corpus, of the
    model's vocabulary size less the sentinels."""
    sentinels: int = 0
    """Last ids of the model's vocabulary that no text has: an objective's own (T5: 100)."""
    lowercase: bool = True
    """Whether a tokenizer trained here folds case."""
    eval_rows: int = 512
    """Held-out rows scored at each evaluation."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.files):
            raise ValueError(
                f"data.weights has {len(self.weights)} entries but data.files has {len(self.files)}"
            )
        if self.length < 1 or self.max_segments < 1 or self.eval_rows < 1:
            raise ValueError(
                f"data.length {self.length}, data.max_segments {self.max_segments} and data.eval_rows {self.eval_rows} "
                "must be at least 1"
            )
        if self.sentinels < 0:
            raise ValueError(f"data.sentinels {self.sentinels} is below 0")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out must be between 0 and 1, got {self.held_out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Run):
    """A pretraining experiment: `configs/x.py` defines `config() -> Experiment`."""

    model: TransformerConfig
    objective: Objective
    data: TextData
    table: Literal["random", "semantic"] = "random"
    """Where the token table starts: "semantic" computes it from which documents share which words (data.semantics)."""
    companions: tuple[tuple[str, str], ...] = ()
    """Each frozen network that the objective reads: its name, and the run folder (or one checkpoint) that it comes from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.table == "semantic" and self.data.weights:
            raise ValueError(
                f"table is 'semantic', which reads one corpus, but data.weights mixes {len(self.data.weights)}: drop the "
                "weights or take the random table"
            )
