"""Masked language modelling with dynamic masking (BERT, RoBERTa). Knows no data source, loop or mesh.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1), P scored
positions of a row, D model width, V vocabulary.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from model.config import TransformerConfig
from model.heads import MaskedLMHead
from model.network import BoundNetwork
from objectives.base import Batch, Corrupted, LossOut, Objective, Scored
from objectives.cross_entropy import cross_entropy
from objectives.masking import (
    choose_spans,
    choose_tokens,
    first_tokens,
    gather_scored,
    most_scored,
    scored_counts,
    share_of_bits,
    span_words,
    written,
)
from objectives.randomness import token_bits
from objectives.segments import nan_if_crowded

BERT_CAP = 20 / 128
RATES = 32
"""Steps of a schedule of the masking rate: each has exact counts of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Objective):
    r"""Predict a random 15% of the tokens from the rest.

    .. math:: \sum_{i \in M} -\log \mathrm{softmax}(E\, h_i + c)_{x_i}, \qquad
              |M_s| = \min(\lceil \text{cap\_rate} \cdot \mathrm{len}_s \rceil,
                           \max(1, \mathrm{round}(\text{rate} \cdot n_s)))

    per segment s with n_s ordinary tokens (ids from first_ordinary_id up), M_s drawn uniformly without
    replacement; a segment with no ordinary token has none. With unit "word" whole words are drawn, with "span"
    runs of words, and M_s is filled as far as whole words fit (`objectives.masking`). The rate may go from `rate`
    to `final_rate` in `RATES` equal steps over the first `rate_examples` examples. Of the scored tokens 80%
    are replaced by the mask, 10% by a uniform ordinary token, 10% are kept. h is the head's transform of the
    hidden state, E the tied token table. Masking is drawn from the step and the identity of each token
    (`objectives.randomness`), or from the latter alone (`fixed_masks`).

    Only the scored positions pass the head and the vocabulary projection: they are gathered into P columns, P
    being the largest number that any packing of a row can need, so none is ever dropped. A batch with more
    packed segments than `max_segments` would break that promise: its loss is NaN, which stops the run before
    the update.

    Terms:
      nll: nats, weighted by scored tokens.

    Metrics:
      accuracy: share of scored tokens whose largest logit is right.

    Example:
      One row of 4 ordinary tokens (7, 7, 7, 7), rate 0.5: 2 are scored. With a network whose logits are all
      equal over a vocabulary of 8 the loss is 2 ln 8 = 4.1589 over weight 2.

      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> uniform = SimpleNamespace(config=SimpleNamespace(vocab_size=8), embedding_VD=jnp.ones((8, 2)),
      ...                           encode=lambda tokens, batch: jnp.zeros((1, 4, 2)),
      ...                           head=lambda name, hidden: (hidden, jnp.zeros(8)))
      >>> batch = {"tokens": jnp.full((1, 4), 7), "segment_ids": jnp.ones((1, 4), jnp.int32),
      ...          "positions": jnp.arange(4)[None], "example_ids": jnp.array([0])}
      >>> objective = MaskedLM(mask_id=4, max_segments=1, rate=0.5, cap_rate=1.0)
      >>> loss_sum, weight_sum = objective(uniform, batch, jax.random.key(0)).terms["nll"]
      >>> round(float(loss_sum), 4), float(weight_sum)
      (4.1589, 2.0)

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 3.1 and appendix A.1; Liu et al., RoBERTa, arXiv
      1907.11692, section 4.1 (dynamic masking); whole words: google-research/bert, 2019;
      spans: Joshi et al., SpanBERT, arXiv 1907.10529, section 3.1 (without its boundary objective);
      schedule: Ankner et al., arXiv 2305.15096.
    """

    mask_id: int
    """Id of the mask token."""
    max_segments: int
    """Most packed segments in one row (G); the data must be packed with the same limit."""
    unit: Literal["token", "word", "span"] = "token"
    """What is scored together: single tokens, whole words, or spans of whole words whose tokens share one fate."""
    rate: float = 0.15
    """Share of a segment's ordinary tokens that is scored."""
    final_rate: float | None = None
    """Rate after `rate_examples` examples; None keeps the rate. Held-out rows are numbered from 0 and have about `rate`."""
    rate_examples: int = 0
    """Training examples (steps x batch size) over which the rate goes to its final value."""
    cap_rate: float | None = None
    """At most ceil(cap_rate x length of the segment, specials included) are scored; None takes BERT's (20 of 128, 80 of
    512), or the rate where that is larger."""
    mask_share: float = 0.8
    """Share of the scored tokens that is replaced by the mask."""
    random_share: float = 0.1
    """Share of the scored tokens that is replaced by a random ordinary token; the rest is kept."""
    fixed_masks: int = 0
    """0 masks anew in every step; n fixes n maskings of each example, of which every step takes one (BERT: 10)."""
    first_ordinary_id: int = 7
    """Ids below are special: never scored, never drawn as random tokens."""
    gather: bool = True
    """Score only the gathered positions. False projects every position onto the vocabulary: for
    benchmarks."""

    def __post_init__(self) -> None:
        """Refuse shares that cannot be."""
        if not 0 < self.rate <= 1 or not 0 < self.cap <= 1:
            raise ValueError(f"rate {self.rate} and cap_rate {self.cap_rate} must lie in (0, 1]")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must not exceed 1 in sum"
            )
        if (self.final_rate is None) != (self.rate_examples == 0) or self.rate_examples < 0:
            raise ValueError(
                f"final_rate {self.final_rate} and rate_examples {self.rate_examples} are a schedule together or nothing"
            )
        if self.final_rate is not None and not 0 < self.final_rate <= 1:
            raise ValueError(f"final_rate {self.final_rate} must lie in (0, 1]")
        if self.max_segments < 1 or self.fixed_masks < 0:
            raise ValueError(
                f"max_segments {self.max_segments} must not be below 1, nor fixed_masks {self.fixed_masks} below 0"
            )

    @property
    def cap(self) -> float:
        """`cap_rate`, or what stands for None."""
        return max(BERT_CAP, *self._rates()) if self.cap_rate is None else self.cap_rate

    def reads(self) -> tuple[str, ...]:
        """Whole words need to know where words start."""
        return () if self.unit == "token" else ("word_starts",)

    def segment_limit(self) -> int | None:
        """As many as it was made for."""
        return self.max_segments

    def heads(self, config: TransformerConfig) -> tuple[tuple[str, nn.Module], ...]:
        """BERT's transform, and the bias over the vocabulary."""
        return (("masked_lm", MaskedLMHead(config)),)

    def coefficients(self) -> dict[str, float]:
        """One term."""
        return {"nll": 1.0}

    def initial_loss(self, config: TransformerConfig) -> dict[str, float]:
        """Uniform over the vocabulary."""
        return {"nll": math.log(config.vocab_size)}

    def check(self, config: TransformerConfig, length: int) -> None:
        """The vocabulary must hold the mask and something to predict; the backbone must look both ways."""
        self.refuse_causal(config, "predicts a masked token from both sides")
        if not 0 <= self.mask_id < config.vocab_size:
            raise ValueError(f"mask_id {self.mask_id} is outside the vocabulary of {config.vocab_size}")
        if self.mask_id >= self.first_ordinary_id:
            raise ValueError(
                f"mask_id {self.mask_id} is not below first_ordinary_id {self.first_ordinary_id}"
            )
        if self.first_ordinary_id >= config.vocab_size:
            raise ValueError(
                f"first_ordinary_id {self.first_ordinary_id} leaves no ordinary token in a vocabulary of "
                f"{config.vocab_size}"
            )

    def corrupt(self, config: TransformerConfig, batch: Batch, rng: jax.Array) -> Corrupted:
        """Choose and replace; the plan has positions, targets and weights of scored tokens, each [B, P]."""
        tokens_BL = batch["tokens"]
        if self.fixed_masks:
            chosen = jax.random.randint(rng, (), 0, self.fixed_masks)
            rng = jax.random.fold_in(jax.random.key(0), chosen)
        order_BL, action_BL, word_BL, *lengths = jnp.unstack(
            token_bits(rng, batch, 4 if self.unit == "span" else 3), axis=-1
        )
        positions_BP, weights_BP, owner_BL = self._choose(batch, order_BL, lengths)
        if owner_BL is not None:
            action_BL = jnp.take_along_axis(action_BL, owner_BL, axis=1)

        targets_BP, action_BP, word_BP = (
            jnp.take_along_axis(x_BL, positions_BP, axis=1) for x_BL in (tokens_BL, action_BL, word_BL)
        )
        ordinary = config.vocab_size - self.first_ordinary_id
        # The remainder favours small ids by less than V / 2^32.
        random_BP = self.first_ordinary_id + (word_BP % np.uint32(ordinary)).astype(tokens_BL.dtype)
        new_BP = jnp.where(
            action_BP < share_of_bits(self.mask_share),
            self.mask_id,
            jnp.where(action_BP < share_of_bits(self.mask_share + self.random_share), random_BP, targets_BP),
        )
        return Corrupted(
            written(tokens_BL, positions_BP, weights_BP > 0, new_BP),
            {"positions": positions_BP, "targets": targets_BP, "weights": weights_BP},
        )

    def scored(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> Scored:
        """The original tokens at the scored positions."""
        positions_BP, targets_BP, weights_BP = (
            corrupted.plan[k] for k in ("positions", "targets", "weights")
        )
        if self.gather:
            hidden_BPD = jnp.take_along_axis(hidden_BLD, positions_BP[..., None], axis=1)
        else:
            hidden_BPD, targets_BP = hidden_BLD, batch["tokens"]
            rows_B1 = jnp.arange(hidden_BLD.shape[0])[:, None]
            weights_BP = jnp.zeros(targets_BP.shape, jnp.float32).at[rows_B1, positions_BP].add(weights_BP)
        transformed_BPD, bias_V = network.head("masked_lm", hidden_BPD)
        return Scored(transformed_BPD, network.embedding_VD, bias_V, targets_BP, weights_BP)

    def score(
        self, network: BoundNetwork, hidden_BLD: jax.Array, batch: Batch, corrupted: Corrupted
    ) -> LossOut:
        """Cross-entropy at the scored positions."""
        out = cross_entropy(*self.scored(network, hidden_BLD, batch, corrupted))
        weight_sum = jnp.sum(corrupted.plan["weights"])
        loss_sum = nan_if_crowded(out.loss_sum, batch["segment_ids"], self.max_segments)
        return LossOut({"nll": (loss_sum, weight_sum)}, {"accuracy": (out.correct_sum, weight_sum)})

    def corruption_claims(
        self, config: TransformerConfig, batch: Batch, corrupted: Corrupted
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """What became of the scored tokens, and which random tokens were drawn."""
        plan, before_BL = corrupted.plan, batch["tokens"]
        new_BP = jnp.take_along_axis(corrupted.tokens_BL, plan["positions"], axis=1)
        ordinary = config.vocab_size - self.first_ordinary_id
        masked_BP, kept_BP = new_BP == self.mask_id, new_BP == plan["targets"]
        outcome_3BP = jnp.stack([masked_BP, ~masked_BP & ~kept_BP, kept_BP])
        observed_3 = jnp.sum(outcome_3BP * plan["weights"][None], axis=(1, 2))
        changed = self.random_share * (1 - 1 / ordinary)
        shares_3 = jnp.array([self.mask_share, changed, 1 - self.mask_share - changed])

        def histogram(x: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.zeros(config.vocab_size).at[x.reshape(-1)].add(weights.reshape(-1))

        # A random token that equals the original looks kept, so each original is missing from its own draws.
        replaced_BP = outcome_3BP[1] * plan["weights"]
        drawn_V = histogram(new_BP, replaced_BP)
        own_V = histogram(plan["targets"], replaced_BP)
        candidates_V = jnp.arange(config.vocab_size) >= self.first_ordinary_id
        expected_V = candidates_V * (jnp.sum(own_V) - own_V) / (ordinary - 1)
        touched_BL = (corrupted.tokens_BL != before_BL) & (before_BL < self.first_ordinary_id)
        special_2 = jnp.array([jnp.sum(touched_BL), jnp.sum(~touched_BL)], jnp.float32)
        claims = {
            "random tokens": (drawn_V, expected_V),
            "special tokens touched": (special_2, jnp.array([0.0, before_BL.size])),
        }
        if self.unit != "span":
            # The tokens of a span share one fate, so their counts scatter more widely than chi-square knows.
            claims["mask, random, keep"] = (observed_3, shares_3 * jnp.sum(observed_3))
        if self.unit != "token":
            claims["words scored in part"] = self._broken_words(batch, plan)
        return claims

    def _broken_words(self, batch: Batch, plan: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(words of which some tokens are scored and some are not, other words), and what is expected."""
        B, L = batch["tokens"].shape
        ordinary_BL = self.ordinary(batch)
        first_BL = first_tokens(batch["word_starts"], batch["segment_ids"], ordinary_BL)
        word_BL = jnp.cumsum(first_BL, axis=1)
        rows_B1 = jnp.arange(B)[:, None]
        scored_BL = jnp.zeros((B, L)).at[rows_B1, plan["positions"]].add(plan["weights"])
        empty_BW = jnp.zeros((B, L + 1))
        tokens_BW = empty_BW.at[rows_B1, word_BL].add(ordinary_BL)
        scored_BW = empty_BW.at[rows_B1, word_BL].add(scored_BL)
        words, broken = jnp.sum(tokens_BW > 0), jnp.sum((scored_BW > 0) & (scored_BW != tokens_BW))
        return jnp.stack([broken, words - broken]).astype(jnp.float32), jnp.stack([0.0 * words, 1.0 * words])

    def scored_positions(self, length: int) -> int:
        """P: the most positions that a row of this length can score, whatever is packed in it."""
        return most_scored(max(self._rates()), self.cap, length, self.max_segments)

    def _rates(self) -> tuple[float, ...]:
        """Every rate that an example can have, in the order of the examples."""
        if self.final_rate is None:
            return (self.rate,)
        share_K = np.arange(RATES + 1) / RATES
        return tuple(float(x) for x in self.rate + share_K * (self.final_rate - self.rate))

    def _rate_of(self, example_ids_B: jax.Array) -> jax.Array:
        """Which of the rates each row has, int32 [B]."""
        if self.final_rate is None:
            return jnp.zeros_like(example_ids_B)
        # Thresholds, because a product with the example's number would exceed 32 bits.
        starts_K = np.array([-(-self.rate_examples * k // RATES) for k in range(1, RATES + 1)], np.int32)
        return jnp.sum(example_ids_B[:, None] >= jnp.asarray(starts_K)[None], axis=1, dtype=jnp.int32)

    def ordinary(self, batch: Batch) -> jax.Array:
        """Bool [B, L]: what may be scored."""
        return (batch["tokens"] >= self.first_ordinary_id) & (batch["segment_ids"] > 0)

    def _choose(
        self, batch: Batch, order_BL: jax.Array, lengths: list[jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Positions [B, P], weights [B, P] and, for spans, which token's fate each token shares [B, L]."""
        segment_ids_BL, ordinary_BL = batch["segment_ids"], self.ordinary(batch)
        counts_BG = scored_counts(
            segment_ids_BL,
            ordinary_BL,
            self._rate_of(batch["example_ids"]),
            rates=np.array(self._rates()),
            cap_rate=self.cap,
            max_segments=self.max_segments,
        )
        columns = self.scored_positions(segment_ids_BL.shape[1])
        if self.unit == "token":
            return *choose_tokens(segment_ids_BL, ordinary_BL, order_BL, counts_BG, columns), None
        first_BL = first_tokens(batch["word_starts"], segment_ids_BL, ordinary_BL)
        words_BL = span_words(lengths[0]) if lengths else jnp.ones_like(segment_ids_BL)
        scored_BL, owner_BL = choose_spans(
            segment_ids_BL, first_BL, ordinary_BL, order_BL, words_BL, counts_BG
        )
        return *gather_scored(scored_BL, columns), owner_BL if lengths else None


def example() -> MaskedLM:
    """For the property suite: a vocabulary of some dozens, three packed segments."""
    return MaskedLM(mask_id=4, max_segments=3)
