"""From an experiment's values to the parts of a run. Every mistake is refused here, before anything is compiled.

This is where the rooms meet: the objective is told its rows, the data makes them, and the loop gets parts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.stream import EvalBatches, Stream
from data.tokenizer import Tokenizer
from model.config import ModelConfig, TransformerConfig
from model.network import Network, Params
from model.row_keys import Generator
from objectives.base import Objective
from train.adapter import FULL
from train.companions import Companion, check_companions, check_tokenizers, open_companions
from train.data import Feed
from train.describe import encode
from train.experiment import Experiment, Run
from train.framing import FRAMING
from train.inputs import INPUTS, init_input
from train.loop import Parts
from train.passport import Passport, hand_off
from train.restore import Source, open_run
from train.state import run_keys
from train.watched import check_evaluations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """Everything `python -m train` needs to start."""

    experiment: Experiment
    """As given, but with the model that it goes on with."""
    parts: Parts
    tokenizer: Tokenizer | None
    description: dict[str, Any]
    reports: tuple[str, ...]
    """Whence each companion comes, and what the data says of itself, a line each."""
    passport: Passport | None
    """The account of what came from `init`."""


def build(experiment: Experiment, code: Sequence[Path] = ()) -> Built:
    """Prepare the data and put the run together; `code` names files whose classes opened runs may name.

    Raises:
      ValueError, FileNotFoundError: with both values and what to do, before anything compiles.
    """
    check_companions(experiment.objective, experiment.companions)
    check_reads(experiment.objective, experiment.data.offered)
    source = open_run(experiment.init, code) if experiment.init else None
    experiment, changes = _go_on(experiment, source)
    model, data = experiment.model, experiment.data
    rows = data.row_shape(experiment, source)
    experiment = dataclasses.replace(experiment, objective=experiment.objective.for_rows(rows))
    objective = experiment.objective
    check_model(model, objective)
    check_run(experiment, objective)
    companions = open_companions(experiment, objective, model, source, code)
    feed = data.feed(experiment, rows, source)
    check_tokenizers(companions, feed.tokenizer)
    eval_sets = {
        name: list(EvalBatches(own, batch_size=experiment.batch_size, limit=data.eval_rows))
        for name, own in feed.evaluation.items()
    }
    network = network_of(model, objective, companions, experiment.dropout_bits)
    experiment = check_evaluations(experiment, network, objective, FULL, eval_sets)
    initial, passport = _initial(experiment, network, feed, source)
    parts = Parts(
        network=network,
        objective=objective,
        stream=Stream(
            list(feed.train), batch_size=experiment.batch_size, seed=experiment.seed, weights=feed.weights
        ),
        eval_sets=eval_sets,
        initial=initial,
        companions={companion.name: companion.params for companion in companions},
    )
    description = {
        **describe(experiment, parts, companions),
        **({} if feed.framing is None else {FRAMING: feed.framing}),
        **feed.description,
        INPUTS: {**init_input(source), **feed.inputs},
    }
    reports = (*changes, *(companion.report() for companion in companions), *feed.reports)
    return Built(
        experiment=experiment,
        parts=parts,
        tokenizer=feed.tokenizer,
        description=description,
        reports=reports,
        passport=passport,
    )


def describe(run: Run, parts: Parts, companions: Sequence[Companion]) -> dict[str, Any]:
    """What is kept of a run of either half, so that it can be opened again and refuses to go on as another."""
    return {
        "experiment": encode(run),
        "model": encode(parts.network.backbone.config),
        "objective": encode(parts.objective),
        "rows": encode(parts.objective.rows),
        "adapter": encode(parts.adapter),
        # A resumed run whose companions have gone on training would read other numbers.
        "companion_checkpoints": {companion.name: companion.description() for companion in companions},
    }


def network_of(
    model: ModelConfig,
    objective: Objective,
    companions: Sequence[Companion] = (),
    dropout_bits: Generator = "hash",
) -> Network:
    """The backbone with the objective's heads and its companions."""
    beside = tuple((companion.name, companion.network) for companion in companions)
    return Network(model.build(), tuple(objective.heads(model)), beside, dropout_bits)


ARITHMETIC = ("dtype", "remat", "attention", "dropout", "attention_dropout", "unroll")
"""Fields of a model that do not shape its parameters: a run that goes on takes them from its own experiment."""


def _go_on(experiment: Experiment, source: Source | None) -> tuple[Experiment, list[str]]:
    """The experiment with the model of the run that it goes on from, and a line for each field in which they differ."""
    if source is None:
        return experiment, []
    stored, own = source.model, experiment.model
    if type(stored) is not type(own) and not isinstance(own, TransformerConfig):
        raise ValueError(
            f"init {source.folder} has a {type(stored).__name__}, the experiment a {type(own).__name__}: choose an "
            "experiment of that model"
        )
    kept = {name: getattr(own, name) for name in ARITHMETIC if hasattr(own, name) and hasattr(stored, name)}
    model = dataclasses.replace(stored, **kept)
    wanted = {field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
    changes = [
        f"model.{field.name} is {getattr(model, field.name)}, of {source.folder} (the experiment says {wanted[field.name]})"
        for field in dataclasses.fields(model)
        if field.name in wanted and wanted[field.name] != getattr(model, field.name)
    ]
    return dataclasses.replace(experiment, model=model), changes


def _initial(
    experiment: Experiment, network: Network, feed: Feed, source: Source | None
) -> tuple[Params | None, Passport | None]:
    """Initial parameters (None lets the loop draw them), and the account of what came from a run."""
    if source is not None:
        reused = [name for name, _ in network.heads if name in source.params["heads"]]
        return hand_off(source, network, run_keys(experiment.seed).params, reuse_heads=reused)
    return None if feed.initial is None else feed.initial(network), None


def check_model(model: ModelConfig, objective: Objective, *, encoder_alone: bool = False) -> None:
    """Row length, positions, kernels and the objective's own needs.

    With `encoder_alone` an objective for encoders may read that of an encoder-decoder, whose decoder nothing trains then.
    """
    model.check_rows(objective.rows.length)
    reads_encoder = encoder_alone and model.encoder_decoder and objective.family == "encoder"
    if not reads_encoder and model.encoder_decoder != (objective.family == "encoder_decoder"):
        raise ValueError(
            f"{type(objective).__name__} is an objective for backbones of the family {objective.family}, but "
            f"{type(model).__name__} is {'' if model.encoder_decoder else 'not '}an encoder-decoder: choose another model"
        )
    objective.check(model)


def check_reads(objective: Objective, offered: Sequence[str]) -> None:
    """The data side must offer what the objective reads."""
    unknown = set(objective.reads()) - set(offered)
    if unknown:
        raise ValueError(
            f"{type(objective).__name__} reads {sorted(unknown)}, but the data offers {' and '.join(offered) or 'none'} "
            "only: make such arrays in make_example"
        )


def check_run(run: Run, objective: Objective) -> None:
    """Devices, batch and microbatches must divide, and an objective that is no sum must not be split."""
    run.launcher.check()
    parts = run.launcher.shards * run.microbatches
    if run.batch_size % parts:
        raise ValueError(
            f"batch_size {run.batch_size} is not divisible by {run.launcher.shards} data-parallel devices x "
            f"{run.microbatches} microbatches = {parts}"
        )
    if parts > 1 and not objective.additive:
        raise ValueError(
            f"{type(objective).__name__} is no sum over examples (additive = False), so its batch cannot be split into "
            f"{parts} parts ({run.launcher.shards} devices x {run.microbatches} microbatches): use one of each"
        )
