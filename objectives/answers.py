"""Properties of answers: no prediction reads its own, and each is predicted where it should be.

An entry of an array is an answer if changing it changes what is asked of the states while these stay as they are: they are
read off the unchanged batch, and only the loss sees the change. Where the gradient changes, the entry is predicted. Where
the states change once the changed batch is read, the entry is seen. No place may be both.
Shape suffixes: B rows, L tokens of a row, D model width, V vocabulary.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from model.config import TextConfig
from model.network import Network, Params
from objectives.base import Objective
from objectives.measuring import Frozen, HostBatch, fresh, frozen, network_of, step_key, thawed
from objectives.probing import States, pull, trace
from objectives.segments import is_layout
from objectives.verdict import Verdict, verdict

GIVEN = (
    "example_ids",
    "source",
    "positions",
    "type_ids",
    "prefix",
    "word_starts",
    "token_bytes",
    "target_positions",
)
"""Arrays that say where and what things are; no loss asks for them."""
STEPS = 3
"""Of an objective that draws: so many times what it scores is looked at."""
FAINT = 1e-3
"""Share of the largest change of a gradient below which a change is none: it went through a common factor of the loss."""
NOISE = 0.25
"""By how much the share of answers that can be seen may exceed what is claimed: some forty of them are looked at."""


FEW = 0.05
"""Share of answers that one which warns of tokens (unlikelihood) may seem to read; who reads on reads nearly all."""


class Place(NamedTuple):
    """An entry of a batch."""

    array: str
    row: int
    column: int


class Answer(NamedTuple):
    """An entry that is an answer, in one step."""

    place: Place
    step: int
    old: Any
    """What stood there."""
    predicted: dict[str, frozenset[int]]
    """State -> columns at which it is predicted."""
    seen: dict[str, frozenset[int]]
    """State -> columns that know it."""
    before: dict[str, frozenset[int]] | None
    """The same of the token before it in its segment, if there is one."""

    @property
    def leaks(self) -> bool:
        """Whether it is seen where it is predicted."""
        return any(self.predicted[name] & self.seen[name] for name in self.predicted)


def no_prediction_reads_its_answer(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """The share of answers that are seen where they are predicted is at most what the objective means to show."""
    name = "no prediction reads its answer"
    shown = objective.claims().premises().answers_shown
    if shown >= 1:
        return Verdict(name, "does not apply", detail="premises: all answers are shown on purpose")
    answers = answers_of(objective, config, batch)
    if not answers:
        return Verdict(name, "does not apply", detail="neither a token nor a label is asked for")
    worst, detail = 0.0, ""
    for array in sorted({a.place.array for a in answers}):
        own = [a for a in answers if a.place.array == array]
        if _is_bag(own, batch):
            detail = (
                detail
                or f"{array}: a segment's words are predicted as a bag, from a vector that cannot hold them all"
            )
            continue
        leaking = [a for a in own if a.leaks]
        limit = _shown_at_most(array, shown, config)
        share = len(leaking) / len(own)
        if share > limit:
            place = leaking[0].place
            state, columns = next(
                (k, v & leaking[0].seen[k]) for k, v in leaking[0].predicted.items() if v & leaking[0].seen[k]
            )
            detail = (
                f"{len(leaking)} of {len(own)} answers in {array!r}, as {place.column} of row {place.row}: {state!r} at "
                f"{sorted(columns)[:4]} has read it"
            )
            return verdict(name, share, limit, detail)
        worst = max(worst, share)
    limit = _shown_at_most("tokens", shown, config)
    return verdict(name, worst, limit, detail or f"{len(answers)} answers, each changed alone")


def _shown_at_most(array: str, shown: float, config: TextConfig) -> float:
    """The share of answers that may be seen."""
    if array not in ("tokens", "target_tokens"):
        # Labels are never kept in what is read.
        return 0.0
    return FEW if config.causal or array == "target_tokens" or shown == 0 else shown + NOISE


def answers_are_predicted_in_place(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """In a causal model where the token before has been read, else at the token itself; labels in their own segment."""
    name = "answers are predicted in place"
    answers = answers_of(objective, config, batch)
    if not answers:
        return Verdict(name, "does not apply", detail="neither a token nor a label is asked for")
    unit, offset = objective.claims().segments_per_unit(), objective.claims().premises().answer_offset
    wrong: list[str] = []
    for answer in answers:
        own = _unit_of(answer.place, batch, unit)
        for state, columns in answer.predicted.items():
            layout = "target_segment_ids" if state.endswith("decode") else "segment_ids"
            units = {int((batch[layout][answer.place.row, c] - 1) // unit) for c in columns}
            if own is not None and units and own not in units:
                wrong.append(f"{_named(answer)} is predicted in another segment, at {sorted(columns)[:4]}")
        if (misplaced := _misplaced(answer, config, offset)) and not _is_bag([answer], batch):
            wrong.append(misplaced)
    detail = wrong[0] if wrong else f"{len(answers)} answers"
    return verdict(name, len(wrong) / len(answers), 0.1, detail)


def special_tokens_are_no_answers(objective: Objective, config: TextConfig, batch: HostBatch) -> Verdict:
    """A bidirectional model is never asked for a special token: where they stand follows from the layout."""
    name = "special tokens are no answers"
    if config.causal or config.encoder_decoder:
        return Verdict(name, "does not apply", detail="one that writes must write its end, too")
    if objective.claims().premises().answers_shown >= 1:
        return Verdict(name, "does not apply", detail="premises: all answers are shown on purpose")
    answers = [a for a in answers_of(objective, config, batch) if a.place.array == "tokens"]
    if not answers:
        return Verdict(name, "does not apply", detail="no token is asked for")
    special = [a for a in answers if a.old < objective.rows.first_ordinary_id]
    detail = (
        f"{_named(special[0])} is the special token {special[0].old}"
        if special
        else f"{len(answers)} answers"
    )
    return verdict(name, len(special), 0, detail)


def _named(answer: Answer) -> str:
    array, row, column = answer.place
    return f"{array!r} {column} of row {row}"


def _unit_of(place: Place, batch: HostBatch, unit: int) -> int | None:
    """The unit that an entry belongs to."""
    ids = batch["target_segment_ids" if place.array.startswith("target_") else "segment_ids"]
    if batch[place.array].shape[1] == ids.shape[1]:
        return int((ids[place.row, place.column] - 1) // unit)
    # An array with an entry for each segment.
    return place.column // unit


def _misplaced(answer: Answer, config: TextConfig, offset: int | None) -> str:
    """What is wrong with where a token is predicted; empty if nothing is."""
    if answer.place.array not in ("tokens", "target_tokens"):
        return ""
    places = {k: v for k, v in answer.predicted.items() if v and not k.endswith("embed")}
    columns = set().union(*places.values()) if places else set()
    if offset is not None:
        expected = answer.place.column + offset
        return (
            ""
            if not columns or expected in columns
            else f"{_named(answer)} is predicted at {sorted(columns)[:4]}, not at {expected}"
        )
    if config.causal or answer.place.array == "target_tokens":
        before = answer.before
        if before is None or not places or any(v & before[k] for k, v in places.items()):
            return ""
        return f"{_named(answer)} is predicted at {sorted(columns)[:4]}, where the token before it has not been read"
    if len(columns) == 1 and columns != {answer.place.column}:
        return f"{_named(answer)} is predicted at {min(columns)}, off the state of another token"
    return ""


def _is_bag(answers: list[Answer], batch: HostBatch) -> bool:
    """Whether all tokens of a segment are predicted at the same places: then order, and so reading off, plays no part."""
    found: dict[tuple[Any, ...], set[Any]] = {}
    sizes: dict[tuple[Any, ...], int] = {}
    for answer in answers:
        array, row, column = answer.place
        if array != "tokens":
            return False
        key = (answer.step, row, int(batch["segment_ids"][row, column]))
        found.setdefault(key, set()).add(tuple(sorted(answer.predicted.items(), key=lambda kv: kv[0])))
        sizes[key] = sizes.get(key, 0) + 1
    several = [key for key, size in sizes.items() if size > 1]
    return bool(several) and all(len(found[key]) == 1 for key in several)


def answers_of(objective: Objective, config: TextConfig, batch: HostBatch) -> list[Answer]:
    """Every entry that is an answer in one of a few steps, in any array."""
    return _answers_of(objective, config, frozen(batch))


@functools.lru_cache(maxsize=2)
def _answers_of(objective: Objective, config: TextConfig, kept: Frozen) -> list[Answer]:
    batch = thawed(kept)
    network = network_of(objective, config)
    params = fresh(network)
    table_VD = _table(network, params)
    steps = [step_key()]
    first = trace(objective, network, params, batch, steps[0])
    second = trace(objective, network, params, batch, jax.random.fold_in(steps[0], 1))
    draws = any(np.any(first.states[k] != second.states[k]) for k in first.states)
    steps += [jax.random.fold_in(steps[0], i) for i in range(1, STEPS)] if draws else []
    found: list[Answer] = []
    for number, rng in enumerate(steps):
        found += _answers_in(objective, network, params, batch, rng, number, table_VD)
    return found


def _table(network: Network, params: Params) -> np.ndarray:
    return np.asarray(network.bind(params).embedding_VD)


def _answers_in(
    objective: Objective,
    network: Network,
    params: Params,
    batch: HostBatch,
    rng: jax.Array,
    step: int,
    table_VD: np.ndarray,
) -> Iterator[Answer]:
    """Those of one step. All rows change at once: they do not know each other."""
    kept = trace(objective, network, params, batch, rng)
    asked = _arrays(pull(objective, network, params, kept, batch, rng))
    seen_before: dict[tuple[str, int], Any] = {}
    for array, column, changed in changes(objective, batch):
        there_B = changed[array] != batch[array]
        there_B = there_B.reshape(len(there_B), -1).any(axis=1)
        now = _arrays(pull(objective, network, params, kept, changed, rng))
        moved = {k: _changed(asked[k], now[k]) for k in asked}
        if not _own_table(network) and not any(x[there_B].any() for x in moved.values()):
            continue
        read = trace(objective, network, params, changed, rng)
        seen = {k: np.abs(read.states[k] - kept.states[k]).max(axis=-1) > 0 for k in kept.states}
        seen_before[array, column] = (there_B, seen)
        for row in np.flatnonzero(there_B):
            predicted = {k: x[row] for k, x in moved.items()}
            if _own_table(network) and array in ("tokens", "target_tokens"):
                old, new = batch[array][row, column], changed[array][row, column]
                towards_D = table_VD[new] - table_VD[old]
                predicted = {
                    k: x & ~_pushed_away(asked[k][row], now[k][row], towards_D) for k, x in predicted.items()
                }
            if not any(x.any() for x in predicted.values()):
                continue
            yield Answer(
                Place(array, int(row), column),
                step,
                batch[array][row, column],
                {k: frozenset(np.flatnonzero(x).tolist()) for k, x in predicted.items()},
                {k: frozenset(np.flatnonzero(x[row]).tolist()) for k, x in seen.items()},
                _before(seen_before, array, batch, int(row), column),
            )


def _arrays(states: States) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in states.items()}


def _before(
    seen_before: dict[tuple[str, int], Any], array: str, batch: HostBatch, row: int, column: int
) -> dict[str, frozenset[int]] | None:
    """Who has seen the token before this one of its segment."""
    layout = "target_segment_ids" if array.startswith("target_") else "segment_ids"
    if (array, column - 1) not in seen_before or batch[array].shape[1] != batch[layout].shape[1]:
        return None
    there_B, seen = seen_before[array, column - 1]
    if not there_B[row] or batch[layout][row, column - 1] != batch[layout][row, column]:
        return None
    return {k: frozenset(np.flatnonzero(x[row]).tolist()) for k, x in seen.items()}


def _own_table(network: Network) -> bool:
    """Whether hidden states meet the table as they are, so that the direction of a gradient says which token is meant."""
    config = network.backbone.config
    return bool(config.causal or config.encoder_decoder)


def _changed(before_BLD: np.ndarray, after_BLD: np.ndarray) -> np.ndarray:
    """Bool [B, L]: where a gradient has changed other than by a positive factor."""
    square_BL = np.sum(before_BLD**2, axis=-1)
    along_BL = np.sum(after_BLD * before_BLD, axis=-1) / np.maximum(square_BL, 1e-30)
    scaled_BLD = np.maximum(along_BL, 0.0)[..., None] * before_BLD
    size_BL = np.linalg.norm(after_BLD - scaled_BLD, axis=-1)
    differs_BL = np.abs(after_BLD - before_BLD).max(axis=-1) > 0
    largest = np.linalg.norm(after_BLD - before_BLD, axis=-1).max(axis=1, keepdims=True)
    return np.asarray(differs_BL & (size_BL > FAINT * largest))


def _pushed_away(before_LD: np.ndarray, after_LD: np.ndarray, towards_D: np.ndarray) -> np.ndarray:
    """Bool [L]: where a token is not asked for but warned of (unlikelihood, a text that lost)."""
    difference_LD = after_LD - before_LD
    length_L = np.linalg.norm(difference_LD, axis=-1) * np.linalg.norm(towards_D)
    return np.asarray(difference_LD @ towards_D > 0.5 * length_L) & (length_L > 0)


def changes(objective: Objective, batch: HostBatch) -> Iterator[tuple[str, int, HostBatch]]:
    """(array, column, the batch in which every row has another value there)."""
    for array, value in batch.items():
        if is_layout(array) or array in GIVEN or value.ndim < 2:
            continue
        layout = batch["target_segment_ids" if array.startswith("target_") else "segment_ids"]
        for column in range(value.shape[1]):
            there_B = (
                layout[:, column] > 0
                if value.shape[1] == layout.shape[1]
                else (layout == column + 1).any(axis=1)
            )
            other = _other(objective, array, value, column)
            keep = ~there_B.reshape(-1, *[1] * (value.ndim - 2))
            column_B = np.where(keep, value[:, column], other)
            if np.array_equal(column_B, value[:, column]):
                continue
            changed = value.copy()
            changed[:, column] = column_B
            yield array, column, {**batch, array: changed}


def _other(objective: Objective, array: str, value: np.ndarray, column: int) -> np.ndarray:
    """Another possible value of each row at this column."""
    x = value[:, column]
    if array.endswith("tokens"):
        first, last = objective.rows.first_ordinary_id, objective.rows.own_start
        ordinary = first + (x - first + 1) % max(1, last - first)
        special = np.where(x == objective.rows.eos_id, objective.rows.bos_id, objective.rows.eos_id)
        return np.where(x >= last, x, np.where(x >= first, ordinary, special)).astype(x.dtype)
    if x.dtype == bool:
        return ~x
    if np.issubdtype(x.dtype, np.floating) and set(np.unique(value)) - {0.0, 1.0, -1.0}:
        return x + np.float32(1.0)
    # Classes: none stays none.
    most = max(1, int(value.max()))
    return np.where(x >= 0, (x + 1) % (most + 1), x).astype(x.dtype)
