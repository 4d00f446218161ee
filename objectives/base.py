"""The contract of every loss: named sums with weights, never means. Knows no loop, optimizer, file or mesh.

Shape suffixes: B rows of a batch, L tokens of a row, P scored positions of a row, D model width, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import numpy as np
from flax import linen as nn

from model.config import TransformerConfig
from model.network import BoundNetwork

Batch = Mapping[str, jax.Array]
Row = dict[str, np.ndarray]
Family = Literal["encoder", "decoder", "encoder_decoder"]
SumAndWeight = tuple[jax.Array, jax.Array]


class LossOut(NamedTuple):
    """What an objective returns: float32 scalars that may be added over any split of the rows."""

    terms: dict[str, SumAndWeight]
    """name -> (loss summed over what is scored, in nats; weight of what was scored)."""
    metrics: dict[str, SumAndWeight]
    """name -> (sum, weight) of what is only watched."""


class Corrupted(NamedTuple):
    """What the backbone reads in place of the batch's tokens, and what `score` needs to know about it."""

    tokens_BL: jax.Array
    plan: dict[str, Any]


class Scored(NamedTuple):
    """What is scored over the vocabulary: the factors of logits = hidden @ embedding.T + bias, and the answers."""

    hidden_BPD: jax.Array
    embedding_VD: jax.Array
    bias_V: jax.Array | None
    targets_BP: jax.Array
    weights_BP: jax.Array


class Documents(Protocol):
    """Random-access tokenised documents, as `make_example` is given them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Token ids of one document, int32, without special tokens."""

    def hash(self, index: int, /) -> int:
        """Equal for documents of equal (normalised) text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of all objectives; fields of a subclass are its hyper-parameters.

    Most losses read one encode of the row. They define `score`, and `corrupt` if the backbone shall not see
    the tokens as they are; a `Mixture` of such objectives encodes once. A loss whose tokens see
    each other otherwise than the row's layout says defines `hidden_states`; one that needs several encodes
    (contrastive, preference) overrides `__call__` instead.

    Weights in `LossOut` may depend on batch and rng, never on parameters or hidden states: the step asks for
    the weights alone first and relies on the compiler to remove the model from that call.
    """

    additive: ClassVar[bool] = True
    """Whether the loss is a sum over rows. What would split the batch of one that is not refuses it."""
    companions: ClassVar[tuple[str, ...]] = ()
    """Names of frozen networks that it reads as network.companion[name]; an experiment names a run for each."""
    family: ClassVar[Family] = "encoder"
    """The backbones it makes sense on: bidirectional (encoder), causal (decoder) or both, one reading the other."""
    make_example: ClassVar[Any] = None
    """Optional method (docs, index, rng: np.random.Generator) -> Row, a pure function of its arguments.
    Without it the objective reads packed rows."""

    def reads(self) -> tuple[str, ...]:
        """Arrays of a row that it needs beside tokens and layout; the data offers "word_starts" and
        "token_bytes" (UTF-8 bytes of the token's text), each int32 [L].
        """
        return ()

    def reserved_ids(self) -> range:
        """Ids that it takes for itself and that must be in no text (sentinels)."""
        return range(0)

    def segments_per_unit(self) -> int:
        """How many consecutive segments of a row belong together; units never see each other."""
        return 1

    def segment_limit(self) -> int | None:
        """Most packed segments of a row that it can score; None is any number."""
        return None

    def heads(self, config: TransformerConfig) -> tuple[tuple[str, nn.Module], ...]:
        """The modules it needs on top of a backbone of this config, by name."""
        return ()

    def companion_heads(self, name: str, config: TransformerConfig) -> tuple[tuple[str, nn.Module], ...]:
        """The modules that it reads of that companion, whose backbone has this config; by default its own."""
        return self.heads(config)

    def coefficients(self) -> dict[str, float]:
        """The factor of each term in the minimised sum; its keys are exactly the keys of `LossOut.terms`."""
        raise NotImplementedError(f"{type(self).__name__} declares no coefficients")

    def initial_loss(self, config: TransformerConfig) -> dict[str, float]:
        """Closed form of each term (loss_sum / weight_sum) for a network whose logits are all equal."""
        return {}

    def check(self, config: TransformerConfig, length: int) -> None:
        """Raise ValueError if rows of this length on this backbone cannot work."""
        return None

    def refuse_causal(self, config: TransformerConfig, what: str) -> None:
        """For `check`: raise ValueError on a backbone in which tokens see only what stands before them."""
        if config.causal:
            raise ValueError(
                f"{type(self).__name__} {what}, but in the causal backbone {type(config).__name__} a token sees only those "
                "before it"
            )

    def refuse_bidirectional(self, config: TransformerConfig) -> None:
        """For `check`: raise ValueError on a backbone in which tokens see what they should predict."""
        if not config.causal:
            raise ValueError(
                f"{type(self).__name__} needs a causal backbone, {type(config).__name__} is not one"
            )

    def refuse_other_length(self, length: int, own: int) -> None:
        """For `check` of what makes its rows: raise ValueError unless the data's rows are as long."""
        if length != own:
            raise ValueError(
                f"the data's rows have length {length}, the objective makes rows of length {own}; give both the same"
            )

    def check_documents(self, docs: Documents) -> None:
        """Raise ValueError if `make_example` could not serve these documents; called once, at the start."""
        return None

    def example_claims(
        self, docs: Documents, rows: Sequence[Row]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Each claim about rows that `make_example` made of these documents, as (observed, expected) counts."""
        return {}

    def corrupt(self, config: TransformerConfig, batch: Batch, rng: jax.Array) -> Corrupted:
        """What the backbone reads. Randomness comes from `objectives.randomness` only."""
        return Corrupted(batch["tokens"], {})

    def corruption_claims(
        self, config: TransformerConfig, batch: Batch, corrupted: Corrupted
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Each claim about the corruption as (observed counts, expected counts), for a chi-square test."""
        return {}

    def hidden_states(self, network: BoundNetwork, batch: Batch, corrupted: Corrupted) -> jax.Array:
        """What `score` is given, [B, L, D]; an objective that lets tokens see otherwise than the layout says defines it."""
        return network.encode(corrupted.tokens_BL, batch)

    def encodes_plainly(self) -> bool:
        """Whether it scores one encode of the row as the layout says, so that others may score the same one."""
        own = type(self)
        return own.__call__ is Objective.__call__ and own.hidden_states is Objective.hidden_states

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        """What `score` compares with its answers, for losses that compare it with something else (distillation)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it scores")

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """Sums with weights, given the hidden states of the corrupted row."""
        raise NotImplementedError(f"{type(self).__name__} defines neither score nor __call__")

    def __call__(self, network: BoundNetwork, batch: Batch, rng: jax.Array) -> LossOut:
        """Corrupt, encode once, score. `rng` is the step's key; example ids are folded in below."""
        corrupted = self.corrupt(network.config, batch, rng)
        return self.score(network, self.hidden_states(network, batch, corrupted), batch, corrupted)
