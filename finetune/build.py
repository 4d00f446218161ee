"""From a fine-tuning experiment and the run it starts from to the parts of a run; then through train's loop.

Every mistake is refused here, before anything compiles.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from data.labelled import subset
from data.prepare import TOKENIZER_FILE
from data.records import Record
from data.sources import is_tfds, records
from data.stream import EvalBatches, Stream
from data.tokenizer import Tokenizer, load_tokenizer
from finetune.experiment import FineTune
from finetune.tasks.base import Example, Learned
from model.network import Network
from objectives.base import Objective
from train.build import check_evaluations, check_model, check_run, network_of
from train.cli import console
from train.companions import check_companions, check_tokenizers, open_companions
from train.describe import encode
from train.framing import framed_tokenizer
from train.loop import Parts, Result, run
from train.passport import Passport, fresh_passport, hand_off
from train.restore import Source, open_run
from train.workdir import claim

OF_ITS_TASK = ("architectures", "id2label", "label2id", "num_labels", "problem_type")
"""Keys of a published config.json that another task makes wrong."""
GENERATION = "generation_config"
"""Under this an imported run keeps its generation_config.json."""
SPLITS = {"train": "train", "eval": "validation", "test": "test"}
"""The split of a TFDS data set that is meant where its name gives none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """Everything a fine-tuning run needs to start."""

    experiment: FineTune
    """As given, but with steps, best metric and columns resolved."""
    source: Source
    parts: Parts
    tokenizer: Tokenizer | None
    passport: Passport
    learned: Learned
    description: dict[str, Any]
    reports: tuple[str, ...]
    """What packing did, one line per data set."""


def fine_tune(
    experiment: FineTune,
    workdir: Path,
    *,
    source: Source | None = None,
    code: Sequence[Path] = (),
    label: str = "finetune",
    quiet: bool = False,
) -> Result:
    """Build the parts, claim the run folder, train.

    Args:
      experiment: what to do; a finished run in `workdir` is not repeated, an interrupted one goes on.
      workdir: the run folder.
      source: the opened `experiment.init`, where many runs start from the same one.
      code: files whose classes opened runs may name.
      label: what the progress bar says.
      quiet: print neither the hand-off nor what packing did.
    """
    built = build(experiment, source, code, workdir)
    claim(workdir, built.description, built.tokenizer)
    if jax.process_index() == 0:
        built.passport.keep(workdir)
        if not quiet:
            print(*built.reports, f"hand-off from {built.source.checkpoint}", sep="\n", file=sys.stderr)
            console(stderr=True).print(built.passport.table())
    return run(built.experiment, built.parts, workdir, label=label)


def build(
    experiment: FineTune,
    source: Source | None = None,
    code: Sequence[Path] = (),
    workdir: Path | None = None,
) -> Built:
    """Read the data, hand the parameters over and put the run together.

    Args:
      experiment: what to do.
      source: the opened `experiment.init`.
      code: files whose classes opened runs may name.
      workdir: the run folder, where the run may have begun.

    Raises:
      ValueError, FileNotFoundError: with both values and what to do, before anything compiles.
    """
    if not experiment.init:
        raise ValueError("init is empty: name the run folder to start from with --init")
    for name in ("train", "eval"):
        if not getattr(experiment.data, name):
            raise ValueError(f"data.{name} is empty: name a file or a TFDS split with --data.{name}")
    source = open_run(experiment.init, code) if source is None else source
    model = experiment.model.apply(source.model)
    experiment, examples = _read(experiment.with_metric())
    data = experiment.data
    learned = experiment.task.learn(examples["train"])
    tokenizer = _tokenizer(source, workdir) if source.has_tokenizer else None
    shape = data.row_shape(model, tokenizer)
    objective = experiment.task.objective(learned).for_rows(shape)
    check_companions(objective, experiment.companions)
    check_model(model, objective, encoder_alone=True)
    check_run(experiment, objective)
    companions = open_companions(experiment, objective, model, source, code)
    check_tokenizers(companions, tokenizer)
    rows = {
        name: experiment.rows(some, learned, tokenizer) for name, some in _draw(experiment, examples).items()
    }
    network = network_of(model, objective, companions)
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
            companions={companion.name: companion.params for companion in companions},
        ),
        tokenizer=tokenizer,
        passport=passport,
        learned=learned,
        description=_description(experiment, network, objective, learned)
        | {"companion_checkpoints": {companion.name: companion.description() for companion in companions}}
        | _origin(source),
        reports=(
            *(companion.report() for companion in companions),
            *(f"{name}: {some.report()}" for name, some in rows.items() if name != "train_sample"),
        ),
    )


def _tokenizer(source: Source, workdir: Path | None) -> Tokenizer:
    """The tokenizer, with what stands around texts; a run that goes on keeps what stood there when it began."""
    framed = framed_tokenizer(source)
    begun = None if workdir is None else workdir / TOKENIZER_FILE
    if begun is None or not begun.is_file():
        return framed
    own = load_tokenizer(begun)
    same = own.with_framing("cls_sep").fingerprint == framed.with_framing("cls_sep").fingerprint
    return own if same else framed


def _description(
    experiment: FineTune, network: Network, objective: Objective, learned: Learned
) -> dict[str, Any]:
    return {
        "experiment": encode(experiment),
        "model": encode(network.backbone.config),
        "objective": encode(objective),
        "rows": encode(objective.rows),
        "adapter": encode(experiment.adapter),
        "learned": encode(learned),
    }


def _origin(source: Source) -> dict[str, Any]:
    """Of a run that began as a published checkpoint, what it takes to become one again."""
    if "imported" not in source.description:
        return {}
    imported = source.description["imported"]
    config = {k: v for k, v in imported["config"].items() if k not in OF_ITS_TASK}
    kept = {key: imported[key] for key in ("model_type", "dtype", GENERATION) if key in imported}
    return {"imported": {**kept, "config": config}}


def read_records(spec: str, name: str) -> list[Record]:
    """Records of files or a TFDS split; `name` says which split a plain TFDS name means."""
    # A split of a named version never changes, and a study reads the same few many times; files may change.
    return (_read_split if is_tfds(spec) else records)(spec, split=SPLITS[name])


_read_split = functools.lru_cache(maxsize=6)(records)


def _read(experiment: FineTune) -> tuple[FineTune, dict[str, list[Example]]]:
    """The experiment with its columns resolved, and all labelled examples by split."""
    task, data = experiment.task, experiment.data
    # The test split is scored after training, but a mistake in it should show before.
    splits = ("train", "eval", "test") if data.test else ("train", "eval")
    found = {name: read_records(getattr(data, name), name) for name in splits}
    columns = task.columns(data.columns, found["train"][0].values)
    data = dataclasses.replace(data, **dataclasses.asdict(columns))
    examples = {name: task.examples(some, columns) for name, some in found.items()}
    return dataclasses.replace(experiment, data=data), examples


def _draw(experiment: FineTune, examples: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """The examples that the run uses; of those it trains on, a sample to be scored."""
    data, seed = experiment.data, experiment.seed
    train, held_out = examples["train"], examples["eval"]
    if data.labels > len(train):
        raise ValueError(f"data.labels {data.labels} exceeds the {len(train)} examples of {data.train}")
    if data.labels:
        train = subset(train, data.labels, seed)
    if data.eval_sample:
        # One fixed seed: every run of a comparison is chosen by the same examples.
        held_out = subset(held_out, min(data.eval_sample, len(held_out)), 0)
    sample = subset(train, min(data.train_sample, len(train)), seed)
    return {**examples, "train": train, "eval": held_out, "train_sample": sample}


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
