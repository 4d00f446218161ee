"""Which tokens a masked language model scores: how many of a segment, and which ones. Knows no network and no loss.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1), P scored positions of a
row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from objectives.segments import membership

LONGEST_SPAN = 10
STOP = 0.2
"""Span lengths in words are geometric with this chance to stop, cut at the longest and renormalised: 3.8 words on average
(Joshi et al., SpanBERT, arXiv 1907.10529, section 3.1)."""


Spans = tuple[jax.Array, jax.Array, jax.Array]
"""(bool [B, L] what is scored, int32 [B, L] the opener of its span, int32 [B, G] how many more tokens fit)."""


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
    member_BLG = membership(segment_ids_BL, max_segments)
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


def first_tokens(word_starts_BL: jax.Array, segment_ids_BL: jax.Array, ordinary_BL: jax.Array) -> jax.Array:
    """Whether an ordinary token opens a word, bool [B, L]: also what a segment or a special token cuts off does."""
    goes_on_BL = (segment_ids_BL[:, 1:] == segment_ids_BL[:, :-1]) & ordinary_BL[:, :-1]
    cut_off_BL = jnp.pad(~goes_on_BL, ((0, 0), (1, 0)), constant_values=True)
    return ordinary_BL & ((word_starts_BL > 0) | cut_off_BL)


def span_words(bits_BL: jax.Array) -> jax.Array:
    """Length in words of the span that starts at each token, int32 [B, L]."""
    chances = (1 - STOP) ** np.arange(LONGEST_SPAN)
    thresholds = [share_of_bits(share) for share in np.cumsum(chances / chances.sum())[:-1]]
    return 1 + jnp.sum(bits_BL[..., None] >= jnp.asarray(thresholds)[None, None], axis=-1, dtype=jnp.int32)


def choose_spans(
    segment_ids_BL: jax.Array,
    first_BL: jax.Array,
    ordinary_BL: jax.Array,
    order_BL: jax.Array,
    words_BL: jax.Array,
    counts_BG: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Whole words, span after span in the order of their bits, until no more fit into the count of their segment.

    A span is the run of `words_BL` words from the token that opens it. It ends with its segment; words that are scored
    already, and those that would exceed the count, are left out. So a segment whose words are all longer than its count has
    none.

    Returns:
      bool [B, L] whether a token is scored, and int32 [B, L] the position that opens its span.
    """
    B, L = segment_ids_BL.shape
    G = counts_BG.shape[1]
    index_BL = jnp.broadcast_to(jnp.arange(L, dtype=jnp.int32)[None], (B, L))
    word_BL = jnp.cumsum(first_BL, axis=1)
    # Last token of each word: where the next position belongs to another word or is no ordinary token.
    last_BL = jnp.pad(first_BL[:, 1:] | ~ordinary_BL[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    reach_BL = jnp.where(last_BL, index_BL, L)
    end_BL = jnp.flip(jax.lax.cummin(jnp.flip(reach_BL, 1), axis=1), 1)
    _, _, openers_BL = jax.lax.sort((~first_BL, order_BL, index_BL), num_keys=2)
    one_BG = jnp.arange(1, G + 1)[None]

    def add(carry: Spans, opener_B: jax.Array) -> tuple[Spans, None]:
        scored_BL, owner_BL, room_BG = carry
        at_B1 = opener_B[:, None]
        segment_B1, word_B1, words_B1, opens_B1 = (
            jnp.take_along_axis(x, at_B1, axis=1) for x in (segment_ids_BL, word_BL, words_BL, first_BL)
        )
        here_BG = (one_BG == segment_B1) & opens_B1
        room_B1 = jnp.sum(here_BG * room_BG, axis=1, keepdims=True)
        inside_BL = (word_BL >= word_B1) & (word_BL < word_B1 + words_B1) & (segment_ids_BL == segment_B1)
        new_BL = inside_BL & ordinary_BL & ~scored_BL & opens_B1
        # A word fits if the count is not exceeded at its end.
        fits_BL = jnp.take_along_axis(jnp.cumsum(new_BL, axis=1), end_BL, axis=1) <= room_B1
        new_BL &= fits_BL
        taken_B1 = jnp.sum(new_BL, axis=1, keepdims=True)
        return (scored_BL | new_BL, jnp.where(new_BL, at_B1, owner_BL), room_BG - here_BG * taken_B1), None

    start = (jnp.zeros((B, L), bool), index_BL, counts_BG)
    (scored_BL, owner_BL, _), _ = jax.lax.scan(add, start, openers_BL.T)
    return scored_BL, owner_BL


def gather_scored(scored_BL: jax.Array, columns: int) -> tuple[jax.Array, jax.Array]:
    """Positions int32 [B, P] and weights float32 [B, P] of scored tokens, in the order of the row."""
    L = scored_BL.shape[1]
    index_BL = jnp.where(scored_BL, 0, L) + jnp.arange(L, dtype=jnp.int32)[None]
    positions_BP = jnp.sort(index_BL, axis=1)[:, :columns]
    return positions_BP % L, (positions_BP < L).astype(jnp.float32)


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


def share_of_bits(share: float) -> np.uint32:
    """Uniform 32-bit numbers below this are a share of them."""
    return np.uint32(min(round(share * 2**32), 2**32 - 1))


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
