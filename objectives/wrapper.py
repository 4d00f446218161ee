"""The base of objectives that are made of others: what they do not change is what the others say."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax

from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, Family, Heads, LossOut, Mode, Objective, Scored
from objectives.claims import Claims, DeviceCounts, HostCounts, Premises
from objectives.rows import Documents, Row, RowMaker

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapper(Objective, Claims, abc.ABC):
    """Forwards everything to the objectives inside; terms, metrics and claims of a named one are called "name/...".

    One that adds to a single base (a second term, a penalty) gives it in `inner` and overrides what it adds to: `score`, or
    the call, which then begins with the base's.
    """

    own_companions: ClassVar[tuple[str, ...]] = ()
    """Companions that it reads itself, beside those of the objectives inside."""

    @abc.abstractmethod
    def inner(self) -> tuple[tuple[str, Objective], ...]:
        """(name, objective) of each one inside; the name may be empty where there is one."""

    @property
    def only(self) -> Objective:
        """The single objective inside."""
        ((_, base),) = self.inner()
        return base

    @property
    def additive(self) -> bool:  # type: ignore[override]
        """Only if all are."""
        return all(part.additive for _, part in self.inner())

    @property
    def companions(self) -> tuple[str, ...]:  # type: ignore[override]
        """Its own, and those of all inside."""
        inside = (name for _, part in self.inner() for name in part.companions)
        return tuple(dict.fromkeys([*self.own_companions, *inside]))

    @property
    def family(self) -> Family:  # type: ignore[override]
        """That of all inside."""
        return self.inner()[0][1].family

    @property
    def metric_modes(self) -> Mapping[str, Mode]:  # type: ignore[override]
        """Those of all inside, by the names that their metrics have here."""
        return self.join((name, part.metric_modes) for name, part in self.inner())

    def row_maker(self) -> RowMaker | None:
        makers = (part.row_maker() for _, part in self.inner())
        return next((maker for maker in makers if maker is not None), None)

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, part in self.inner() for name in part.reads()))

    def heads(self, config: Any) -> Heads:
        """Those of all; they may share a head by giving it one name and one definition."""
        return _merge_heads([(name, part.heads(config)) for name, part in self.inner()])

    def companion_heads(self, name: str, config: Any) -> Heads:
        """Those of all that read this companion; all heads for one of its own."""
        reading = [
            (own, part)
            for own, part in self.inner()
            if name in part.companions or name in self.own_companions
        ]
        return _merge_heads([(own, part.companion_heads(name, config)) for own, part in reading])

    def coefficients(self) -> dict[str, float]:
        return self.join((name, part.coefficients()) for name, part in self.inner())

    def check(self, config: Any) -> None:
        for _, part in self.inner():
            part.check(config)

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        return self.only.corrupt(config, batch, rng)

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        return self.only.scored(network, hidden_BLD, batch, corrupted)

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        return self.only.score(network, hidden_BLD, batch, corrupted)

    def initial_loss(self, config: Any) -> Mapping[str, float | tuple[float, float]]:
        return self.join((name, part.claims().initial_loss(config)) for name, part in self.inner())

    def premises(self) -> Premises:
        """Whatever one of them means to do, all may; terms are named as they are here."""
        named = [(name, part.claims().premises()) for name, part in self.inner()]
        terms = {
            field.name: tuple(
                f"{name}/{term}" if name else term for name, own in named for term in getattr(own, field.name)
            )
            for field in dataclasses.fields(Premises)
            if isinstance(field.default, tuple)
        }
        offsets = {own.answer_offset for _, own in named}
        return Premises(
            answers_shown=max(own.answers_shown for _, own in named),
            answer_offset=offsets.pop() if len(offsets) == 1 else None,
            repeats_draws=any(own.repeats_draws for _, own in named),
            stops_gradients=any(own.stops_gradients for _, own in named),
            **terms,
        )

    def segments_per_unit(self) -> int:
        """Enough for every one."""
        return math.lcm(*(part.claims().segments_per_unit() for _, part in self.inner()))

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        return self.only.claims().corruption_claims(config, batch, corrupted)

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        return self.join((name, part.claims().example_claims(docs, rows)) for name, part in self.inner())

    @staticmethod
    def join(named: Iterable[tuple[str, Mapping[str, T]]]) -> dict[str, T]:
        """One mapping of several; keys of one that has a name get that name in front."""
        return {f"{name}/{key}" if name else key: v for name, values in named for key, v in values.items()}


def _merge_heads(parts: Sequence[tuple[str, Heads]]) -> Heads:
    merged: dict[str, Any] = {}
    for part_name, heads in parts:
        for name, module in heads:
            if merged.setdefault(name, module) != module:
                raise ValueError(
                    f"part {part_name!r} defines head {name!r} differently: {module} {merged[name]}"
                )
    return tuple(merged.items())
