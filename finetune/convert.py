"""`python -m finetune.convert import DIR --to RUN` and `export RUN --to DIR`: published checkpoints in and out.

DIR holds config.json, model.safetensors (or flax_model.msgpack, or shards) and the tokenizer's files; RUN is a run folder
like any other, to fine-tune from with `--init RUN`. No PyTorch is needed on either way.
"""

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from data.files import check_writable, writing
from data.partial import partial_folder
from data.paths import local_path
from data.published_tokenizer import PublishedTokenizer
from data.sentencepiece_files import of_sentencepiece
from data.tokenizer import SentencePieceTokenizer
from data.tokenizer_files import published_tokenizer
from finetune.build import GENERATION
from finetune.experiment import FineTune, LabelledData
from finetune.published.families import family_of
from finetune.published.family import SCORE, Family
from finetune.published.files import refuse_full
from finetune.published.folders import CONFIG, is_published, published_config, read_config
from finetune.published.reading import Published, read
from finetune.published.writing import DTYPES, choose, write
from finetune.tasks.text_classification import TextClassification
from finetune.tasks.token_classification import TokenClassification
from objectives.sequence_classification import SequenceClassification
from train.adapter import FULL
from train.checkpoint import HASHES, Checkpoints
from train.cli import command_line, console, run_program
from train.describe import encode, write_json
from train.framing import framed_tokenizer
from train.launch import Launcher, Mesh
from train.passport import Passport
from train.restore import Source, open_run
from train.state import TrainState
from train.workdir import check_place, claim, occupied

log = logging.getLogger(__name__)

ONE_CLASS = "single_label_classification"
CLASSIFIERS = frozenset({"classifier", "token_classifier", SCORE})
LONGEST = 512
"""Tokens of a row in which an imported classifier reads texts, where its positions and its tokenizer allow more."""


def import_run(
    folder: str | Path,
    run: str | Path,
    *,
    architecture: str = "",
    length: int = 0,
    launcher: Launcher | None = None,
) -> Passport:
    """Make a run folder of a published checkpoint; returns the account of its tensors.

    Args:
      folder: the published checkpoint.
      run: the new run folder; the same checkpoint may be imported into it again, no other.
      architecture: their class whose heads are taken; empty is the one that its config.json names.
      length: tokens of a row in which a classifier reads texts; 0 takes what its tokenizer says, up to LONGEST.
      launcher: places parameters on devices as they are read, so that no host holds more than its part.

    Raises:
      ValueError, FileNotFoundError: what is wrong with the checkpoint or its tokenizer, or the run folder is another's.
    """
    folder, workdir = local_path(folder), local_path(run)
    check_place(workdir)
    family = family_of(published_config(folder), str(folder / CONFIG))
    tokenizer = published_tokenizer(folder, family.model_type)
    found = read(folder, architecture=architecture, launcher=Mesh() if launcher is None else launcher)
    model = found.network.backbone.config
    if tokenizer.vocab_size > model.vocab_size:
        outside = [tokenizer.piece(i) for i in range(model.vocab_size, tokenizer.vocab_size)]
        raise ValueError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} ids, but {CONFIG} a vocab_size of "
            f"{model.vocab_size}: {', '.join(map(repr, outside[:3]))} would have no row in the model's table"
        )
    origin = {
        "model_type": found.family.model_type,
        "architecture": found.architecture,
        "dtype": found.dtype,
        "weights": found.files.digests(),
        "config": found.config,
        **_generation(folder),
    }
    description = {"model": encode(model), "adapter": encode(FULL), "imported": origin}
    with occupied(workdir):
        claim(workdir, {**description, **_classifier(found, tokenizer, length)}, tokenizer)
        with contextlib.closing(Checkpoints(workdir / "checkpoints", keep=1)) as checkpoints:
            # What a kill or a damaged disk left of an earlier import is made again: its source is at hand.
            if not checkpoints.any_whole():
                checkpoints.discard_after(-1)
                if jax.process_index() == 0:
                    found.passport.keep(workdir)
                checkpoints.save(0, _state(found.params), {})
        for notice in checkpoints.notices:
            log.warning(notice)
    return found.passport


def _generation(folder: Path) -> dict[str, Any]:
    """The settings of generation, which mean nothing here and are written again."""
    path = folder / f"{GENERATION}.json"
    return {GENERATION: read_config(path)} if path.is_file() else {}


def _state(params: Any) -> TrainState:
    """A run before its first step, without an optimizer."""
    step, bad_step = (jax.device_put(np.int32(x)) for x in (0, -1))
    return TrainState(step=step, trainable=params, frozen={}, opt_state=(), bad_step=bad_step, companions={})


def _classifier(found: Published, tokenizer: PublishedTokenizer, length: int) -> dict[str, Any]:
    """What `finetune.predict` needs to know of a run, where the checkpoint puts texts or words into one class each."""
    heads = {name for name, _ in found.network.heads}
    if not heads & CLASSIFIERS:
        return {}
    kind = found.config["problem_type"] if "problem_type" in found.config else None
    if kind not in (None, ONE_CLASS) or len(found.classes) < 2:
        # Several classes at once, or a number: there is no task of this kind here, but the head is kept for an export.
        return {"learned": encode(found.classes)}
    model = found.network.backbone.config
    task = TokenClassification() if "token_classifier" in heads else TextClassification(pooling=found.pooling)
    stated = min(model.max_positions, tokenizer.longest or LONGEST)
    if length > model.max_positions:
        raise ValueError(f"length {length} exceeds the {model.max_positions} tokens that the model can place")
    if stated > LONGEST and not length:
        print(
            f"texts are cut at {LONGEST} tokens; --length {stated} reads as much as is published",
            file=sys.stderr,
        )
    length = length or min(stated, LONGEST)
    experiment = FineTune(task=task, data=LabelledData(length=length), batch_size=8).with_metric()
    return {
        "experiment": encode(experiment),
        "objective": encode(task.objective(found.classes)),
        "rows": encode(experiment.data.row_shape(model, tokenizer)),
        "learned": encode(found.classes),
    }


def export_run(
    run: str | Path, folder: str | Path, *, architecture: str = "", dtype: str = "", code: Sequence[Path] = ()
) -> tuple[str, list[Path]]:
    """Write a run as a published checkpoint with its tokenizer; returns the class and the files of weights.

    Args:
      run: a run folder, or one checkpoint of it.
      folder: where to; must hold no checkpoint yet.
      architecture: their class to write; empty is the one with exactly the run's heads.
      dtype: of the file; empty is that of the imported checkpoint, or float32.
      code: your own files whose classes the run names.

    Raises:
      ValueError: no family has this shape, or no class of it these heads; or the folder is taken.
    """
    run, folder = local_path(run), local_path(folder)
    if run.is_dir() and is_published(run):
        raise ValueError(
            f"{run} is a published checkpoint already, so there is nothing to export; to write it with another class or "
            f"dtype, make a run of it first: python -m finetune.convert import {run} --to RUN"
        )
    source = open_run(run, code)
    refuse_full(folder)
    check_writable(folder)
    imported: dict[str, Any] = source.description["imported"] if "imported" in source.description else {}
    model, heads = source.model, frozenset(source.params["heads"])
    family, chosen = choose(
        model,
        heads,
        architecture,
        imported["model_type"] if imported else "",
        imported["architecture"] if "architecture" in imported else "",
    )
    written = family.architectures[chosen].keys()
    tokenizer = _published(source)
    if SCORE in written:
        tokenizer = _padded(tokenizer, chosen)
    _check_tokenizer(tokenizer, family)
    config = {**_special_ids(tokenizer), **(imported["config"] if imported else {})}
    if SCORE in written:
        config["pad_token_id"] = tokenizer.pad_id
    if "classifier" in written:
        config |= _pooling(source, family)
    with partial_folder(folder) as partial, writing(folder):
        files = write(
            partial,
            model=model,
            params=source.params,
            family=family,
            architecture=chosen,
            classes=source.stored("learned") if heads & CLASSIFIERS else (),
            dtype=dtype or (imported["dtype"] if imported else "float32"),
            config=config,
        )
        tokenizer.publish(
            partial,
            types=family.names_types and model.types > 1,
            longest=_row_length(source, tokenizer, model.max_positions),
        )
        if GENERATION in imported:
            write_json(partial / f"{GENERATION}.json", imported[GENERATION])
        # A rename puts all of it there at once: what a kill leaves does not look like a checkpoint.
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    return chosen, [folder / file.name for file in files]


def _special_ids(tokenizer: PublishedTokenizer) -> dict[str, int]:
    """As config.json names them."""
    roles = ("pad", "bos", "eos", "cls", "sep")
    return {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in roles if role in tokenizer.roles}


def _pooling(source: Source, family: Family) -> dict[str, str]:
    """How the run pools texts, where their class asks."""
    if not family.pooling_key or "objective" not in source.description:
        return {}
    objective = source.stored("objective")
    return {family.pooling_key: objective.pooling} if isinstance(objective, SequenceClassification) else {}


def _check_tokenizer(tokenizer: PublishedTokenizer, family: Family) -> None:
    """Raise ValueError where their class would read the tokenizer, or the ids, otherwise than this run did."""
    for fixed in family.fixed:
        if fixed.theirs == "pad_token_id" and tokenizer.pad_id != fixed.value:
            raise ValueError(
                f"{family.model_type} places tokens by counting those that are not pad_token_id {fixed.value}, but this "
                f"run's tokenizer pads with {tokenizer.pad_id} and has a token of its own there"
            )
    if family.tokenizer_kinds and tokenizer.kind not in family.tokenizer_kinds:
        raise ValueError(
            f"{family.model_type} is read with a tokenizer of kind {', '.join(family.tokenizer_kinds)} whatever its files "
            f"say, but this run's is of kind {tokenizer.kind}"
        )


def _published(source: Source) -> PublishedTokenizer:
    """The run's tokenizer, with what the run has around texts."""
    tokenizer = framed_tokenizer(source)
    if isinstance(tokenizer, PublishedTokenizer):
        return tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer)
    print(
        f"{source.folder}: an older version trained this vocabulary; published readers read most texts as it does, but not "
        "decomposed accents and Korean",
        file=sys.stderr,
    )
    return of_sentencepiece(tokenizer.model, tokenizer.framing)


def _row_length(source: Source, tokenizer: PublishedTokenizer, positions: int) -> int:
    """Where texts are cut: at the length of the run's rows, so that other readers see of a text what the run sees."""
    if "rows" in source.description:
        return min(source.rows.length, positions)
    return min(tokenizer.longest or positions, positions)


def _padded(tokenizer: PublishedTokenizer, architecture: str) -> PublishedTokenizer:
    """With a token that pads: before it, their class looks for a text's last token.

    Raises:
      ValueError: there is none to take, or texts end with it.
    """
    if "pad" not in tokenizer.roles:
        if "eos" not in tokenizer.roles:
            raise ValueError(
                f"{architecture} finds a text's last token before the padding, but the tokenizer has neither pad nor eos"
            )
        tokenizer = tokenizer.with_pad(tokenizer.roles["eos"])
    if tokenizer.frame(pair=False).after[-1:] == (tokenizer.pad_id,):
        raise ValueError(
            f"{architecture} finds a text's last token before the padding, but texts of this run end with "
            f"{tokenizer.roles['pad']!r}, which pads: the token before it would be taken"
        )
    return tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run folder of a published checkpoint."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder with config.json, model.safetensors (or flax_model.msgpack, or shards) and the tokenizer's files."""
    to: Path
    """The run folder."""
    architecture: str = ""
    """Class whose heads are taken, such as BertForMaskedLM; empty is the one that config.json names."""
    length: int = 0
    """Tokens at which a classifier cuts texts; 0 takes what its tokenizer says, up to 512."""
    launcher: Mesh = Mesh()
    """The devices that hold it while it is converted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run as a published checkpoint."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder, or one checkpoint of it."""
    to: Path
    """The new folder."""
    architecture: str = ""
    """Class to write; empty is the one with exactly the run's heads."""
    dtype: str = ""
    """float32, bfloat16 or float16; empty is that of the imported checkpoint, or float32."""
    code: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Your own files whose classes the run names; once for each."""


def command(arguments: Sequence[str]) -> Import | Export:
    """What the command line asks for."""
    kinds = (
        Annotated[Import, tyro.conf.subcommand("import")] | Annotated[Export, tyro.conf.subcommand("export")]
    )
    parsed: Import | Export = command_line(
        kinds, "python -m finetune.convert", arguments, about=__doc__ or ""
    )
    return parsed


def main(arguments: Sequence[str]) -> None:
    """Parse, convert, print the account."""
    parsed = command(arguments)
    if isinstance(parsed, Import):
        mark = parsed.to.expanduser() / "checkpoints" / "0" / HASHES
        before = mark.stat().st_mtime_ns if mark.is_file() else None
        passport = import_run(
            parsed.folder,
            parsed.to,
            architecture=parsed.architecture,
            length=parsed.length,
            launcher=parsed.launcher,
        )
        console(stderr=False).print(passport.table())
        ended = "holds it already" if mark.stat().st_mtime_ns == before else "is ready"
        print(f"{parsed.to} {ended}: fine-tune with --init {parsed.to}")
        return
    if parsed.dtype not in ("", *DTYPES):
        raise ValueError(f"dtype {parsed.dtype!r} is none of {', '.join(DTYPES)}")
    chosen, files = export_run(
        parsed.run, parsed.to, architecture=parsed.architecture, dtype=parsed.dtype, code=parsed.code
    )
    print(
        f"{chosen} in {parsed.to}: {', '.join(file.name for file in files)}, config.json and the tokenizer's files"
    )


if __name__ == "__main__":
    run_program(main)
