"""Several objectives over the same rows, as one. Knows none of them.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from model.config import TransformerConfig
from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, Documents, Family, LossOut, Objective, Row


class Seen(NamedTuple):
    """What a part was given, and what it made of it."""

    batch: Batch
    corrupted: Corrupted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Objective):
    r"""The weighted sum of objectives.

    .. math:: \sum_k c_k \sum_t c_{kt} \frac{\mathrm{loss}_{kt}}{\mathrm{weight}_{kt}}

    Each term keeps its own weight: a part with few scored tokens is not drowned by one with many. Terms,
    metrics and claims are named "part/name".

    With encode = "once" all parts score one encode of the row, as BERT does: whatever one part masks, the
    others read masked too. That is refused where two parts corrupt, or where a part does its own encoding.
    With "each" every part corrupts and encodes for itself.

    Example:
      Two copies of an objective that loses 3 nats over weight 2, the second with half the coefficient:

      >>> import dataclasses, jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Three(Objective):
      ...     def coefficients(self):
      ...         return {"nll": 1.0}
      ...     def score(self, network, hidden_BLD, batch, corrupted):
      ...         return LossOut({"nll": (jnp.array(3.0), jnp.array(2.0))}, {})
      >>> mixture = Mixture(parts=(("a", Three(), 1.0), ("b", Three(), 0.5)))
      >>> network = SimpleNamespace(config=None, encode=lambda tokens, batch: jnp.zeros((1, 1, 1)))
      >>> out = mixture(network, {"tokens": jnp.zeros((1, 1), jnp.int32)}, jax.random.key(0))
      >>> sum(c * float(out.terms[k][0] / out.terms[k][1]) for k, c in mixture.coefficients().items())
      2.25

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, appendix A.2 (the sum of the mean losses of its two tasks).
    """

    parts: tuple[tuple[str, Objective, float], ...]
    """(name, objective, coefficient) of each part."""
    encode: Literal["once", "each"] = "once"
    """Whether all parts score one encode of the row, or each makes its own."""

    def __post_init__(self) -> None:
        """Refuse what cannot be mixed."""
        names = [name for name, _, _ in self.parts]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a mixture needs parts of different names, got {names}")
        families = sorted({part.family for _, part, _ in self.parts})
        if len(families) > 1:
            raise ValueError(f"parts need different backbones: {families}")
        makers = [name for name, part, _ in self.parts if part.make_example is not None]
        if len(makers) > 1:
            raise ValueError(f"only one part can make the rows, but these all do: {makers}")
        self.check_encodes()

    def check_encodes(self) -> None:
        """Parts that share one encode must all be able to score what one of them corrupted."""
        if self.encode == "each":
            return
        self.refuse_own_encodes('use encode="each"')
        corrupting = [name for name, part, _ in self.parts if _corrupts(part)]
        if len(corrupting) > 1:
            raise ValueError(
                f'parts cannot share one encode: {corrupting} corrupt the tokens; use encode="each"'
            )

    def refuse_own_encodes(self, instead: str) -> None:
        """Raise ValueError if a part encodes for itself; `instead` says what to do."""
        own = [name for name, part, _ in self.parts if not part.encodes_plainly()]
        if own:
            raise ValueError(f"parts cannot share one encode: {own} encode for themselves; {instead}")

    @property
    def additive(self) -> bool:  # type: ignore[override]
        """Only if every part is."""
        return all(part.additive for _, part, _ in self.parts)

    @property
    def companions(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of all parts."""
        return tuple(dict.fromkeys(name for _, part, _ in self.parts for name in part.companions))

    @property
    def family(self) -> Family:  # type: ignore[override]
        """That of all parts."""
        return self.parts[0][1].family

    @property
    def make_example(self) -> Any:
        """That of the one part that has it."""
        return next((part.make_example for _, part, _ in self.parts if part.make_example is not None), None)

    def reads(self) -> tuple[str, ...]:
        """Those of all parts."""
        return tuple(dict.fromkeys(name for _, part, _ in self.parts for name in part.reads()))

    def reserved_ids(self) -> range:
        """From the lowest to the highest of all parts."""
        ranges = [own for _, part, _ in self.parts if (own := part.reserved_ids())]
        return range(min(r.start for r in ranges), max(r.stop for r in ranges)) if ranges else range(0)

    def segments_per_unit(self) -> int:
        """Enough for every part."""
        return math.lcm(*(part.segments_per_unit() for _, part, _ in self.parts))

    def segment_limit(self) -> int | None:
        """The least of its parts."""
        return min(
            (limit for _, part, _ in self.parts if (limit := part.segment_limit()) is not None), default=None
        )

    def heads(self, config: TransformerConfig) -> tuple[tuple[str, nn.Module], ...]:
        """Those of all parts; parts may share a head by giving it one name and one definition."""
        return _merged([(name, part.heads(config)) for name, part, _ in self.parts])

    def companion_heads(self, name: str, config: TransformerConfig) -> tuple[tuple[str, nn.Module], ...]:
        """Those of all parts that read this companion."""
        reading = [(own, part) for own, part, _ in self.parts if name in part.companions]
        return _merged([(own, part.companion_heads(name, config)) for own, part in reading])

    def coefficients(self) -> dict[str, float]:
        """Each term's own coefficient times its part's."""
        return {
            f"{name}/{term}": factor * own
            for (name, part, _), factor in zip(self.parts, self.factors(), strict=True)
            for term, own in part.coefficients().items()
        }

    def factors(self) -> tuple[float, ...]:
        """Of the terms of each part."""
        return tuple(factor for _, _, factor in self.parts)

    def initial_loss(self, config: TransformerConfig) -> dict[str, float]:
        """Those of all parts."""
        return {
            f"{name}/{term}": loss
            for name, part, _ in self.parts
            for term, loss in part.initial_loss(config).items()
        }

    def check(self, config: TransformerConfig, length: int) -> None:
        """Every part, and that all mean the same rows."""
        for _, part, _ in self.parts:
            part.check(config, length)
        limits = {n: limit for n, p, _ in self.parts if (limit := p.segment_limit()) is not None}
        if len(set(limits.values())) > 1:
            raise ValueError(f"parts disagree on max_segments: {limits}")

    def check_documents(self, docs: Documents) -> None:
        """Every part."""
        for _, part, _ in self.parts:
            part.check_documents(docs)

    def example_claims(
        self, docs: Documents, rows: Sequence[Row]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Those of all parts."""
        return {
            f"{name}/{claim}": counts
            for name, part, _ in self.parts
            for claim, counts in part.example_claims(docs, rows).items()
        }

    def encodes_plainly(self) -> bool:
        """If its parts share one encode."""
        return self.encode == "once"

    def corrupt(self, config: TransformerConfig, batch: Batch, rng: jax.Array) -> Corrupted:
        """The tokens of the part that corrupts, and for every part what it has `Seen`."""
        tokens_BL, plans = batch["tokens"], {}
        for index, (name, part, _) in enumerate(self.parts):
            plans[name] = Seen(batch, part.corrupt(config, batch, jax.random.fold_in(rng, index)))
            tokens_BL = plans[name].corrupted.tokens_BL if _corrupts(part) else tokens_BL
        return Corrupted(tokens_BL, plans)

    def corruption_claims(
        self, config: TransformerConfig, batch: Batch, corrupted: Corrupted
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Those of all parts."""
        return {
            f"{name}/{claim}": counts
            for name, part, _ in self.parts
            for claim, counts in part.corruption_claims(config, *corrupted.plan[name]).items()
        }

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """Every part on the same hidden states."""
        return _join(
            {name: part.score(network, hidden_BLD, *corrupted.plan[name]) for name, part, _ in self.parts}
        )

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """One encode for all, or one each."""
        if self.encode == "once":
            return super().__call__(network, batch, rng)
        return _join(
            {
                name: part(network.redrawn(index), batch, jax.random.fold_in(rng, index))
                for index, (name, part, _) in enumerate(self.parts)
            }
        )


def _merged(
    parts: Sequence[tuple[str, tuple[tuple[str, nn.Module], ...]]],
) -> tuple[tuple[str, nn.Module], ...]:
    merged: dict[str, nn.Module] = {}
    for part_name, heads in parts:
        for name, module in heads:
            if merged.setdefault(name, module) != module:
                raise ValueError(
                    f"part {part_name!r} defines head {name!r} differently: {module} {merged[name]}"
                )
    return tuple(merged.items())


def _corrupts(part: Objective) -> bool:
    if isinstance(part, Mixture):
        return any(_corrupts(inner) for _, inner, _ in part.parts)
    return type(part).corrupt is not Objective.corrupt


def _join(outs: dict[str, LossOut]) -> LossOut:
    return LossOut(
        {f"{name}/{term}": sums for name, out in outs.items() for term, sums in out.terms.items()},
        {f"{name}/{metric}": sums for name, out in outs.items() for metric, sums in out.metrics.items()},
    )


def example() -> Mixture:
    """For the property suite: two supervised tasks on one encode."""
    from objectives import sequence_classification, token_classification

    return Mixture(
        parts=(
            ("sequence", sequence_classification.example(), 1.0),
            ("token", token_classification.example(), 0.5),
        )
    )
