"""From a fine-tuning experiment and the run it starts from to the parts of a run; then through train's loop.

Every mistake is refused here, before anything compiles. It has no loop of its own.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from data.labelled import LabelledRows, class_names, subset
from data.sources import is_tfds, records
from data.stream import EvalBatches, Stream
from finetune.experiment import FineTune
from finetune.tasks import Columns, Examples, Task, TextClassification
from model.network import Network
from objectives.base import Objective
from train.build import check_evaluations, check_model, check_run
from train.describe import encode
from train.loop import Parts, Result, run
from train.passport import Passport, fresh_passport, hand_off
from train.restore import Source, open_run
from train.workdir import claim

PAIR_COLUMN = "text_pair"
OF_ITS_TASK = ("architectures", "id2label", "label2id", "num_labels", "problem_type")
"""Keys of a published config.json that another task makes wrong."""
SPLITS = {"train": "train", "eval": "validation", "test": "test"}
"""The split of a TFDS data set that is meant where its name gives none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """Everything a fine-tuning run needs to start."""

    experiment: FineTune
    """As given, but with `steps` resolved."""
    source: Source
    parts: Parts
    passport: Passport
    classes: tuple[str, ...]
    description: dict[str, Any]
    reports: tuple[str, ...]
    """What packing did, one line per data set."""


def fine_tune(
    experiment: FineTune,
    workdir: Path,
    *,
    source: Source | None = None,
    label: str = "finetune",
    quiet: bool = False,
) -> Result:
    """Build the parts, claim the run folder, train.

    Args:
      experiment: what to do; a finished run in `workdir` is not repeated, an interrupted one goes on.
      workdir: the run folder.
      source: the opened `experiment.init`, where many runs start from the same one.
      label: what the progress bar says.
      quiet: print neither the hand-off nor what packing did.
    """
    built = build(experiment, source)
    claim(workdir, built.description, built.source.tokenizer)
    if jax.process_index() == 0:
        # A resumed run keeps the account of its beginning: the run it came from may have gone on since.
        if not (workdir / "passport.json").exists():
            built.passport.write(workdir / "passport.json")
        if not quiet:
            print(*built.reports, f"hand-off from {built.source.checkpoint}", sep="\n", file=sys.stderr)
            console(stderr=True).print(built.passport.table())
    return run(built.experiment, built.parts, workdir, label=label)


def console(stderr: bool) -> Console:
    """Where tables go; in a log file they get room instead of 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 120)


def build(experiment: FineTune, source: Source | None = None) -> Built:
    """Read the data, hand the parameters over and put the run together.

    Raises:
      ValueError, FileNotFoundError: with both values and what to do, before anything compiles.
    """
    if not experiment.init:
        raise ValueError("init is empty: name the run folder to start from with --init")
    for name in ("train", "eval"):
        if not getattr(experiment.data, name):
            raise ValueError(f"data.{name} is empty: name a file or a TFDS split with --data.{name}")
    source = open_run(experiment.init) if source is None else source
    experiment = _resolve_pair(experiment)
    model = experiment.model.apply(source.model)
    task, data = experiment.task, experiment.data
    # The test split is scored after training, but a mistake in it should show before.
    splits = ("train", "eval", "test") if data.test else ("train", "eval")
    examples = {name: read_examples(task, getattr(data, name), name, data.columns) for name in splits}
    classes = class_names(examples["train"])
    objective = task.objective(len(classes))
    check_model(model, objective, data.length, encoder_alone=True)
    check_run(experiment, objective)
    examples["train"] = _draw(examples["train"], data.labels, experiment.seed, data.train)
    sample = min(data.train_sample, len(examples["train"]))
    examples["train_sample"] = subset(examples["train"], sample, experiment.seed)
    if data.eval_sample:
        # One fixed seed: every run of a comparison is chosen by the same examples.
        examples["eval"] = subset(examples["eval"], min(data.eval_sample, len(examples["eval"])), 0)
    rows = {name: _rows(experiment, some, source, classes) for name, some in examples.items()}
    network = Network(model.build(), tuple(objective.heads(model)))
    experiment = _resolve_steps(experiment, len(rows["train"]))
    eval_sets = {
        name: list(EvalBatches(rows[name], batch_size=experiment.batch_size))
        for name in ("eval", "train_sample")
    }
    check_evaluations(experiment, network, objective, experiment.adapter, eval_sets)
    initial, passport = _initial(experiment, source, network)
    stream = Stream(rows["train"], batch_size=experiment.batch_size, seed=experiment.seed)
    return Built(
        experiment=experiment,
        source=source,
        parts=Parts(
            network=network,
            objective=objective,
            stream=stream,
            eval_sets=eval_sets,
            adapter=experiment.adapter,
            initial=initial,
        ),
        passport=passport,
        classes=classes,
        description=_description(experiment, network, objective, classes) | _origin(source),
        reports=tuple(f"{name}: {some.report()}" for name, some in rows.items() if name != "train_sample"),
    )


def _description(
    experiment: FineTune, network: Network, objective: Objective, classes: Sequence[str]
) -> dict[str, Any]:
    return {
        "experiment": encode(experiment),
        "model": encode(network.backbone.config),
        "objective": encode(objective),
        "adapter": encode(experiment.adapter),
        "classes": list(classes),
    }


def _origin(source: Source) -> dict[str, Any]:
    """Of a run that began as a published checkpoint, what it takes to become one again."""
    if "imported" not in source.description:
        return {}
    imported = source.description["imported"]
    config = {k: v for k, v in imported["config"].items() if k not in OF_ITS_TASK}
    return {"imported": {"model_type": imported["model_type"], "dtype": imported["dtype"], "config": config}}


def read_examples(task: Task, spec: str, name: str, columns: Columns) -> Examples:
    """Labelled examples of a file or TFDS split; `name` says which split a plain TFDS name means."""
    # A split of a named version never changes, and a study reads the same few many times; files may change.
    read = _read_split if is_tfds(spec) else _read
    return read(task, spec, name, columns)


def _read(task: Task, spec: str, name: str, columns: Columns) -> Examples:
    return task.examples(records(spec, split=SPLITS[name]), columns)


_read_split = functools.lru_cache(maxsize=6)(_read)


def _draw(examples: Examples, count: int, seed: int, spec: str) -> Examples:
    if count > len(examples):
        raise ValueError(f"data.labels {count} exceeds the {len(examples)} examples of {spec}")
    return subset(examples, count, seed) if count else examples


def _rows(experiment: FineTune, examples: Examples, source: Source, classes: Sequence[str]) -> LabelledRows:
    data = experiment.data
    return experiment.task.rows(
        examples,
        tokenizer=source.tokenizer,
        classes=classes,
        length=data.length,
        max_segments=data.max_segments,
    )


def _resolve_pair(experiment: FineTune) -> FineTune:
    """A column called text_pair is the second text, unless the experiment names another."""
    data = experiment.data
    if data.text_pair or not isinstance(experiment.task, TextClassification):
        return experiment
    if PAIR_COLUMN not in records(data.train, split=SPLITS["train"])[0].values:
        return experiment
    return dataclasses.replace(experiment, data=dataclasses.replace(data, text_pair=PAIR_COLUMN))


def _resolve_steps(experiment: FineTune, rows: int) -> FineTune:
    if experiment.steps:
        return experiment
    if not experiment.epochs:
        raise ValueError("steps and epochs are both 0: say how long to train with --steps or --epochs")
    steps = max(1, round(experiment.epochs * rows / experiment.batch_size))
    return dataclasses.replace(experiment, steps=steps, epochs=0.0)


def _initial(experiment: FineTune, source: Source, network: Network) -> tuple[Any, Passport]:
    """Initial parameters (None: the loop draws them) and the account of them."""
    if experiment.init_parameters == "fresh":
        return None, fresh_passport(source, network)
    # The key that the loop would draw parameters with: both arms of a comparison get the same heads.
    key = jax.random.split(jax.random.key(experiment.seed), 3)[0]
    return hand_off(source, network, key, reuse_heads=experiment.reuse_heads)
