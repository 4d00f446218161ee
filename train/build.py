"""From an experiment's values to the parts of a run: corpus, tokenizer, rows, network. Every mistake is refused here.

This is where the rooms meet: `data` is handed the objective's `make_example` and knows no objective; the loop gets parts
and knows no corpus. Nothing is compiled before every check has passed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.documents import Documents
from data.packing import Framing, PackedRows
from data.prepare import TOKENIZER_FILE, TrainTokenizer, prepare
from data.semantics import semantic_table
from data.stream import EvalBatches, MadeRows, Rows, Stream, WithLookups
from data.tokenizer import Tokenizer, load_tokenizer
from model.config import TransformerConfig
from model.kernels import choose_kernel
from model.network import Network, Params
from objectives.base import Objective
from train.adapter import FULL, Adapter
from train.companions import Companion, check_companions, check_tokenizers, open_companions
from train.describe import encode
from train.experiment import Experiment, Run
from train.launch import HostBatch
from train.loop import Parts

EVAL_SEED = 1
"""Seeds the examples that an objective makes for evaluation; the same in every run, so that runs compare."""

OFFERED = ("word_starts", "token_bytes")
"""Properties of a tokenizer that say something of each of its ids, for whoever reads it as an array of the batch."""

SEMANTIC_STD = 0.1
"""Of the entries of a computed table: five times that of a drawn one, because Adam moves every entry by about a learning
rate a step, whatever its size, and would soon have wiped a small table out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """Everything `python -m train` needs to start."""

    parts: Parts
    tokenizer: Tokenizer
    description: dict[str, Any]
    reports: tuple[str, ...]
    """Whence each companion comes, and what packing did, one line for each corpus that was packed."""


def build(experiment: Experiment, code: Sequence[Path] = ()) -> Built:
    """Prepare the corpus and put the run together; `code` names files whose classes the companions' runs may name.

    Raises:
      ValueError, FileNotFoundError: with both values and what to do, before anything compiles.
    """
    check_model(experiment.model, experiment.objective, experiment.data.length)
    check_segments(experiment.objective, experiment.data.max_segments)
    check_run(experiment, experiment.objective)
    check_companions(experiment.objective, experiment.companions)
    if not experiment.data.files:
        raise ValueError("data.files is empty: name text files (globs) or a TFDS data set")
    check_reads(experiment.objective)
    companions = open_companions(
        experiment.companions, experiment.objective, experiment.model, experiment.data.length, code
    )
    corpora, tokenizer = corpora_of(experiment)
    check_tokenizers(companions, tokenizer)
    check_vocabulary(tokenizer, experiment.model, experiment.objective, experiment.data.sentinels)
    reads, train_rows = experiment.objective.reads(), []
    reports = [companion.report() for companion in companions]
    for corpus in corpora:
        train_docs, _ = corpus.split(experiment.data.held_out)
        rows = _rows(experiment, train_docs, tokenizer, experiment.seed)
        if isinstance(rows, PackedRows):
            reports.append(rows.report())
        train_rows.append(_with_lookups(experiment, rows, tokenizer, reads))
    weights = experiment.data.weights or None
    stream = Stream(train_rows, batch_size=experiment.batch_size, seed=experiment.seed, weights=weights)
    eval_sets = {
        name: list(EvalBatches(rows, batch_size=experiment.batch_size, limit=experiment.data.eval_rows))
        for name, rows in held_out_rows(experiment, corpora, tokenizer, reads).items()
    }
    network = _network(experiment, companions)
    check_evaluations(experiment, network, experiment.objective, FULL, eval_sets)
    parts = Parts(
        network=network,
        objective=experiment.objective,
        stream=stream,
        eval_sets=eval_sets,
        initial=_initial(experiment, network, corpora, tokenizer),
        companions={companion.name: companion.params for companion in companions},
    )
    description = {
        "experiment": encode(experiment),
        "model": encode(experiment.model),
        "objective": encode(experiment.objective),
        "adapter": encode(parts.adapter),
        # A resumed run on changed files would read other batches under the same numbers.
        "corpora": [{"documents": len(corpus), "digest": corpus.digest} for corpus in corpora],
        # And so would one whose companions have gone on training.
        "companion_checkpoints": {companion.name: companion.description() for companion in companions},
    }
    return Built(parts=parts, tokenizer=tokenizer, description=description, reports=tuple(reports))


def _network(experiment: Experiment, companions: Sequence[Companion]) -> Network:
    heads = tuple(experiment.objective.heads(experiment.model))
    beside = tuple((companion.name, companion.network) for companion in companions)
    return Network(experiment.model.build(), heads, beside)


def corpora_of(experiment: Experiment) -> tuple[list[Documents], Tokenizer]:
    """The tokenised corpora to mix, all with one tokenizer."""
    data = experiment.data
    how: Path | TrainTokenizer = TrainTokenizer(
        vocab_size=experiment.model.vocab_size - data.sentinels, lowercase=data.lowercase
    )
    if data.tokenizer:
        how = Path(data.tokenizer).expanduser()
    whole = prepare(data.files, tokenizer=how, column=data.column)
    file = Path(whole.meta["directory"]) / TOKENIZER_FILE
    corpora = (
        [prepare(files, tokenizer=file, column=data.column) for files in data.files]
        if data.weights
        else [whole]
    )
    return corpora, load_tokenizer(file)


def _rows(experiment: Experiment, docs: Documents, tokenizer: Tokenizer, seed: int) -> Rows:
    """Rows that the objective makes, or packed ones where it makes none."""
    data = experiment.data
    if experiment.objective.make_example is not None:
        experiment.objective.check_documents(docs)
        return MadeRows(docs, experiment.objective.make_example, seed=seed)
    framing = Framing.named(data.framing, tokenizer)
    return PackedRows(docs, length=data.length, framing=framing, max_segments=data.max_segments)


def held_out_rows(
    experiment: Experiment, corpora: Sequence[Documents], tokenizer: Tokenizer, reads: Sequence[str]
) -> dict[str, Rows]:
    """The evaluation sets of a run by name: the rows of what is held out of each corpus."""
    names = ["eval"] if len(corpora) == 1 else [f"eval_{i}" for i in range(len(corpora))]
    return {
        name: eval_rows(experiment, corpus.split(experiment.data.held_out)[1], tokenizer, reads)
        for name, corpus in zip(names, corpora, strict=True)
    }


def eval_rows(experiment: Experiment, docs: Documents, tokenizer: Tokenizer, reads: Sequence[str]) -> Rows:
    """Rows of these documents as every evaluation makes them, with the arrays that are `OFFERED` and asked for."""
    return _with_lookups(experiment, _rows(experiment, docs, tokenizer, EVAL_SEED), tokenizer, reads)


def _with_lookups(experiment: Experiment, rows: Rows, tokenizer: Tokenizer, reads: Sequence[str]) -> Rows:
    # An objective's own ids lie behind those of the tokenizer; they open no word and stand for no text.
    own = experiment.model.vocab_size - tokenizer.vocab_size
    tables = {name: np.pad(getattr(tokenizer, name), (0, own)) for name in reads}
    return WithLookups(rows, tables) if tables else rows


def _initial(
    experiment: Experiment, network: Network, corpora: list[Documents], tokenizer: Tokenizer
) -> Params | None:
    """Parameters whose token table is computed from the training documents; None lets the loop draw them all."""
    if experiment.table == "random":
        return None
    model = experiment.model
    table_VD = semantic_table(
        corpora[0].split(experiment.data.held_out)[0],
        vocab_size=model.vocab_size,
        width=model.width,
        first_ordinary_id=tokenizer.first_ordinary_id,
        seed=experiment.seed,
    )
    # Everything else starts as the loop would draw it.
    params = network.init(jax.random.split(jax.random.key(experiment.seed), 3)[0])
    scaled_VD = jnp.asarray(table_VD * SEMANTIC_STD * math.sqrt(model.width), jnp.float32)
    embed = {**params["backbone"]["embed"], "tokens": scaled_VD}
    return {**params, "backbone": {**params["backbone"], "embed": embed}}


def check_model(
    model: TransformerConfig, objective: Objective, length: int, *, encoder_alone: bool = False
) -> None:
    """Row length, positions and the objective's own needs.

    With `encoder_alone` an objective for encoders may read that of an encoder-decoder, whose decoder nothing trains then.
    """
    if length > model.max_positions:
        raise ValueError(
            f"data.length {length} is longer than model.max_positions {model.max_positions}: shorten the rows or give the "
            "model more positions"
        )
    choose_kernel(model, length)
    reads_encoder = encoder_alone and model.encoder_decoder and objective.family == "encoder"
    if not reads_encoder and model.encoder_decoder != (objective.family == "encoder_decoder"):
        raise ValueError(
            f"{type(objective).__name__} is an objective for backbones of the family {objective.family}, but "
            f"{type(model).__name__} is {'' if model.encoder_decoder else 'not '}an encoder-decoder: choose another model"
        )
    objective.check(model, length)


def check_reads(objective: Objective) -> None:
    """The data side must offer what the objective reads."""
    unknown = set(objective.reads()) - set(OFFERED)
    if unknown:
        raise ValueError(
            f"{type(objective).__name__} reads {sorted(unknown)}, but the data offers {' and '.join(OFFERED)} only: make "
            "such arrays in make_example"
        )


def check_segments(objective: Objective, max_segments: int) -> None:
    """An objective that gathers per segment must know as many as the rows may hold."""
    limit = objective.segment_limit()
    if limit is not None and limit < max_segments:
        raise ValueError(
            f"data.max_segments {max_segments} is above the objective's max_segments {limit}: rows could hold segments "
            "that it cannot score; set both alike"
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


def check_evaluations(
    run: Run,
    network: Network,
    objective: Objective,
    adapter: Adapter,
    eval_sets: Mapping[str, Sequence[HostBatch]],
) -> None:
    """Trace, without compiling, what would else fail at the first evaluation; `best` must be among what it gives."""
    key = jax.random.key(0)
    params = jax.eval_shape(network.init, key)
    trainable, frozen = jax.eval_shape(adapter.split, params, key)
    companions = {name: jax.eval_shape(other.init, key) for name, other in network.companions}

    def score(trainable: Any, frozen: Any, companions: Any, batch: Any) -> Any:
        bound = network.bind(adapter.merge(trainable, frozen), companions=companions)
        return objective(bound, batch, key)

    # One trace names what every set gives: the objective is the same.
    out = jax.eval_shape(score, trainable, frozen, companions, dict(next(iter(eval_sets.values()))[0]))
    known = sorted(f"{name}/{k}" for name in eval_sets for k in {**out.terms, **out.metrics})
    if run.best and run.best not in known:
        raise ValueError(f"best is {run.best!r}, but evaluations give {', '.join(known)}")


def check_vocabulary(
    tokenizer: Tokenizer, model: TransformerConfig, objective: Objective, sentinels: int
) -> None:
    """Tokenizer, sentinels and embedding table must agree, and an objective's own ids must be in no text."""
    if tokenizer.vocab_size + sentinels != model.vocab_size:
        besides = f" besides {sentinels} sentinels" if sentinels else ""
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} pieces{besides} but model.vocab_size is {model.vocab_size}: set "
            f"--model.vocab_size {tokenizer.vocab_size + sentinels}, or use another tokenizer"
        )
    own = objective.reserved_ids()
    if own and own.start < tokenizer.vocab_size:
        raise ValueError(
            f"{type(objective).__name__} takes ids {own.start} to {own.stop - 1} for itself, but the tokenizer has pieces "
            f"up to {tokenizer.vocab_size - 1}: set --data.sentinels {model.vocab_size - own.start}, or lower ids"
        )
    for field, given in _special_ids(objective):
        found = getattr(tokenizer, field)
        if given != found:
            raise ValueError(
                f"{type(objective).__name__} has {field} {given}, but the tokenizer's is {found}: give both the same"
            )


def _special_ids(value: Any) -> Iterator[tuple[str, int]]:
    """Every special id that an objective, or a part of it, is told."""
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        inner = getattr(value, field.name)
        if field.name in ("mask_id", "cls_id", "sep_id", "eos_id"):
            yield field.name, inner
        for one in inner if isinstance(inner, tuple) else (inner,):
            for part in one if isinstance(one, tuple) else (one,):
                if dataclasses.is_dataclass(part):
                    yield from _special_ids(part)
