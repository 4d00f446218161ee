"""What a fine-tuning run is: the typed values of one experiment file. `build.py` makes a run of them.

Cross-field mistakes are refused here, with both values, before any array exists.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import finetune.adapters
import finetune.tasks
from data.tokenizer import Tokenizer
from finetune.tasks.base import Columns, Example, Learned, Packing, Task, TaskRows
from finetune.tasks.text_classification import TextClassification
from model.config import ModelConfig
from model.ranges import COUNT, DROPOUT, NOT_NEGATIVE, Range, check_ranges
from objectives.rows import RowShape
from train.adapter import FULL, Adapter
from train.cli import choices
from train.experiment import Run
from train.optimizer import Optimizer
from train.rows import row_shape_of

TASK_METRIC = "task"
"""As `best`: the metric that the task names, and whether more of it is better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Labelled examples, and how they become rows."""

    train: str = ""
    """A glob of .csv, .tsv, .jsonl or .conll files (or .gz), or a TFDS split such as rotten_tomatoes:train.
    """
    eval: str = ""
    """Examples scored during the run; they choose the best checkpoint."""
    test: str = ""
    """Examples scored once, at the end; empty for none."""
    text: str = "text"
    """Column of the text (word labels: of the list of words)."""
    text_pair: str = ""
    """Column of the second text, for pairs; empty takes a column named text_pair where there is one."""
    label: str = "label"
    """Column of the class (word labels: of the list of classes)."""
    length: Annotated[int, COUNT] = 128
    """Tokens per row; longer examples are cut, and how many were is printed."""
    max_segments: Annotated[int, COUNT] = 8
    """Most examples that share a row; 1 gives every example a row of its own."""
    labels: Annotated[int, NOT_NEGATIVE] = 0
    """Training examples to use, drawn by `seed` so that fewer lie inside more; 0 uses all."""
    eval_sample: Annotated[int, NOT_NEGATIVE] = 0
    """Evaluation examples scored during the run, the same in every run; 0 scores all."""
    train_sample: Annotated[int, COUNT] = 512
    """Training examples scored without dropout at each evaluation, as train_sample/...; their gap to eval/...
    """

    def __post_init__(self) -> None:
        check_ranges(self, "data.")

    def row_shape(self, model: ModelConfig, tokenizer: Tokenizer | None) -> RowShape:
        """What is true of all rows, where there is a tokenizer and where there is none."""
        shape = {"length": self.length, "max_segments": self.max_segments}
        if tokenizer is None:
            return RowShape(**shape)
        return row_shape_of(tokenizer, pieces=tokenizer.vocab_size, vocab_size=model.vocab_size, **shape)

    @property
    def columns(self) -> Columns:
        """Where a record's text and label are."""
        return Columns(text=self.text, text_pair=self.text_pair, label=self.label)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChanges:
    """What fine-tuning sets anew on the run's model; its shape stays, except for the positions if asked."""

    dropout: Annotated[float, DROPOUT] = 0.1
    """Also in front of the classifier (BERT: 0.1)."""
    attention_dropout: Annotated[float, DROPOUT] = 0.1
    """On attention probabilities (BERT: 0.1); above 0 it rules out the fused kernels."""
    positions: Annotated[int, NOT_NEGATIVE] = 0
    """Longest text the model can place; 0 keeps the run's. A longer table repeats the run's rows."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """Compute dtype; "stored" keeps the run's."""
    remat: Literal["stored", "none", "dots", "full"] = "stored"
    """What the backward pass recomputes; "stored" keeps the run's."""
    attention: Literal["stored", "auto", "plain", "cudnn", "splash"] = "auto"
    """Attention kernel; not the run's by default, which may have been chosen for another machine."""

    def apply(self, model: ModelConfig) -> ModelConfig:
        """The run's model with those of these changes that it knows."""
        known = {field.name for field in dataclasses.fields(model)}
        if self.positions and "max_positions" not in known:
            raise ValueError(
                f"model.positions is {self.positions}, but a {type(model).__name__} places no positions"
            )
        changes = {k: v for k in ("dtype", "remat", "attention") if (v := getattr(self, k)) != "stored"}
        changes |= {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        changes |= {"max_positions": self.positions} if self.positions else {}
        return dataclasses.replace(model, **{k: v for k, v in changes.items() if k in known})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune(Run):
    """A fine-tuning experiment: `configs/x.py` defines `config() -> FineTune`."""

    init_parameters: Literal["restored", "fresh"] = "restored"
    """Fresh takes only the model's shape and the tokenizer from `init`: training from scratch, to compare
    with.
    """
    reuse_heads: tuple[str, ...] = ()
    """Heads to take from the run instead of starting them fresh, such as pooler."""
    steps: Annotated[int, Range(least=0, below=2**31)] = 0
    """Updates in the whole run; 0 goes by `epochs`."""
    epochs: Annotated[float, NOT_NEGATIVE] = 0.0
    """Passes over the training rows; 0 goes by `steps`."""
    best: str = TASK_METRIC
    """Metric of an evaluation whose best checkpoint is kept under best/; "task" is the task's own, empty keeps none."""
    task: Annotated[Task, choices(Task, finetune.tasks)] = TextClassification()
    data: LabelledData = LabelledData()
    adapter: Annotated[Adapter, choices(Adapter, finetune.adapters)] = FULL
    """What is trained: everything, the last layers, or low-rank additions; heads always are."""
    model: ModelChanges = ModelChanges()
    optimizer: Optimizer = Optimizer(learning_rate=1e-4, warmup=0.1, b2=0.999, eps=1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs and self.steps:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs}: set one of them to 0")
        if self.init_parameters == "fresh" and self.reuse_heads:
            raise ValueError(f"init_parameters is fresh, but reuse_heads asks for {list(self.reuse_heads)}")

    def rows(self, examples: Sequence[Example], learned: Learned, tokenizer: Tokenizer | None) -> TaskRows:
        """Examples packed as this run reads them."""
        packing = Packing(tokenizer, self.data.length, self.data.max_segments)
        return self.task.rows(examples, learned, packing)

    def with_metric(self) -> "FineTune":
        """With the task's metric by its name, where that is left to the task."""
        if self.best != TASK_METRIC:
            return self
        task = self.task
        if self.best_mode not in ("own", task.metric_mode):
            raise ValueError(
                f"best_mode is {self.best_mode}, but of {task.metric}, the metric of {type(task).__name__}, "
                f"{'more' if task.metric_mode == 'max' else 'less'} is better: leave best_mode out"
            )
        return dataclasses.replace(self, best=f"eval/{task.metric}", best_mode=task.metric_mode)
