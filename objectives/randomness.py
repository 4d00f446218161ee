"""Random bits that belong to a token of an example, so that no launcher, split or packing can change them.

Shape suffixes: B rows, L tokens of a row.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def example_bits(rng: jax.Array, example_ids_B: jax.Array) -> jax.Array:
    """Uniform bits of each example, uint32[B]: those of a token that no segment has."""
    alone_B1 = jnp.zeros((example_ids_B.shape[0], 1), jnp.int32)
    batch = {"example_ids": example_ids_B, "segment_ids": alone_B1, "positions": alone_B1}
    return token_bits(rng, batch, 1)[:, 0, 0]


def token_bits(rng: jax.Array, batch: Mapping[str, jax.Array], draws: int) -> jax.Array:
    r"""Independent uniform bits per token, from what identifies the token and nothing else.

    .. math:: b_{i,s,p} = \mathrm{bits}(\mathrm{fold}(\mathrm{fold}(\mathrm{fold}(r, i), s), p))

    with example id i, segment id s and position p within the segment. So the bits of a token do not depend on
    the row it lies in, the rows beside it, its packed neighbours, the padding, or L.

    Args:
      rng: key of the step (typed key of any implementation).
      batch: needs example_ids int32[B], segment_ids int32[B, L], positions int32[B, L].
      draws: how many numbers each token needs; asking for more does not change the first ones.

    Returns:
      uint32[B, L, draws].

    Example:
      A row of two segments, and the same second segment alone in a longer row elsewhere in another batch:

      >>> import jax, jax.numpy as jnp, numpy as np
      >>> here = {"example_ids": jnp.array([3, 7]), "segment_ids": jnp.array([[1, 1, 1, 1], [1, 1, 2, 2]]),
      ...         "positions": jnp.array([[0, 1, 2, 3], [0, 1, 0, 1]])}
      >>> there = {"example_ids": jnp.array([7]), "segment_ids": jnp.array([[2, 2, 0, 0, 0]]),
      ...          "positions": jnp.array([[0, 1, 0, 0, 0]])}
      >>> key = jax.random.key(0)
      >>> bool(jnp.all(token_bits(key, here, 1)[1, 2:] == token_bits(key, there, 3)[0, :2, :1]))
      True
    """
    if draws < 1:
        raise ValueError(f"draws {draws} is below 1")
    # Under vmap the hardware generators (rbg) do not draw what each key would draw alone; threefry does.
    root = jax.random.wrap_key_data(jax.random.bits(rng, (2,), jnp.uint32), impl="threefry2x32")

    def bits(example_id: jax.Array, segment_id: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(root, example_id), segment_id), position
        )
        # One fold per draw: the first draws are then the same whatever the number of draws.
        return jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i))[0])(jnp.arange(draws))

    over_tokens = jax.vmap(bits, in_axes=(None, 0, 0))
    return jax.vmap(over_tokens)(batch["example_ids"], batch["segment_ids"], batch["positions"])
