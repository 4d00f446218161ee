"""Whole words and spans of them, as a masked language model scores them.

Shape suffixes: B rows, L tokens of a row, G packed segments of a row (index 0 is segment id 1), P scored positions of a
row.
"""

import jax
import jax.numpy as jnp

Spans = tuple[jax.Array, jax.Array, jax.Array]
"""(bool [B, L] what is scored, int32 [B, L] the opener of its span, int32 [B, G] how many more tokens fit)."""


def first_tokens(word_starts_BL: jax.Array, segment_ids_BL: jax.Array, ordinary_BL: jax.Array) -> jax.Array:
    """Whether an ordinary token opens a word, bool [B, L]: also what a segment or a special token cuts off does."""
    goes_on_BL = (segment_ids_BL[:, 1:] == segment_ids_BL[:, :-1]) & ordinary_BL[:, :-1]
    cut_off_BL = jnp.pad(~goes_on_BL, ((0, 0), (1, 0)), constant_values=True)
    return ordinary_BL & ((word_starts_BL > 0) | cut_off_BL)


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
