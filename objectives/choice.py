"""One of several objectives for each example, drawn anew in every step.

Shape suffixes: B rows, L tokens of a row, K parts, D model width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives.base import Batch, Corrupted
from objectives.claims import DeviceCounts
from objectives.masking import share_of_bits
from objectives.mixture import Mixture, Seen
from objectives.randomness import example_bits
from objectives.segments import is_layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Mixture):
    r"""Each example is corrupted and scored by one of the parts; all rows are encoded once.

    .. math:: \sum_k p_k \sum_t c_{kt} \frac{\mathrm{loss}_{kt}}{\mathrm{weight}_{kt}}, \qquad k_i \sim p

    where loss and weight of part k are over the examples i with k_i = k. To a part the other rows are padding, so it
    weighs only its own; what it costs to score, it costs for all rows. Terms, metrics and claims are named "part/name".

    The third entry of each part is its share of the examples (relative to the others) and, so that every example counts
    alike, the factor of its terms; a part to which no row of a step falls adds nothing to that step's sum. Parts may all
    corrupt, but none may encode for itself: use a `Mixture` with "each".

    Example:
      Two parts that lose 1 nat and 3 nats for each row, the second with three quarters of the examples. Whatever the draw,
      the minimised sum is 1/4 x 1 + 3/4 x 3 = 2.5 where both are drawn:

      >>> import dataclasses, jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> from objectives.base import LossOut, Objective
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Loses(Objective):
      ...     nats: float
      ...     def coefficients(self):
      ...         return {"nll": 1.0}
      ...     def score(self, network, hidden_BLD, batch, corrupted):
      ...         rows = jnp.sum(batch["segment_ids"][:, 0] > 0)
      ...         return LossOut({"nll": (self.nats * rows, rows)}, {})
      >>> choice = Choice(parts=(("a", Loses(nats=1.0), 1.0), ("b", Loses(nats=3.0), 3.0)))
      >>> network = SimpleNamespace(config=None, encode=lambda batch: jnp.zeros((64, 1, 1)))
      >>> ones = jnp.ones((64, 1), jnp.int32)
      >>> batch = {"tokens": ones, "segment_ids": ones, "example_ids": jnp.arange(64)}
      >>> terms = choice(network, batch, jax.random.key(0)).terms
      >>> sum(c * float(terms[k][0] / terms[k][1]) for k, c in choice.coefficients().items())
      2.5
      >>> int(terms["a/nll"][1] + terms["b/nll"][1])
      64

    Reference:
      Tay et al., UL2, arXiv 2205.05131, section 3.1 (a mixture of denoisers, one for each example); for rows that an
      objective makes, see objectives/ul2.py.
    """

    def check_encodes(self) -> None:
        """All score one encode; each reads its own rows of it as it corrupted them."""
        if self.encode == "each":
            raise ValueError(
                'a choice encodes every row once, for the part that it fell to; leave encode="once"'
            )
        self.refuse_own_encodes('use a Mixture with encode="each"')
        shares = {name: share for name, _, share in self.parts}
        if min(shares.values()) <= 0:
            raise ValueError(f"shares of a choice must be positive, got {shares}")

    def factors(self) -> tuple[float, ...]:
        """The shares of all examples, which sum to one."""
        total = sum(share for _, _, share in self.parts)
        return tuple(share / total for _, _, share in self.parts)

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """Each row as the part it fell to corrupts it; every part saw its own rows only."""
        lots_B = example_bits(rng, batch["example_ids"])
        choice_B = jnp.zeros(lots_B.shape, jnp.int32)
        for edge in np.cumsum(self.factors())[:-1]:
            choice_B += lots_B >= share_of_bits(edge)
        read, plans = dict(batch), {}
        for index, (name, part) in enumerate(self.inner()):
            mine_B = choice_B == index
            own = _only(batch, mine_B)
            plans[name] = Seen(own, part.corrupt(config, own, jax.random.fold_in(rng, index)))
            for key, x in plans[name].corrupted.batch.items():
                if key in own and x is own[key]:
                    continue
                # An array that only some parts make is empty in the rows of the others.
                before = read[key] if key in read else jnp.zeros_like(x)
                read[key] = jnp.where(mine_B.reshape(-1, *[1] * (x.ndim - 1)), x, before)
        return Corrupted(read, plans)

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        """Those of all parts on their own rows, and the shares of the rows that are not padding."""
        counts_K = jnp.stack([_rows(corrupted.plan[name].batch) for name, _ in self.inner()])
        claims = super().corruption_claims(config, batch, corrupted)
        return {**claims, "shares": (counts_K, jnp.array(self.factors()) * _rows(batch))}


def _only(batch: Batch, mine_B: jax.Array) -> Batch:
    """The batch with all other rows turned into padding."""
    layouts = [name for name in batch if is_layout(name)]
    return {**batch, **{name: jnp.where(mine_B[:, None], batch[name], 0) for name in layouts}}


def _rows(batch: Batch) -> jax.Array:
    """How many hold a text, float32 scalar."""
    return jnp.sum(jnp.any(batch["segment_ids"] > 0, axis=1), dtype=jnp.float32)


def example() -> Choice:
    """For the property suite: single tokens or spans are masked."""
    from objectives import masked_lm
    from objectives.masking import Masking

    tokens = masked_lm.example()
    spans = masked_lm.MaskedLM(masking=Masking(unit="span", rate=0.3, cap_rate=0.5))
    return Choice(parts=(("tokens", tokens, 1.0), ("spans", spans, 1.0)))
