"""How a config.json that an older version wrote becomes what this one would write: three tables, and what applies them.

To add an entry: `ADDED` for a new field whose value can say "as before"; `CHANGED` for a type that was renamed, or whose
fields were; `WHOLE` for what concerns more than one type. tests/test_train_migrations.py opens the runs of every released
format with them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.tokenizer import Tokenizer
from train.rows import row_shape_of

Encoded = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one type."""

    kind: str
    """The type as it was stored, "module:Class"."""
    to: Callable[[Encoded], Encoded]
    """From the old encoded value to the new one; the values in it are new already. What is new is returned as it is."""
    account: str
    """For whoever opens the run: what changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeChange:
    """What became of the description as a whole."""

    to: Callable[[Encoded, Callable[[], Tokenizer]], Encoded]
    """From the old description, every type as stored, and what reads the run's tokenizer. What is new is returned as it is.
    """
    account: str
    """For whoever opens the run: what changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """All that a description may need. Earlier entries apply first, so a type can change more than once."""

    added: Mapping[str, Mapping[str, Any]]
    """Type (as it is called now) -> field that was added since -> the encoded value that means as before."""
    changed: tuple[Change, ...]
    whole: tuple[WholeChange, ...]


def renamed(kind: str, new: str) -> Change:
    """A type that is called otherwise, or lies elsewhere, with the same fields."""
    return Change(kind=kind, to=lambda value: {**value, "type": new}, account=f"is {new} now")


def without(kind: str, *fields: str) -> Change:
    """A type that lost fields whose values say nothing any more."""

    def to(value: Encoded) -> Encoded:
        return {name: inner for name, inner in value.items() if name not in fields}

    return Change(kind=kind, to=to, account=f"no longer holds {', '.join(fields)}")


def _companion_checkpoints(description: Encoded, _: Callable[[], Tokenizer]) -> Encoded:
    if "experiment" not in description or "companion_checkpoints" in description:
        return description
    return {**description, "companion_checkpoints": {}}


def _learned(description: Encoded, _: Callable[[], Tokenizer]) -> Encoded:
    return {("learned" if name == "classes" else name): value for name, value in description.items()}


def _rows(description: Encoded, tokenizer: Callable[[], Tokenizer]) -> Encoded:
    """What the rows are: their sizes from the run's data, their ids from its tokenizer."""
    experiment = description["experiment"] if "experiment" in description else {}
    if "rows" in description or "data" not in experiment or "model" not in description:
        return description
    data, ids, last = experiment["data"], tokenizer(), description["model"]["vocab_size"] - 1
    for name, now in (("first_sentinel_id", last), ("mark_ids", [last, last - 1, last - 2])):
        if others := [value for value in _named(description["objective"], name) if value != now]:
            raise ValueError(
                f"the run's objective has {name} {others[0]}, this version takes the last ids of the vocabulary, {now}"
            )
    shape = row_shape_of(
        ids,
        pieces=ids.vocab_size,
        length=data["length"],
        max_segments=data["max_segments"],
        vocab_size=description["model"]["vocab_size"],
    )
    return {**description, "rows": {"type": "objectives.rows:RowShape", **dataclasses.asdict(shape)}}


def _named(value: Any, name: str) -> Iterator[Any]:
    """Every value of that name, however deep."""
    if isinstance(value, dict) and name in value:
        yield value[name]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _named(inner, name)


def _dropout_bits(description: Encoded, _: Callable[[], Tokenizer]) -> Encoded:
    if "experiment" not in description or "dropout_bits" in description["experiment"]:
        return description
    return {**description, "experiment": {**description["experiment"], "dropout_bits": "hash"}}


MASKING = (
    ("unit", "token"),
    ("rate", 0.15),
    ("final_rate", None),
    ("rate_examples", 0),
    ("cap_rate", None),
    ("mask_share", 0.8),
    ("random_share", 0.1),
    ("fixed_masks", 0),
)
"""Fields that `Masking` took over, with what they were where older runs lack them."""


def _masked_lm(value: Encoded) -> Encoded:
    if "masking" in value:
        return value
    masking = {name: value[name] if name in value else before for name, before in MASKING}
    return {"type": value["type"], "masking": {"type": "objectives.masking:Masking", **masking}}


def _replaced_token_detection(value: Encoded) -> Encoded:
    if "masking" in value:
        return value
    own = {"rate": value["rate"], "cap_rate": value["cap_rate"], "mask_share": 1.0, "random_share": 0.0}
    masking = {"type": "objectives.masking:Masking", **dict(MASKING), **own}
    kept = {name: value[name] for name in ("type", "generator_heads", "discriminator_weight")}
    return {**kept, "masking": masking}


def _told(kind: str, *fields: str) -> Change:
    """An objective that is told these when the run is built."""
    return dataclasses.replace(
        without(kind, *fields), account=f"is told {', '.join(fields)} by the run's rows"
    )


_PAIRS = ("cls_id", "sep_id", "length", "max_segments")
_SPANS = ("first_sentinel_id", "eos_id")

TABLES = Tables(
    added={
        "train.experiment:Experiment": {"table": "random", "companions": [], "init": ""},
        "train.experiment:Run": {"companions": [], "init": ""},
        "finetune.experiment:FineTune": {"companions": []},
        "train.text:TextData": {"end": "blank line"},
    },
    changed=(
        Change(kind="objectives.masked_lm:MaskedLM", to=_masked_lm, account="has its masking in one value"),
        Change(
            kind="objectives.replaced_token_detection:ReplacedTokenDetection",
            to=_replaced_token_detection,
            account="has its masking in one value",
        ),
        _told("objectives.next_sentence:NextSentence", *_PAIRS),
        _told("objectives.bert_next_sentence:BertNextSentence", *_PAIRS),
        _told("objectives.sentence_order:SentenceOrder", *_PAIRS),
        _told("objectives.neighbour_words:NeighbourWords", *_PAIRS, "first_ordinary_id"),
        _told("objectives.simcse:SimCSE", "max_segments"),
        _told("objectives.span_corruption:SpanCorruption", *_SPANS, "inputs_length", "pad_id"),
        _told("objectives.ul2:UL2", *_SPANS, "inputs_length", "pad_id", "mode_ids"),
        _told("objectives.decoder_span_corruption:DecoderSpanCorruption", *_SPANS, "length"),
        _told("objectives.fill_in_the_middle:FillInTheMiddle", "mark_ids", "eos_id", "length"),
        renamed("train.experiment:TextData", "train.text:TextData"),
        renamed("finetune.tasks:TextClassification", "finetune.tasks.text_classification:TextClassification"),
        renamed(
            "finetune.tasks:TokenClassification", "finetune.tasks.token_classification:TokenClassification"
        ),
        renamed("finetune.adapters:Frozen", "finetune.adapters.frozen:Frozen"),
        renamed("finetune.adapters:LoRA", "finetune.adapters.lora:LoRA"),
    ),
    whole=(
        WholeChange(to=_companion_checkpoints, account="companion_checkpoints is {}, as before"),
        WholeChange(
            to=_dropout_bits,
            account="dropout is drawn for each example now: a run that goes on drops other values, if any",
        ),
        WholeChange(to=_learned, account="classes is learned now"),
        WholeChange(to=_rows, account="rows is what its data and tokenizer say"),
    ),
)


def migrate(
    description: Encoded, tokenizer: Callable[[], Tokenizer], tables: Tables = TABLES
) -> tuple[Encoded, tuple[str, ...]]:
    """A stored description as this version would have written it, and one line for each thing that changed.

    Args:
      description: what config.json says.
      tokenizer: reads the run's tokenizer; called only if an entry needs it.
      tables: the changes to apply.
    """
    notices: list[str] = []
    for change in tables.whole:
        changed = change.to(description, tokenizer)
        if changed != description:
            notices.append(change.account)
        description = changed
    migrated = {name: _migrate(value, tables, notices) for name, value in description.items()}
    # The objective is stored twice, by itself and in its experiment.
    return migrated, tuple(dict.fromkeys(notices))


def _migrate(value: Any, tables: Tables, notices: list[str]) -> Any:
    if isinstance(value, list):
        return [_migrate(one, tables, notices) for one in value]
    if not isinstance(value, dict):
        return value
    value = {name: _migrate(inner, tables, notices) for name, inner in value.items()}
    # A published checkpoint's own configuration, stored beside ours, may call something else its type.
    if "type" not in value or not isinstance(value["type"], str):
        return value
    for change in tables.changed:
        if change.kind == value["type"] and (changed := change.to(value)) != value:
            notices.append(f"{change.kind} {change.account}")
            # It may hold values of types that have changed since the entry was written.
            value = {name: _migrate(inner, tables, notices) for name, inner in changed.items()}
    kind = value["type"]
    for name, as_before in tables.added[kind].items() if kind in tables.added else ():
        if name not in value:
            notices.append(f"{kind} has {name} {as_before!r}, as before")
            value = {**value, name: as_before}
    return value
