"""What a label-efficiency study is: typed values that an experiment file gives. Runs nothing."""

import dataclasses

from finetune.experiment import FineTune
from train.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One downstream task of a study."""

    name: str
    finetune: FineTune
    """Data, steps and the rest; init, labels, seed and learning rate are set by the study."""
    metric: str = "accuracy"
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """The grid that each arm chooses from on the eval split."""
    linear: bool = False
    """Whether a TF-IDF + linear model is scored on the same labels and splits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One pretraining run and everything that is fine-tuned from it."""

    pretrain: Experiment
    tasks: tuple[Task, ...]
    labels: tuple[int, ...] = (128, 1024)
    """Training labels; 0 is all."""
    steps: tuple[int, ...] = (200, 400)
    """Fine-tuning steps for each entry of `labels`, the same for both arms."""
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.labels):
            raise ValueError(f"steps has {len(self.steps)} entries but labels has {len(self.labels)}")
