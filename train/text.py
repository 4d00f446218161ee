"""Text as what feeds a run: corpora, a tokenizer, packed rows or those that the objective makes."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np

from data.documents import Documents
from data.frame import FramingName
from data.packing import Framing, PackedRows
from data.paths import local_path
from data.prepare import TOKENIZER_FILE, TrainTokenizer, prepare
from data.records import DocumentEnd
from data.semantics import semantic_table
from data.stream import MadeRows, Rows, WithLookups
from data.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from model.config import TextConfig
from model.network import Network, Params
from model.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range, check_ranges
from objectives.base import Objective
from objectives.rows import RowShape
from train.data import Data, Feed
from train.experiment import Experiment
from train.inputs import INPUTS, changed
from train.restore import Source
from train.rows import row_shape_of
from train.state import run_keys

log = logging.getLogger(__name__)

EVAL_SEED = 1
"""Seeds the examples that an objective makes for evaluation; the same in every run, so that runs compare."""

OFFERED = ("word_starts", "token_bytes")
"""Properties of a tokenizer that say something of each of its ids, for whoever reads it as an array of the batch."""

SEMANTIC_STD = 0.1
"""Of the entries of a computed table: five times that of a drawn one, because Adam moves every entry by about a learning
rate a step, whatever its size, and would soon have wiped a small table out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData(Data):
    """Unlabelled text, and how it becomes rows."""

    files: tuple[str, ...] = ()
    """Globs of .txt or .jsonl files (plain or .gz), or TFDS names (with a slash: tfds:NAME/CONFIG[:SPLIT]); one corpus,
    unless `weights` are given."""
    column: str = "text"
    """Where the text is in .jsonl files and TFDS data sets."""
    end: DocumentEnd = "blank line"
    """What ends a document of a .txt file."""
    weights: Annotated[tuple[float, ...], POSITIVE] = ()
    """Mix the entries of `files` as corpora of their own, by these weights."""
    length: Annotated[int, COUNT] = 128
    """Tokens per row."""
    max_segments: Annotated[int, COUNT] = 8
    """Most documents (or pairs) that share a row."""
    framing: Literal["cls_sep", "bos_eos"] = "cls_sep"
    """Special tokens around each piece of text."""
    held_out: Annotated[float, Range(above=0, below=1)] = 0.01
    """Share of documents, chosen by hash, that is kept for evaluation."""
    tokenizer: str = ""
    """A SentencePiece model file, or a run's tokenizer (RUN/tokenizer.model); empty takes that of `init`, or trains one on
    the corpus, of the model's vocabulary size less the ids that are in no text."""
    sentinels: Annotated[int, NOT_NEGATIVE] = 0
    """At least so many last ids of the model's vocabulary are in no text; those that the objective takes for itself are so
    anyway."""
    lowercase: bool = True
    """Whether a tokenizer trained here folds case."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.")
        if self.weights and len(self.weights) != len(self.files):
            raise ValueError(
                f"data.weights has {len(self.weights)} entries but data.files has {len(self.files)}"
            )

    def check(self, experiment: Experiment) -> None:
        if experiment.table == "semantic" and self.weights:
            raise ValueError(
                f"table is 'semantic', which reads one corpus, but data.weights mixes {len(self.weights)}: drop the "
                "weights or take the random table"
            )

    @property
    def offered(self) -> tuple[str, ...]:
        return OFFERED

    def row_shape(self, experiment: Experiment, source: Source | None) -> RowShape:
        file, model = self._tokenizer_file(source), _of_text(experiment)
        if file is not None:
            tokenizer = load_tokenizer(file)
            return self._shape(tokenizer, tokenizer.vocab_size, model)
        return self._shape(SentencePieceTokenizer, self._pieces(experiment), model)

    def feed(self, experiment: Experiment, rows: RowShape, source: Source | None) -> Feed:
        if not self.files:
            raise ValueError("data.files is empty: name text files (globs) or a TFDS data set")
        corpora, tokenizer = self.corpora(experiment, source)
        self.check_vocabulary(tokenizer, experiment, source)
        train_rows: list[Rows] = []
        reports: list[str] = []
        if source is not None and self.tokenizer:
            reports.append(f"the tokenizer is that of {source.folder}, not data.tokenizer {self.tokenizer}")
        for corpus in corpora:
            own = self._rows(experiment, corpus.split(self.held_out)[0], tokenizer, experiment.seed)
            if isinstance(own, PackedRows):
                reports.append(own.report())
            train_rows.append(_with_lookups(own, experiment, tokenizer, experiment.objective.reads()))
        return Feed(
            train=train_rows,
            weights=self.weights or None,
            evaluation=self._held_out_rows(experiment, corpora, tokenizer, experiment.objective.reads()),
            tokenizer=tokenizer,
            framing=self._framing_of(experiment),
            # A resumed run on changed files would read other batches under the same numbers.
            description={"corpora": [{"documents": len(c), "digest": c.digest} for c in corpora]},
            inputs=self._inputs(corpora),
            reports=reports,
            initial=self._semantic(experiment, corpora[0], tokenizer)
            if experiment.table == "semantic"
            else None,
        )

    def corpora(self, experiment: Experiment, source: Source | None) -> tuple[list[Documents], Tokenizer]:
        """The tokenised corpora to mix, all with one tokenizer."""
        how: Path | TrainTokenizer | None = self._tokenizer_file(source)
        if how is None:
            how = TrainTokenizer(vocab_size=self._pieces(experiment), lowercase=self.lowercase)
        whole = prepare(self.files, tokenizer=how, column=self.column, end=self.end)
        file = Path(whole.meta["directory"]) / TOKENIZER_FILE
        if not self.weights:
            return [whole], load_tokenizer(file)
        each = [prepare(files, tokenizer=file, column=self.column, end=self.end) for files in self.files]
        return each, load_tokenizer(file)

    def _inputs(self, corpora: Sequence[Documents]) -> dict[str, Any]:
        """Of each corpus, to the last bit of its tokens: `Documents.digest` is blind to case and form."""
        names = [f"data.files[{i}]" for i in range(len(corpora))] if self.weights else ["data.files"]
        return {
            name: {"documents": len(corpus), "sha256": corpus.content}
            for name, corpus in zip(names, corpora, strict=True)
        }

    def evaluation_rows(
        self, experiment: Experiment, source: Source, reads: Sequence[str]
    ) -> Mapping[str, Rows]:
        """Those of what the run held out, if its files are still what it was trained on."""
        corpora, tokenizer = self.corpora(experiment, source)
        found = tuple({"documents": len(corpus), "digest": corpus.digest} for corpus in corpora)
        trained_on, other = source.stored("corpora"), []
        if INPUTS in source.description:
            other = changed(source.description[INPUTS], self._inputs(corpora), source.description)
        if tokenizer.fingerprint != source.tokenizer.fingerprint or found != trained_on or other:
            raise ValueError(
                f"{', '.join(self.files)} gives {found}, but {source.folder} was trained on {trained_on}"
                f"{''.join(f' ({line})' for line in other)}: the files have "
                "changed, and what was held out with them; name others with --data.files"
            )
        return self._held_out_rows(experiment, corpora, tokenizer, reads)

    def read_files(
        self, experiment: Experiment, source: Source, files: Sequence[str], column: str, reads: Sequence[str]
    ) -> Rows:
        tokenizer = source.folder / TOKENIZER_FILE
        docs = prepare(files, tokenizer=tokenizer, column=column or self.column, end=self.end)
        stored = source.description[INPUTS] if INPUTS in source.description else {}
        if same := [name for name, entry in stored.items() if entry["sha256"] == docs.content]:
            log.warning(
                f"{', '.join(files)} is what {source.folder} was trained on ({same[0]}): its numbers say little of "
                "new text; an empty data.files takes what the run held out"
            )
        return self._evaluation(experiment, docs, source.tokenizer, reads)

    def check_vocabulary(self, tokenizer: Tokenizer, experiment: Experiment, source: Source | None) -> None:
        """Tokenizer, ids that are in no text and table must agree; a run that goes on may have a larger table."""
        reserved, wanted = self._reserved(experiment.objective), _of_text(experiment).vocab_size
        together = tokenizer.vocab_size + reserved
        if together > wanted or (together < wanted and source is None):
            besides = f" besides {reserved} that are in no text" if reserved else ""
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} pieces{besides} but model.vocab_size is {wanted}: set "
                f"--model.vocab_size {together}, or use another tokenizer"
            )

    def _tokenizer_file(self, source: Source | None) -> Path | None:
        """What is there already; None trains one."""
        if self.tokenizer and source is None:
            return local_path(self.tokenizer)
        return None if source is None else source.folder / TOKENIZER_FILE

    def _pieces(self, experiment: Experiment) -> int:
        """Of a tokenizer that is trained here."""
        return _of_text(experiment).vocab_size - self._reserved(experiment.objective)

    def _reserved(self, objective: Objective) -> int:
        """Ids that are in no text."""
        maker = objective.row_maker()
        return max(self.sentinels, 0 if maker is None else maker.own_ids())

    def _shape(
        self, ids: Tokenizer | type[SentencePieceTokenizer], pieces: int, model: TextConfig
    ) -> RowShape:
        return row_shape_of(
            ids,
            pieces=pieces,
            length=self.length,
            max_segments=self.max_segments,
            vocab_size=model.vocab_size,
        )

    def _rows(self, experiment: Experiment, docs: Documents, tokenizer: Tokenizer, seed: int) -> Rows:
        """Rows that the objective makes, or packed ones where it makes none."""
        maker = experiment.objective.row_maker()
        if maker is not None:
            maker.check_documents(docs)
            return MadeRows(docs, maker.make_example, seed=seed)
        framing = Framing.named(self.framing, tokenizer)
        return PackedRows(docs, length=self.length, framing=framing, max_segments=self.max_segments)

    def _framing_of(self, experiment: Experiment) -> FramingName:
        """What stands around texts. Objectives that make rows end texts, and those of masked models begin them, too."""
        model = _of_text(experiment)
        if experiment.objective.row_maker() is None:
            return self.framing
        return "eos" if model.causal or model.encoder_decoder else "cls_sep"

    def _held_out_rows(
        self, experiment: Experiment, corpora: Sequence[Documents], tokenizer: Tokenizer, reads: Sequence[str]
    ) -> dict[str, Rows]:
        names = ["eval"] if len(corpora) == 1 else [f"eval_{i}" for i in range(len(corpora))]
        return {
            name: self._evaluation(experiment, corpus.split(self.held_out)[1], tokenizer, reads)
            for name, corpus in zip(names, corpora, strict=True)
        }

    def _evaluation(
        self, experiment: Experiment, docs: Documents, tokenizer: Tokenizer, reads: Sequence[str]
    ) -> Rows:
        """Rows of these documents as every evaluation makes them."""
        return _with_lookups(self._rows(experiment, docs, tokenizer, EVAL_SEED), experiment, tokenizer, reads)

    def _semantic(
        self, experiment: Experiment, corpus: Documents, tokenizer: Tokenizer
    ) -> Callable[[Network], Params]:
        return functools.partial(
            semantic_start, docs=corpus.split(self.held_out)[0], tokenizer=tokenizer, seed=experiment.seed
        )


def semantic_start(network: Network, *, docs: Documents, tokenizer: Tokenizer, seed: int) -> Params:
    """Parameters whose token table is computed from the training documents."""
    model: TextConfig = network.backbone.config
    table_VD = semantic_table(
        docs,
        vocab_size=model.vocab_size,
        width=model.width,
        first_ordinary_id=tokenizer.first_ordinary_id,
        seed=seed,
    )
    # Everything else starts as the loop would draw it.
    params = network.init(run_keys(seed).params)
    scaled_VD = jnp.asarray(table_VD * SEMANTIC_STD * math.sqrt(model.width), jnp.float32)
    embed = {**params["backbone"]["embed"], "tokens": scaled_VD}
    return {**params, "backbone": {**params["backbone"], "embed": embed}}


def _with_lookups(rows: Rows, experiment: Experiment, tokenizer: Tokenizer, reads: Sequence[str]) -> Rows:
    # Ids behind those of the tokenizer open no word and stand for no text.
    own = _of_text(experiment).vocab_size - tokenizer.vocab_size
    tables = {name: np.pad(getattr(tokenizer, name), (0, own)) for name in reads}
    return WithLookups(rows, tables) if tables else rows


def _of_text(experiment: Experiment) -> TextConfig:
    """The model, if it reads tokens."""
    if not isinstance(experiment.model, TextConfig):
        raise ValueError(
            f"TextData makes rows of tokens, but {type(experiment.model).__name__} reads none: choose another model or data"
        )
    return experiment.model
