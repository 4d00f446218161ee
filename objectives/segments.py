"""What belongs to the packed segments of a row: who is in one, its vector, its sums.

Shape suffixes: B rows, L tokens of a row, G segments of a row (index 0 is segment id 1), D model width.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Pooling = Literal["cls", "mean", "last"]


def is_layout(name: str) -> bool:
    """Whether an array says where texts lie: 0 there is padding, whatever stands in the other arrays."""
    return name == "segment_ids" or name.endswith("_segment_ids")


def membership(segment_ids_BL: jax.Array, segments: int) -> jax.Array:
    """bool[B, L, G]: whether a token lies in a segment."""
    return segment_ids_BL[..., None] == jnp.arange(1, segments + 1)[None, None, :]


def nan_if_crowded(x: jax.Array, segment_ids_BL: jax.Array, segments: int) -> jax.Array:
    """The same x, or NaN where a row holds more than so many segments: what is not scored must not pass for scored."""
    return jnp.where(jnp.max(segment_ids_BL) > segments, jnp.nan, x)


def over_segments(reduce: Callable[..., jax.Array], x_BL: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
    """For each token the reduction (jax.ops.segment_max, say) over its own segment, [B, L].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> ids = jnp.array([[1, 1, 2, 0]])
      >>> over_segments(jax.ops.segment_sum, jnp.array([[3, 4, 5, 6]]), ids).tolist()
      [[7, 7, 5, 6]]
    """
    length = segment_ids_BL.shape[1]

    def row(x_L: jax.Array, segment_ids_L: jax.Array) -> jax.Array:
        return reduce(x_L, segment_ids_L, num_segments=length + 1)[segment_ids_L]

    return jax.vmap(row)(x_BL, segment_ids_BL)


def pool(hidden_BLD: jax.Array, segment_ids_BL: jax.Array, segments: int, pooling: Pooling) -> jax.Array:
    """The first token of each segment ("cls"), its last ("last") or the mean over its tokens ("mean").

    Args:
      hidden_BLD: float[B, L, D].
      segment_ids_BL: int32[B, L], 0 is padding.
      segments: G.
      pooling: "cls", "last" or "mean".

    Returns:
      pooled_BGD in the dtype of hidden_BLD; zeros for segments that a row does not have.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden = jnp.array([[[1.0], [3.0], [5.0], [9.0]]])
      >>> ids = jnp.array([[1, 1, 2, 0]])
      >>> {how: pool(hidden, ids, 3, how)[0, :, 0].tolist() for how in ("mean", "cls", "last")}
      {'mean': [2.0, 5.0, 0.0], 'cls': [1.0, 5.0, 0.0], 'last': [3.0, 5.0, 0.0]}
    """
    member_BLG = membership(segment_ids_BL, segments)
    if pooling != "mean":
        length = member_BLG.shape[1]
        if pooling == "cls":
            place_BG = jnp.argmax(member_BLG, axis=1)
        else:
            place_BG = length - 1 - jnp.argmax(member_BLG[:, ::-1], axis=1)
        present_BG = jnp.any(member_BLG, axis=1)
        pooled_BGD = jnp.take_along_axis(hidden_BLD, place_BG[..., None], axis=1)
        return jnp.where(present_BG[..., None], pooled_BGD, 0)
    weights_BLG = member_BLG.astype(jnp.float32)
    total_BGD = jnp.einsum("BLG,BLD->BGD", weights_BLG, hidden_BLD, preferred_element_type=jnp.float32)
    count_BG = jnp.sum(weights_BLG, axis=1)
    return (total_BGD / jnp.maximum(count_BG, 1)[..., None]).astype(hidden_BLD.dtype)


def label_weights(labels_BG: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
    """float32[B, G]: 1 where a segment is there and has a label (not -1)."""
    present_BG = jnp.any(membership(segment_ids_BL, labels_BG.shape[1]), axis=1)
    return ((labels_BG >= 0) & present_BG).astype(jnp.float32)
