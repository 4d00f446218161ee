"""The contract of every loss: named sums with weights, never means.

What rows an objective makes is in `objectives.rows`, what only the checker asks in `objectives.claims`.
Shape suffixes: B rows of a batch, L tokens of a row, P scored positions of a row, D model width, V vocabulary.
"""

import copy
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import jax
import tyro
from flax import linen as nn

from model.network import BoundNetwork
from model.ranges import check_ranges
from objectives.claims import NOTHING, Claims
from objectives.rows import NotTold, RowMaker, RowShape

Batch = Mapping[str, jax.Array]
Mode = Literal["max", "min"]
Family = Literal["encoder", "decoder", "encoder_decoder"]
SumAndWeight = tuple[jax.Array, jax.Array]
Heads = tuple[tuple[str, nn.Module], ...]


class LossOut(NamedTuple):
    """What an objective returns: float32 scalars. Terms and metrics may be added over any split of the rows."""

    terms: dict[str, SumAndWeight]
    """name -> (loss summed over what is scored, in nats; weight of what was scored)."""
    metrics: dict[str, SumAndWeight]
    """name -> (sum, weight) of what is only watched."""
    penalties: dict[str, jax.Array] = {}
    """name -> a function of parameters alone (distance from an anchor, say), with its factor: added once to the minimised
    sum, however the rows are split."""


class Corrupted(NamedTuple):
    """What the backbone reads in place of the batch, and what `score` needs to know about it."""

    batch: Batch
    plan: dict[str, Any]


class Scored(NamedTuple):
    """What is scored over the vocabulary: the factors of logits = hidden @ embedding.T + bias, and the answers."""

    hidden_BPD: jax.Array
    embedding_VD: jax.Array
    bias_V: jax.Array | None
    targets_BP: jax.Array
    weights_BP: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of all objectives; fields of a subclass are its hyper-parameters.

    Most losses read one encode of the row. They define `score`, and `corrupt` if the backbone shall not read the batch
    as it is; a `Mixture` of such objectives encodes once. One that needs several encodes (contrastive, preference), or a
    decoder, overrides `__call__` instead. One that makes its own rows is a `RowMaker` too, one that says something of
    itself has `Claims`.

    Weights in `LossOut` may depend on batch and rng, never on parameters or hidden states: the step asks for
    the weights alone first and relies on the compiler to remove the model from that call.
    """

    # Decides, as all fields do, whether two objectives are equal; it is no setting, so no command line shows it.
    _told: Annotated[Any, tyro.conf.Suppress] = dataclasses.field(default=None, init=False, repr=False)
    rows = NotTold()
    """What the rows of the run are, once `for_rows` has told it."""

    additive: ClassVar[bool] = True
    """Whether the loss is a sum over rows. What would split the batch of one that is not refuses it."""
    companions: ClassVar[tuple[str, ...]] = ()
    """Names of frozen networks that it reads as network.companion[name]; an experiment names a run for each."""
    metric_modes: ClassVar[Mapping[str, Mode]] = MappingProxyType({"accuracy": "max"})
    """Whether more or less of a metric is better, by its name: what chooses a best checkpoint. Of a term less is."""
    family: ClassVar[Family] = "encoder"
    """The backbones it makes sense on: bidirectional (encoder), causal (decoder) or both, one reading the other."""

    def __post_init__(self) -> None:
        """Refuse numbers out of the ranges that their fields state."""
        check_ranges(self)

    def __init_subclass__(cls) -> None:
        """Refuse what would look as if it worked, and that nobody would ever call."""
        super().__init_subclass__()
        for base in (RowMaker, Claims):
            asked = {name for name in vars(base) if not name.startswith("_")}
            if (own := sorted(asked & vars(cls).keys())) and not issubclass(cls, base):
                raise TypeError(
                    f"{cls.__name__} defines {own[0]}, which is asked only of a {base.__name__}: write class "
                    f"{cls.__name__}(Objective, {base.__name__}), with {base.__name__} from {base.__module__}"
                )

    def for_rows(self, rows: RowShape) -> Self:
        """The same objective, and every one inside it, told what the rows of the run are."""
        told = copy.copy(self)
        for field in dataclasses.fields(self):
            if field.init:
                object.__setattr__(told, field.name, _tell(getattr(self, field.name), rows))
        for name in ("_told", "rows"):
            object.__setattr__(told, name, rows)
        return told

    def row_maker(self) -> RowMaker | None:
        """What makes its rows; None reads packed ones."""
        return self if isinstance(self, RowMaker) else None

    def claims(self) -> Claims:
        """What it says of itself."""
        return self if isinstance(self, Claims) else NOTHING

    def reads(self) -> tuple[str, ...]:
        """Arrays that it needs and the data can look up for each token: "word_starts" and "token_bytes" (UTF-8 bytes of the
        token's text), each int32 [B, L].
        """
        return ()

    def heads(self, config: Any) -> Heads:
        """The modules it needs on top of a backbone of this config, by name."""
        return ()

    def companion_heads(self, name: str, config: Any) -> Heads:
        """The modules that it reads of that companion, whose backbone has this config; by default its own."""
        return self.heads(config)

    def coefficients(self) -> dict[str, float]:
        """The factor of each term in the minimised sum; its keys are exactly the keys of `LossOut.terms`."""
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients")

    def check(self, config: Any) -> None:
        """Raise ValueError if it cannot work on this backbone, with the rows that it was told of."""
        return None

    def corrupt(self, config: Any, batch: Batch, rng: jax.Array) -> Corrupted:
        """The whole batch that the backbone reads. Randomness comes from `objectives.randomness` only."""
        return Corrupted(batch, {})

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        """What `score` compares with its answers, for losses that compare it with something else (distillation)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it scores")

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """Sums with weights, given the hidden states of what `corrupt` gave."""
        raise NotImplementedError(f"{type(self).__name__} defines neither score nor __call__")

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Corrupt, encode once, score. `rng` is the step's key; example ids are folded in below."""
        corrupted = self.corrupt(network.config, batch, rng)
        return self.score(network, network.encode(corrupted.batch), batch, corrupted)


def _tell(value: Any, rows: RowShape) -> Any:
    """The value with every objective in it told."""
    if isinstance(value, Objective):
        return value.for_rows(rows)
    return tuple(_tell(one, rows) for one in value) if isinstance(value, tuple) else value


def refuse_causal(who: Objective, config: Any, what: str) -> None:
    """For `check`: raise ValueError on a backbone in which tokens see only what stands before them."""
    if config.causal:
        raise ValueError(
            f"{type(who).__name__} {what}, but in the causal backbone {type(config).__name__} a token sees only those "
            "before it"
        )


def refuse_bidirectional(who: Objective, config: Any) -> None:
    """For `check`: raise ValueError on a backbone in which tokens see what they should predict."""
    if not config.causal:
        raise ValueError(f"{type(who).__name__} needs a causal backbone, {type(config).__name__} is not one")
