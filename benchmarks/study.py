"""What a study or a comparison is: typed values that an experiment file gives. Runs nothing."""

import dataclasses
from typing import Annotated

from finetune.experiment import FineTune
from model.ranges import COUNT, NOT_NEGATIVE, SEED
from train.experiment import Experiment
from train.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One downstream task of a study."""

    name: str
    finetune: FineTune
    """Data, steps and the rest; init, labels, seed and optimizer are set by the study."""
    metric: str = "accuracy"
    optimizers: tuple[Optimizer, ...]
    """What each arm chooses from on the eval split; they differ in learning rate or layer_decay."""
    linear: bool = False
    """Whether a TF-IDF + linear model is scored on the same labels and splits."""

    def __post_init__(self) -> None:
        names = [(one.learning_rate, one.layer_decay) for one in self.optimizers]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"optimizers must differ in (learning_rate, layer_decay), got {names}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One pretraining run and everything that is fine-tuned from it."""

    pretrain: Experiment
    tasks: tuple[Task, ...]
    labels: Annotated[tuple[int, ...], NOT_NEGATIVE] = (128, 1024)
    """Training labels; 0 is all."""
    steps: Annotated[tuple[int, ...], COUNT] = (200, 400)
    """Fine-tuning steps for each entry of `labels`, the same for both arms."""
    seeds: Annotated[tuple[int, ...], SEED] = (0, 1, 2)

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.labels):
            raise ValueError(f"steps has {len(self.steps)} entries but labels has {len(self.labels)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several pretraining runs of one budget, fine-tuned alike."""

    pretraining: tuple[tuple[str, Experiment], ...]
    """(name, experiment); all must read equally many tokens with equally deep and wide encoders."""
    tasks: tuple[Task, ...]
    labels: Annotated[int, NOT_NEGATIVE] = 1024
    steps: Annotated[int, COUNT] = 240
    """Fine-tuning steps."""
    seeds: Annotated[tuple[int, ...], SEED] = (0, 1, 2)

    def __post_init__(self) -> None:
        budgets = {
            name: (one.steps * one.batch_size * one.data.length, one.model.layers, one.model.width)
            for name, one in self.pretraining
        }
        if len(set(budgets.values())) > 1:
            raise ValueError(f"budgets differ in (tokens, layers, width): {budgets}")
