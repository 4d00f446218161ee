"""Which tokens a masked language model scores, and what it reads in their place.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1), P scored positions of a
row, V vocabulary.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from model.ranges import NOT_NEGATIVE, SHARE, Range, check_ranges
from objectives.base import Batch, Corrupted
from objectives.claims import DeviceCounts, Premises
from objectives.randomness import token_bits
from objectives.rows import RowShape
from objectives.whole_words import choose_spans, first_tokens, gather_scored

BERT_CAP = 20 / 128
LONGEST_SPAN = 10
STOP = 0.2
"""Span lengths in words are geometric with this chance to stop, cut at the longest and renormalised: 3.8 words on average
(Joshi et al., SpanBERT, arXiv 1907.10529, section 3.1)."""
RATES = 32
"""Steps of a schedule of the masking rate: each has exact counts of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """How many tokens of a segment are scored, which ones, and what is read in their place."""

    unit: Literal["token", "word", "span"] = "token"
    """What is scored together: single tokens, whole words, or spans of whole words whose tokens share one fate."""
    rate: Annotated[float, Range(above=0, most=1)] = 0.15
    """Share of a segment's ordinary tokens that is scored."""
    final_rate: Annotated[float | None, Range(above=0, most=1)] = None
    """Rate after `rate_examples` examples; None keeps the rate. Held-out rows are numbered from 0 and have about `rate`."""
    rate_examples: Annotated[int, NOT_NEGATIVE] = 0
    """Training examples (steps x batch size) over which the rate goes to its final value."""
    cap_rate: Annotated[float | None, Range(above=0, most=1)] = None
    """At most ceil(cap_rate x length of the segment, specials included) are scored; None takes BERT's (20 of 128, 80 of
    512), or the rate where that is larger."""
    mask_share: Annotated[float, SHARE] = 0.8
    """Share of the scored tokens that is replaced by the mask."""
    random_share: Annotated[float, SHARE] = 0.1
    """Share of the scored tokens that is replaced by a random ordinary token; the rest is kept."""
    fixed_masks: Annotated[int, NOT_NEGATIVE] = 0
    """0 masks anew in every step; n fixes n maskings of each example, of which every step takes one (BERT: 10)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share {self.mask_share} and random_share {self.random_share} must not exceed 1 in sum"
            )
        if (self.final_rate is None) != (self.rate_examples == 0):
            raise ValueError(
                f"final_rate {self.final_rate} and rate_examples {self.rate_examples} are a schedule together or nothing"
            )

    @property
    def cap(self) -> float:
        """`cap_rate`, or what stands for None."""
        return max(BERT_CAP, *self._rates()) if self.cap_rate is None else self.cap_rate

    @property
    def draws(self) -> int:
        """How many of a token's random numbers it takes."""
        return 4 if self.unit == "span" else 3

    def reads(self) -> tuple[str, ...]:
        """Whole words need to know where words start."""
        return () if self.unit == "token" else ("word_starts",)

    def check(self, rows: RowShape, config: Any, who: object) -> None:
        """Raise ValueError unless the vocabulary holds the mask and something to predict."""
        rows.require(who, "mask_id")
        if not rows.mask_id < rows.first_ordinary_id < config.vocab_size:
            raise ValueError(
                f"mask_id {rows.mask_id} must be below first_ordinary_id {rows.first_ordinary_id}, and that in the "
                f"vocabulary of {config.vocab_size}"
            )

    def mask(self, rows: RowShape, vocab_size: int, batch: Batch, rng: jax.Array) -> Corrupted:
        """Choose and replace.

        Returns:
          The batch with other tokens, and the plan: positions int32, targets int32 and weights float32 of what is scored,
          each [B, P], in P columns, the largest number that any packing of a row can need; and `crowded`, bool: whether a
          row holds more segments than that counts with, so that what is not scored must not pass for scored.
        """
        tokens_BL = batch["tokens"]
        if self.fixed_masks:
            chosen = jax.random.randint(rng, (), 0, self.fixed_masks)
            rng = jax.random.fold_in(jax.random.key(0), chosen)
        order_BL, action_BL, word_BL, *lengths = jnp.unstack(token_bits(rng, batch, self.draws), axis=-1)
        positions_BP, weights_BP, owner_BL = self._choose_positions(rows, batch, order_BL, lengths)
        if owner_BL is not None:
            action_BL = jnp.take_along_axis(action_BL, owner_BL, axis=1)

        targets_BP, action_BP, word_BP = (
            jnp.take_along_axis(x_BL, positions_BP, axis=1) for x_BL in (tokens_BL, action_BL, word_BL)
        )
        ordinary = vocab_size - rows.first_ordinary_id
        # The remainder favours small ids by less than V / 2^32.
        random_BP = rows.first_ordinary_id + (word_BP % np.uint32(ordinary)).astype(tokens_BL.dtype)
        new_BP = jnp.where(
            action_BP < share_of_bits(self.mask_share),
            rows.mask_id,
            jnp.where(action_BP < share_of_bits(self.mask_share + self.random_share), random_BP, targets_BP),
        )
        read = {**batch, "tokens": written(tokens_BL, positions_BP, weights_BP > 0, new_BP)}
        crowded = jnp.max(batch["segment_ids"]) > rows.max_segments
        plan = {"positions": positions_BP, "targets": targets_BP, "weights": weights_BP, "crowded": crowded}
        return Corrupted(read, plan)

    def scored_positions(self, length: int, max_segments: int) -> int:
        """P: the most positions that a row of this length can score, whatever is packed in it."""
        return most_scored(max(self._rates()), self.cap, length, max_segments)

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

    def _choose_positions(
        self, rows: RowShape, batch: Batch, order_BL: jax.Array, lengths: list[jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Positions [B, P], weights [B, P] and, for spans, which token's fate each token shares [B, L]."""
        segment_ids_BL, ordinary_BL = batch["segment_ids"], ordinary_tokens(rows, batch)
        counts_BG = scored_counts(
            segment_ids_BL,
            ordinary_BL,
            self._rate_of(batch["example_ids"]),
            rates=np.array(self._rates()),
            cap_rate=self.cap,
            max_segments=rows.max_segments,
        )
        columns = self.scored_positions(segment_ids_BL.shape[1], rows.max_segments)
        if self.unit == "token":
            return *choose_tokens(segment_ids_BL, ordinary_BL, order_BL, counts_BG, columns), None
        first_BL = first_tokens(batch["word_starts"], segment_ids_BL, ordinary_BL)
        words_BL = span_words(lengths[0]) if lengths else jnp.ones_like(segment_ids_BL)
        scored_BL, owner_BL = choose_spans(
            segment_ids_BL, first_BL, ordinary_BL, order_BL, words_BL, counts_BG
        )
        return *gather_scored(scored_BL, columns), owner_BL if lengths else None

    def premises(self) -> Premises:
        """What it keeps of the scored tokens, and whether steps repeat its masks."""
        kept = max(0.0, 1 - self.mask_share - self.random_share)
        return Premises(answers_shown=kept, repeats_draws=self.fixed_masks > 0)

    def claims(self, rows: RowShape, vocab_size: int, batch: Batch, corrupted: Corrupted) -> DeviceCounts:
        """What became of the scored tokens, and which random tokens were drawn: (observed, expected) counts."""
        plan, before_BL, after_BL = corrupted.plan, batch["tokens"], corrupted.batch["tokens"]
        new_BP = jnp.take_along_axis(after_BL, plan["positions"], axis=1)
        ordinary = vocab_size - rows.first_ordinary_id
        masked_BP, kept_BP = new_BP == rows.mask_id, new_BP == plan["targets"]
        outcome_3BP = jnp.stack([masked_BP, ~masked_BP & ~kept_BP, kept_BP])
        observed_3 = jnp.sum(outcome_3BP * plan["weights"][None], axis=(1, 2))
        changed = self.random_share * (1 - 1 / ordinary)
        shares_3 = jnp.array([self.mask_share, changed, 1 - self.mask_share - changed])

        def histogram(x: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.zeros(vocab_size).at[x.reshape(-1)].add(weights.reshape(-1))

        # A random token that equals the original looks kept, so each original is missing from its own draws.
        replaced_BP = outcome_3BP[1] * plan["weights"]
        drawn_V = histogram(new_BP, replaced_BP)
        own_V = histogram(plan["targets"], replaced_BP)
        candidates_V = jnp.arange(vocab_size) >= rows.first_ordinary_id
        expected_V = candidates_V * (jnp.sum(own_V) - own_V) / (ordinary - 1)
        touched_BL = (after_BL != before_BL) & (before_BL < rows.first_ordinary_id)
        special_2 = jnp.array([jnp.sum(touched_BL), jnp.sum(~touched_BL)], jnp.float32)
        claims = {
            "random tokens": (drawn_V, expected_V),
            "special tokens touched": (special_2, jnp.array([0.0, before_BL.size])),
        }
        if self.unit != "span":
            # The tokens of a span share one fate, so their counts scatter more widely than chi-square knows.
            claims["mask, random, keep"] = (observed_3, shares_3 * jnp.sum(observed_3))
        if self.unit != "token":
            claims["words scored in part"] = _broken_words(rows, batch, plan)
        return claims


def ordinary_tokens(rows: RowShape, batch: Batch) -> jax.Array:
    """Bool [B, L]: what may be scored."""
    return (batch["tokens"] >= rows.first_ordinary_id) & (batch["segment_ids"] > 0)


def _broken_words(rows: RowShape, batch: Batch, plan: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """(words of which some tokens are scored and some are not, other words), and what is expected."""
    B, L = batch["tokens"].shape
    ordinary_BL = ordinary_tokens(rows, batch)
    first_BL = first_tokens(batch["word_starts"], batch["segment_ids"], ordinary_BL)
    word_BL = jnp.cumsum(first_BL, axis=1)
    rows_B1 = jnp.arange(B)[:, None]
    scored_BL = jnp.zeros((B, L)).at[rows_B1, plan["positions"]].add(plan["weights"])
    empty_BW = jnp.zeros((B, L + 1))
    tokens_BW = empty_BW.at[rows_B1, word_BL].add(ordinary_BL)
    scored_BW = empty_BW.at[rows_B1, word_BL].add(scored_BL)
    words, broken = jnp.sum(tokens_BW > 0), jnp.sum((scored_BW > 0) & (scored_BW != tokens_BW))
    return jnp.stack([broken, words - broken]).astype(jnp.float32), jnp.stack([0.0 * words, 1.0 * words])


def scored_counts(
    segment_ids_BL: jax.Array,
    ordinary_BL: jax.Array,
    rate_B: jax.Array,
    *,
    rates: np.ndarray,
    cap_rate: float,
    max_segments: int,
) -> jax.Array:
    """Tokens to score of each segment, int32 [B, G]; rate_B says which of the rates each row has, int32 [B]."""
    member_BLG = segment_ids_BL[..., None] == jnp.arange(1, max_segments + 1)[None, None, :]
    lengths_BG = jnp.sum(member_BLG, axis=1)
    ordinary_BG = jnp.sum(member_BLG & ordinary_BL[..., None], axis=1)
    tables = [count_tables(float(rate), cap_rate, segment_ids_BL.shape[1]) for rate in rates]
    wanted = jnp.asarray(np.stack([wanted for wanted, _ in tables]))
    return jnp.minimum(wanted[rate_B[:, None], ordinary_BG], jnp.asarray(tables[0][1])[lengths_BG])


def choose_tokens(
    segment_ids_BL: jax.Array, ordinary_BL: jax.Array, order_BL: jax.Array, counts_BG: jax.Array, columns: int
) -> tuple[jax.Array, jax.Array]:
    """Of each segment the ordinary tokens with the smallest bits.

    Returns:
      Positions int32 [B, P] and weights float32 [B, P], 0 where a column is not used; P is `columns`.
    """
    B, L = segment_ids_BL.shape
    G = counts_BG.shape[1]
    # Ordinary tokens sorted by (segment, bits), all others behind them.
    group_BL = jnp.where(ordinary_BL, segment_ids_BL, L + 1)
    index_BL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32)[None], (B, L))
    _, _, sorted_BL = jax.lax.sort((group_BL, order_BL, index_BL), num_keys=2)
    groups_G = jnp.arange(1, G + 1)
    # Where a segment starts there.
    before_BG = jnp.sum(group_BL[..., None] < groups_G[None, None, :], axis=1)

    # Column p belongs to the segment in whose share of the running total it falls.
    ends_BG = jnp.cumsum(counts_BG, axis=1)
    column_P = jnp.arange(columns)
    segment_BP = jnp.sum(column_P[None, :, None] >= ends_BG[:, None, :], axis=-1)
    used_BP = segment_BP < G
    segment_BP = jnp.minimum(segment_BP, G - 1)
    rank_BP = column_P[None] - jnp.take_along_axis(ends_BG - counts_BG, segment_BP, axis=1)
    place_BP = jnp.take_along_axis(before_BG, segment_BP, axis=1) + rank_BP
    positions_BP = jnp.take_along_axis(sorted_BL, jnp.where(used_BP, place_BP, 0), axis=1)
    return positions_BP, used_BP.astype(jnp.float32)


def written(x_BL: jax.Array, positions_BP: jax.Array, used_BP: jax.Array, values_BP: jax.Array) -> jax.Array:
    """These values put at these positions of x; a column that is not used points at some token, which stays as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> written(jnp.array([[7, 8, 9]]), jnp.array([[2, 0]]), jnp.array([[True, False]]), jnp.array([[4, 4]])).tolist()
      [[7, 8, 4]]
    """
    B, L = x_BL.shape
    where_BP = jnp.where(used_BP, positions_BP, L)
    return x_BL.at[jnp.arange(B)[:, None], where_BP].set(values_BP, mode="drop")


def count_tables(rate: float, cap_rate: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(wanted, cap) for 0..length tokens. Tables, so that host and device cannot round apart."""
    n = np.arange(length + 1)
    wanted = np.where(n > 0, np.maximum(1, np.round(rate * n)), 0).astype(np.int32)
    # Without the small number 0.1 x 10 could become 2.
    cap = np.ceil(cap_rate * n - 1e-9).astype(np.int32)
    return wanted, cap


@functools.lru_cache
def most_scored(rate: float, cap_rate: float, length: int, segments: int) -> int:
    """The largest sum of counts over at most `segments` segments of at most `length` tokens in all.

    Rounding makes several short segments score more than one long one, so this is a knapsack; `shortest[k]`
    is the least total length at which k positions are scored, and the table for twice as many segments is its
    (min, +) square.
    """
    wanted, cap = count_tables(rate, cap_rate, length)
    best = np.minimum(wanted, cap)
    size = min(length, int(best.max()) * segments)
    one = np.full(size + 1, length + 1)
    for n in range(length, -1, -1):
        one[best[n]] = n

    def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([np.min(a[: k + 1] + b[k::-1]) for k in range(size + 1)])

    shortest, power = one, one
    remaining = segments - 1
    while remaining:
        if remaining & 1:
            shortest = join(shortest, power)
        power = join(power, power)
        remaining >>= 1
    return int(np.flatnonzero(shortest <= length).max())


def span_words(bits_BL: jax.Array) -> jax.Array:
    """Length in words of the span that starts at each token, int32 [B, L]."""
    chances = (1 - STOP) ** np.arange(LONGEST_SPAN)
    thresholds = [share_of_bits(share) for share in np.cumsum(chances / chances.sum())[:-1]]
    return 1 + jnp.sum(bits_BL[..., None] >= jnp.asarray(thresholds)[None, None], axis=-1, dtype=jnp.int32)


def share_of_bits(share: float) -> np.uint32:
    """Uniform 32-bit numbers below this are a share of them."""
    return np.uint32(min(round(share * 2**32), 2**32 - 1))
