"""Several objectives over the same rows, as one.

Shape suffixes: B rows, L tokens of a row, D model width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax

from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, LossOut, Objective
from objectives.claims import DeviceCounts
from objectives.wrapper import Wrapper


class Seen(NamedTuple):
    """What a part was given, and what it made of it."""

    batch: Batch
    corrupted: Corrupted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Wrapper):
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
      >>> network = SimpleNamespace(config=None, encode=lambda batch: jnp.zeros((1, 1, 1)))
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
        names = [name for name, _, _ in self.parts]
        if len(set(names)) != len(names) or not all(names) or not names:
            raise ValueError(f"a mixture needs parts of different names, got {names}")
        families = sorted({part.family for _, part, _ in self.parts})
        if len(families) > 1:
            raise ValueError(f"parts need different backbones: {families}")
        makers = [name for name, part, _ in self.parts if part.row_maker() is not None]
        if len(makers) > 1:
            raise ValueError(f"only one part can make the rows, but these all do: {makers}")
        self.check_encodes()

    def check_encodes(self) -> None:
        """Parts that share one encode must all be able to score what one of them corrupted."""
        if self.encode == "each":
            return
        self.refuse_own_encodes('use encode="each"')
        corrupting = [name for name, part, _ in self.parts if corrupts(part)]
        if len(corrupting) > 1:
            raise ValueError(
                f'parts cannot share one encode: {corrupting} corrupt the tokens; use encode="each"'
            )
        if corrupting and len(self.parts) > 1 and self.family == "decoder":
            # A prefix, say, is read in both directions: the other parts would see what they predict.
            raise ValueError(
                f"parts cannot share one encode: {corrupting} change what a causal backbone reads, and the other parts "
                'would be scored on that; use encode="each", or a Choice'
            )

    def refuse_own_encodes(self, instead: str) -> None:
        """Raise ValueError if a part encodes for itself; `instead` says what to do."""
        own = [name for name, part, _ in self.parts if not scores_one_encode(part)]
        if own:
            raise ValueError(f"parts cannot share one encode: {own} encode for themselves; {instead}")

    def inner(self) -> tuple[tuple[str, Objective], ...]:
        return tuple((name, part) for name, part, _ in self.parts)

    def factors(self) -> tuple[float, ...]:
        """Of the terms of each part."""
        return tuple(factor for _, _, factor in self.parts)

    def coefficients(self) -> dict[str, float]:
        parts = zip(self.parts, self.factors(), strict=True)
        return self.join(
            (name, {term: factor * own for term, own in part.coefficients().items()})
            for (name, part, _), factor in parts
        )

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """What the part that corrupts made of the batch, and for every part what it has `Seen`."""
        read, plans = batch, {}
        for index, (name, part, _) in enumerate(self.parts):
            plans[name] = Seen(batch, part.corrupt(config, batch, jax.random.fold_in(rng, index)))
            read = plans[name].corrupted.batch if corrupts(part) else read
        return Corrupted(read, plans)

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        return self.join(
            (name, part.claims().corruption_claims(config, *corrupted.plan[name]))
            for name, part in self.inner()
        )

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        return self.add(
            {name: part.score(network, hidden_BLD, *corrupted.plan[name]) for name, part in self.inner()}
        )

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        if self.encode == "once":
            return super().__call__(network, batch, rng)
        return self.add(
            {
                name: part(network.redrawn(index), batch, jax.random.fold_in(rng, index))
                for index, (name, part) in enumerate(self.inner())
            }
        )

    def add(self, outs: Mapping[str, LossOut]) -> LossOut:
        """What the parts returned as one, penalties with the factors of their parts."""
        factors = dict(zip(outs, self.factors(), strict=True))
        whole = LossOut({}, {}, {})
        for name, out in outs.items():
            whole.terms.update({f"{name}/{k}": sums for k, sums in out.terms.items()})
            whole.metrics.update({f"{name}/{k}": sums for k, sums in out.metrics.items()})
            whole.penalties.update({f"{name}/{k}": factors[name] * v for k, v in out.penalties.items()})
        return whole


def scores_one_encode(part: Objective) -> bool:
    """Whether it scores one encode of what it corrupts, so that others may score the same one."""
    if isinstance(part, Mixture):
        return part.encode == "once"
    return type(part).__call__ is Objective.__call__


def corrupts(part: Objective) -> bool:
    """Whether it may let the backbone read something else than the batch."""
    if isinstance(part, Wrapper):
        return any(corrupts(inner) for _, inner in part.inner())
    return type(part).corrupt is not Objective.corrupt


def example() -> Mixture:
    """For the property suite: two supervised tasks on one encode."""
    from objectives import sequence_classification, token_classification

    return Mixture(
        parts=(
            ("sequence", sequence_classification.example(), 1.0),
            ("token", token_classification.example(), 0.5),
        )
    )
