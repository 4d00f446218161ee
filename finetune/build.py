"""From a fine-tuning experiment and the run it starts from to the parts of a run; then through train's loop.

Every mistake is refused here, before anything compiles.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from data.labelled import subset
from data.prepare import TOKENIZER_FILE
from data.stream import EvalBatches, Stream
from data.tokenizer import Tokenizer, load_tokenizer
from finetune.experiment import FineTune
from finetune.tables import read_tables
from finetune.tasks.base import Example, Learned
from model.network import Network
from train.build import check_model, check_run, describe, network_of
from train.cli import console
from train.companions import check_companions, check_tokenizers, open_companions
from train.describe import encode
from train.framing import framed_tokenizer
from train.inputs import INPUTS, init_input
from train.loop import Parts, Result, run
from train.passport import Passport, fresh_passport, hand_off
from train.restore import Source, open_run
from train.state import run_keys
from train.watched import check_evaluations
from train.workdir import check_place, claim, occupied

OF_ITS_TASK = ("architectures", "id2label", "label2id", "num_labels", "problem_type")
"""Keys of a published config.json that another task makes wrong."""
GENERATION = "generation_config"
"""Under this an imported run keeps its generation_config.json."""


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
    """What the tables hold and what packing did, a line each."""


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
    check_place(workdir)
    built = build(experiment, source, code, workdir)
    with occupied(workdir):
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
    _check_named(experiment)
    source = open_run(experiment.init, code) if source is None else source
    model = experiment.model.apply(source.model)
    tables = read_tables(experiment.with_metric())
    experiment, examples, data = tables.experiment, tables.examples, tables.experiment.data
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
    network = network_of(model, objective, companions, experiment.dropout_bits)
    experiment = _resolve_steps(experiment, len(rows["train"]))
    eval_sets = {
        name: list(EvalBatches(rows[name], batch_size=experiment.batch_size))
        for name in ("eval", "train_sample")
    }
    experiment = check_evaluations(experiment, network, objective, experiment.adapter, eval_sets)
    initial, passport = _initial(experiment, source, network)
    parts = Parts(
        network=network,
        objective=objective,
        stream=Stream(rows["train"], batch_size=experiment.batch_size, seed=experiment.seed),
        eval_sets=eval_sets,
        adapter=experiment.adapter,
        initial=initial,
        companions={companion.name: companion.params for companion in companions},
    )
    return Built(
        experiment=experiment,
        source=source,
        parts=parts,
        tokenizer=tokenizer,
        passport=passport,
        learned=learned,
        description=describe(experiment, parts, companions)
        | {"learned": encode(learned)}
        | {INPUTS: {**tables.inputs, **init_input(source if initial is not None else None)}}
        | _origin(source),
        reports=(
            *tables.reports,
            *(companion.report() for companion in companions),
            *(f"{name}: {some.report()}" for name, some in rows.items() if name != "train_sample"),
        ),
    )


def _check_named(experiment: FineTune) -> None:
    if not experiment.init:
        raise ValueError("init is empty: name the run folder to start from with --init")
    for name in ("train", "eval"):
        if not getattr(experiment.data, name):
            raise ValueError(f"data.{name} is empty: name a file or a TFDS split with --data.{name}")


def _tokenizer(source: Source, workdir: Path | None) -> Tokenizer:
    """The tokenizer, with what stands around texts; a run that goes on keeps what stood there when it began."""
    framed = framed_tokenizer(source)
    begun = None if workdir is None else workdir / TOKENIZER_FILE
    if begun is None or not begun.is_file():
        return framed
    own = load_tokenizer(begun)
    same = own.with_framing("cls_sep").fingerprint == framed.with_framing("cls_sep").fingerprint
    return own if same else framed


def _origin(source: Source) -> dict[str, Any]:
    """Of a run that began as a published checkpoint, what it takes to become one again."""
    if "imported" not in source.description:
        return {}
    imported = source.description["imported"]
    config = {k: v for k, v in imported["config"].items() if k not in OF_ITS_TASK}
    kept = {key: imported[key] for key in ("model_type", "dtype", GENERATION) if key in imported}
    return {"imported": {**kept, "config": config}}


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
    return hand_off(source, network, run_keys(experiment.seed).params, reuse_heads=experiment.reuse_heads)
