"""Ways to look at a trained network beside its loss: bits per byte, loss by position, pseudo-log-likelihood.

A view is called like an objective and returns sums with weights, so whatever evaluates an objective evaluates a view, over
any split of the rows. What is no ratio of two sums is formed from them once, on the host, by `readings`. It must not know a
loop, a file or a tokenizer: the bytes of a token come with the batch, as "token_bytes".

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1).
"""

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from model.network import BoundNetwork
from objectives.base import Batch, LossOut, Objective
from objectives.causal_lm import CausalLM
from objectives.masked_lm import MaskedLM
from objectives.mixture import Mixture
from objectives.multi_token import MultiToken
from objectives.segments import membership, over_segments
from objectives.token_losses import TokenLosses, next_token_losses, pseudo_losses

Kind = TypeVar("Kind", bound=Objective)
HostSums = Mapping[str, tuple[float, float]]


class Reading(NamedTuple):
    """One number that a view gives."""

    name: str
    value: float
    unit: str
    """Empty for a share or a mean without one."""
    weight: float
    of: str
    """What the weight counts; empty where only the objective knows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Base of all views of a network that was trained on `objective`."""

    objective: Objective

    name: ClassVar[str]
    """How it is asked for."""
    on_request: ClassVar[bool] = False
    """Whether it costs so much more than one encode that it is computed only where it is named."""

    def reads(self) -> tuple[str, ...]:
        """Arrays of a row that it needs beside those that the objective reads."""
        return ()

    def refusal(self, offered: Collection[str]) -> str:
        """Why it does not apply to the objective, or to data that offers these arrays; empty if it does."""
        missing = sorted(set(self.reads()) - set(offered))
        if missing:
            found = ", ".join(offered) or "nothing of the kind"
            return f"it reads {', '.join(missing)}, which a tokenizer gives, but the data offers {found}"
        return ""

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Sums with weights, as metrics; `rng` is the step's key."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def readings(self, sums: HostSums) -> list[Reading]:
        """Numbers for people, from sums over all rows; what had no weight is left out."""
        raise NotImplementedError(f"{type(self).__name__} defines no readings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnLoss(View):
    """The objective's own terms and metrics, as evaluations during training give them (masked accuracy is one)."""

    name: ClassVar[str] = "objective"

    def refusal(self, offered: Collection[str]) -> str:
        """A view binds no companions; the run's own evaluations do."""
        if self.objective.companions:
            return f"it reads the companions {', '.join(self.objective.companions)}, which only a training run binds"
        return super().refusal(offered)

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """The objective."""
        return self.objective(network, batch, rng)

    def readings(self, sums: HostSums) -> list[Reading]:
        """Terms are in nats; what their weights count only the objective knows."""
        terms = self.objective.coefficients()
        return [
            Reading(name, value / weight, "nats" if name in terms else "", weight, "")
            for name, (value, weight) in sums.items()
            if weight > 0
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsPerByte(View):
    r"""Bits that a causal model needs for each byte of text: comparable across tokenizers of one normalisation.

    .. math:: \frac{\sum_i -\log p(x_i \mid x_{<i})}{\ln 2 \cdot \sum_i \mathrm{bytes}(x_i)}

    over the scored tokens x_i. Special and unknown tokens are paid for but stand for no bytes: a vocabulary that lacks a
    character of the text makes the number worse, never better.

    Example:
      Equal logits over a vocabulary of 8 are 3 bits per token; at 2 bytes per token that is 3/2. The first of the three
      tokens is not predicted, so 6 bits stand over 4 bytes.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=None, embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 4, 2)))
      >>> batch = {"tokens": jnp.full((1, 4), 7), "segment_ids": jnp.array([[1, 1, 1, 0]]),
      ...          "token_bytes": jnp.full((1, 4), 2)}
      >>> out = BitsPerByte(objective=CausalLM())(uniform, batch, jax.random.key(0))
      >>> bits, size = out.metrics["bits_per_byte"]
      >>> round(float(bits), 4), float(size), round(float(bits / size), 4)
      (6.0, 4.0, 1.5)

    Reference:
      Gao et al., The Pile, arXiv 2101.00027, section 3.1.
    """

    name: ClassVar[str] = "bits_per_byte"

    def reads(self) -> tuple[str, ...]:
        """The size of each token."""
        return ("token_bytes",)

    def refusal(self, offered: Collection[str]) -> str:
        """It needs each token's probability given those before it."""
        return _needs_next_tokens(self.objective) or super().refusal(offered)

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Bits over bytes."""
        losses = next_token_losses(_language_model(self.objective), network, batch, rng)
        return LossOut({}, {self.name: _bits_and_bytes(losses, batch)})

    def readings(self, sums: HostSums) -> list[Reading]:
        """One number."""
        bits, size = sums[self.name]
        return [Reading(self.name, bits / size, "bits/byte", size, "bytes")] if size > 0 else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerPosition(View):
    """Loss of a causal model by the position of the predicted token in its segment, and what context is worth.

    Positions are put into buckets whose bounds grow by `factor`. In-context use is the loss in the first bucket minus that
    in the last one that has tokens, both over the segments that reach the last: else short texts would be compared with
    long ones.

    Example:
      Two segments of 5 and 2 tokens; equal logits over a vocabulary of 8 cost ln 8 = 2.0794 at every position, so context
      is worth nothing.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=None, embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda batch: jnp.zeros((1, 8, 2)))
      >>> batch = {"tokens": jnp.full((1, 8), 7), "segment_ids": jnp.array([[1, 1, 1, 1, 1, 2, 2, 0]]),
      ...          "positions": jnp.array([[0, 1, 2, 3, 4, 0, 1, 0]])}
      >>> view = PerPosition(objective=CausalLM())
      >>> sums = view(uniform, batch, jax.random.key(0)).metrics
      >>> for reading in view.readings({k: (float(s), float(w)) for k, (s, w) in sums.items()}):
      ...     print(reading.name, round(reading.value, 4), reading.weight)
      position 1-3 2.0794 4.0
      position 4-7 2.0794 1.0
      in-context use 0.0 1.0

    Reference:
      Kaplan et al., Scaling Laws, arXiv 2001.08361, section D.5 (loss by position); Olsson et al., In-context Learning
      and Induction Heads, arXiv 2209.11895 (the difference, with the other sign).
    """

    factor: int = 4
    """How many times further the next bucket begins."""

    name: ClassVar[str] = "per_position"

    def __post_init__(self) -> None:
        """Refuse buckets that would not grow."""
        if self.factor < 2:
            raise ValueError(f"factor {self.factor} is below 2: buckets would not grow")

    def refusal(self, offered: Collection[str]) -> str:
        """In a bidirectional model a position says little about how much is seen."""
        return _needs_next_tokens(self.objective) or super().refusal(offered)

    def buckets(self, length: int) -> list[tuple[int, int]]:
        """(first, last) position of each bucket; position 0 is never predicted.

        >>> PerPosition(objective=CausalLM()).buckets(128)
        [(1, 3), (4, 15), (16, 63), (64, 127)]
        """
        firsts = [1]
        while firsts[-1] * self.factor < length:
            firsts.append(firsts[-1] * self.factor)
        return [(first, min(first * self.factor, length) - 1) for first in firsts]

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """For each bucket its own loss, and that of the first bucket in the segments that reach it."""
        nll_BL, weights_BL = next_token_losses(_language_model(self.objective), network, batch, rng)
        positions_BL = batch["positions"]
        reach_BL = over_segments(jax.ops.segment_max, positions_BL, batch["segment_ids"])
        buckets = self.buckets(positions_BL.shape[1])
        early_BL = positions_BL <= buckets[0][1]
        metrics = {}
        for first, last in buckets:
            inside_BL = (positions_BL >= first) & (positions_BL <= last)
            for name, of_BL in (("position", inside_BL), ("early", early_BL & (reach_BL >= first))):
                own_BL = weights_BL * of_BL
                metrics[f"{name} {first}-{last}"] = (jnp.sum(own_BL * nll_BL), jnp.sum(own_BL))
        return LossOut({}, metrics)

    def readings(self, sums: HostSums) -> list[Reading]:
        """One number for each bucket that has tokens, and the difference."""
        found = [name for name, (_, weight) in sums.items() if name.startswith("position ") and weight > 0]
        found.sort(key=lambda name: int(name.removeprefix("position ").split("-")[0]))
        means = [sums[name][0] / sums[name][1] for name in found]
        out = [
            Reading(name, mean, "nats/token", sums[name][1], "tokens")
            for name, mean in zip(found, means, strict=True)
        ]
        if len(found) > 1:
            value, weight = sums[found[-1].replace("position", "early")]
            if weight > 0:
                used = value / weight - means[-1]
                out.append(Reading("in-context use", used, "nats/token", out[-1].weight, "tokens"))
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLogLikelihood(View):
    r"""How well a masked model knows each token from all the others: its nearest thing to a likelihood.

    .. math:: \mathrm{PLL}(W) = \sum_{t} \log p(w_t \mid W \setminus t)

    for each segment W, every ordinary token being masked alone; unknown and special ones are context only. The
    pseudo-perplexity is exp(-PLL / tokens) over all segments. The bits per byte that follow are no code length, and not to
    be compared with a causal model's: each token is told by its future, too.

    Example:
      Three ordinary tokens of 2 bytes between two special ones; equal logits over a vocabulary of 8: the log-likelihood of
      the segment is -3 ln 8 = -6.2383, the pseudo-perplexity 8, and 3 bits stand over 2 bytes.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(embedding_VD=jnp.ones((8, 2)), head=lambda name, hidden: (hidden, jnp.zeros(8)),
      ...                           encode=lambda batch: jnp.zeros((1, 5, 2)))
      >>> batch = {"tokens": jnp.array([[2, 7, 7, 7, 3]]), "segment_ids": jnp.ones((1, 5), jnp.int32),
      ...          "positions": jnp.arange(5)[None], "token_bytes": jnp.array([[0, 2, 2, 2, 0]])}
      >>> from objectives.rows import RowShape
      >>> rows = RowShape(length=5, mask_id=4, first_ordinary_id=7)
      >>> view = PseudoLogLikelihood(objective=MaskedLM().for_rows(rows))
      >>> sums = view(uniform, batch, jax.random.key(0)).metrics
      >>> for reading in view.readings({k: (float(s), float(w)) for k, (s, w) in sums.items()}):
      ...     print(reading.name, round(reading.value, 4), reading.weight, reading.of)
      pseudo_log_likelihood -6.2383 1.0 segments
      pseudo_perplexity 8.0 3.0 tokens
      pseudo_bits_per_byte 1.5 6.0 bytes

    Reference:
      Salazar et al., Masked Language Model Scoring, arXiv 1910.14659, equation 1, and the pseudo-perplexity that it
      derives from it.
    """

    name: ClassVar[str] = "pseudo_log_likelihood"
    on_request: ClassVar[bool] = True

    def reads(self) -> tuple[str, ...]:
        """The size of each token."""
        return ("token_bytes",)

    def refusal(self, offered: Collection[str]) -> str:
        """It needs a model that predicts masked tokens."""
        if _find(self.objective, MaskedLM) is None:
            return f"it masks one token at a time, which needs MaskedLM, but the objective is {_named(self.objective)}"
        return super().refusal(offered)

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """The same nats over segments, tokens and bytes."""
        masked_lm = _part(self.objective, MaskedLM)
        losses = pseudo_losses(masked_lm, network, batch)
        nll_sum, tokens = jnp.sum(losses.nll_BL), jnp.sum(losses.weights_BL)
        member_BLG = membership(batch["segment_ids"], masked_lm.rows.max_segments)
        present_BG = jnp.any(member_BLG & (losses.weights_BL > 0)[..., None], axis=1)
        return LossOut(
            {},
            {
                "pseudo_log_likelihood": (-nll_sum, jnp.sum(present_BG).astype(jnp.float32)),
                "pseudo_nll": (nll_sum, tokens),
                "pseudo_bits_per_byte": _bits_and_bytes(losses, batch),
            },
        )

    def readings(self, sums: HostSums) -> list[Reading]:
        """Mean over segments, pseudo-perplexity, bits per byte."""
        (total, segments), (nll, tokens), (bits, size) = (
            sums[name] for name in ("pseudo_log_likelihood", "pseudo_nll", "pseudo_bits_per_byte")
        )
        if not (tokens > 0 and size > 0):
            return []
        return [
            Reading("pseudo_log_likelihood", total / segments, "nats/segment", segments, "segments"),
            Reading("pseudo_perplexity", math.exp(nll / tokens), "per token", tokens, "tokens"),
            Reading("pseudo_bits_per_byte", bits / size, "bits/byte", size, "bytes"),
        ]


VIEWS: tuple[type[View], ...] = (OwnLoss, BitsPerByte, PerPosition, PseudoLogLikelihood)


def choose(names: Sequence[str], objective: Objective, offered: Collection[str]) -> list[View]:
    """The views of these names; without names all that apply and cost about one encode.

    Raises:
      ValueError: there is no such view, or it does not apply; the message names it and says why.

    Example:
      >>> [view.name for view in choose([], CausalLM(), ["token_bytes"])]
      ['objective', 'bits_per_byte', 'per_position']
      >>> [view.name for view in choose([], MaskedLM(), ["token_bytes"])]
      ['objective']
    """
    views = {kind.name: kind(objective=objective) for kind in VIEWS}
    for name in names:
        if name not in views:
            near = difflib.get_close_matches(name, views, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no view {name!r}, only {', '.join(views)}{hint}")
        if reason := views[name].refusal(offered):
            raise ValueError(f"the view {name} does not apply here: {reason}")
    if names:
        return [views[name] for name in dict.fromkeys(names)]
    return [view for view in views.values() if not view.on_request and not view.refusal(offered)]


def _bits_and_bytes(losses: TokenLosses, batch: Batch) -> tuple[jax.Array, jax.Array]:
    size = jnp.sum(losses.weights_BL * batch["token_bytes"])
    return jnp.sum(losses.nll_BL) / math.log(2), size


def _find(objective: Objective, kind: type[Kind]) -> Kind | None:
    """The objective itself, or the first part of a mixture or choice, that is of this kind."""
    if isinstance(objective, kind):
        return objective
    if isinstance(objective, Mixture):
        found = (_find(part, kind) for _, part, _ in objective.parts)
        return next((part for part in found if part is not None), None)
    return None


def _part(objective: Objective, kind: type[Kind]) -> Kind:
    found = _find(objective, kind)
    if found is None:
        raise ValueError(f"there is no {kind.__name__} in {_named(objective)}")
    return found


def _language_model(objective: Objective) -> CausalLM:
    # What predicts several tokens ahead is a plain language model in its first prediction.
    return CausalLM() if _find(objective, MultiToken) is not None else _part(objective, CausalLM)


def _named(objective: Objective) -> str:
    if isinstance(objective, Mixture):
        return f"a {type(objective).__name__.lower()} of {' and '.join(_named(part) for _, part, _ in objective.parts)}"
    return type(objective).__name__


def _needs_next_tokens(objective: Objective) -> str:
    if _find(objective, CausalLM) is not None or _find(objective, MultiToken) is not None:
        return ""
    other = "" if _find(objective, MaskedLM) is None else "; pseudo_log_likelihood is for masked models"
    return f"it needs each token's probability given those before it, but the objective is {_named(objective)}{other}"
