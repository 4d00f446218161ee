"""Random bits that belong to a row: one key of a batch that holds a key for each of its rows.

Such a key folds and splits like any other, so modules need not know of rows. What is drawn from it for an array [B, ...]
gives each row what its own key says: the bits depend on that key and on the place within the row, and so not on the rows
beside it, the number of devices, or how a mesh splits any of the axes.

Two generators: "threefry" draws as `jax.random.bits` does; "hash" mixes the place within the row with the two words of the
row's key, and costs a small part of that. Keys are folded by threefry with both.

Shape suffixes: B rows, S keys that a key is split into.
"""

import functools
from collections.abc import Hashable
from typing import Any, Literal

import jax
import jax.extend.random
import jax.numpy as jnp
from flax import linen as nn

Generator = Literal["hash", "threefry"]


def row_keys(rng: jax.Array, example_ids_B: jax.Array, generator: Generator) -> jax.Array:
    """A key (shape []) of which each row's own key is that of its example.

    Args:
      rng: key of the step, of any implementation.
      example_ids_B: int32.
      generator: how bits are drawn.

    Example:
      The third row of one batch draws what the first of another does, which holds the same example:

      >>> import jax, jax.numpy as jnp
      >>> draw = lambda ids: jax.random.bits(row_keys(jax.random.key(0), jnp.array(ids), "hash"), (len(ids), 4))
      >>> bool(jnp.all(draw([5, 6, 7])[2] == draw([7, 8])[0]))
      True
    """
    # Threefry whatever the run's keys are: the hardware generators do not draw under vmap what each key would draw alone.
    root = _threefry(jax.random.bits(rng, (2,), jnp.uint32))
    keys_B2 = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(root, i)))(example_ids_B)
    return jax.random.wrap_key_data(keys_B2, impl=_implementation(keys_B2.shape[0], generator))


def apply_by_row(
    module: nn.Module,
    variables: Any,
    *args: Any,
    rng: jax.Array | None,
    example_ids_B: jax.Array | None,
    generator: Generator,
    method: Any = None,
) -> Any:
    """What the module gives, where dropout is on iff there is a key, and drawn for each row.

    Args:
      module: what is called.
      variables: as of `module.apply`.
      *args: what it is called with.
      rng: key of the step and of this module.
      example_ids_B: int32; without them the first module that drops something refuses.
      generator: how bits are drawn.
      method: as of `module.apply`.
    """
    if rng is None:
        return module.apply(variables, *args, method=method)
    key = rng if example_ids_B is None else row_keys(rng, example_ids_B, generator)
    return module.apply(variables, *args, rngs={"dropout": key}, method=method)


def hash_bits(keys_B2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    r"""Uniform bits uint32[shape], shape[0] = B, by two rounds of murmur3's finaliser :math:`m`.

    .. math:: b_{r,p} = m(m(p \oplus k_{r,0}) + k_{r,1})

    with p the place within the row, counted over its axes as if they were one. With one word of key two rows would hold the
    same numbers in another order; the second word keeps them apart.

    Example:
      >>> import jax.numpy as jnp
      >>> hash_bits(jnp.array([[1, 2]], jnp.uint32), (1, 2)).tolist()
      [[664193924, 821347078]]
    """
    place, stride = jnp.zeros(shape[1:], jnp.uint32), 1
    # A sum of one count for each axis: a mesh that splits an axis then counts on from where its part begins.
    for axis in reversed(range(len(shape) - 1)):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis) * jnp.uint32(stride)
        stride *= shape[1 + axis]
    if stride > 2**32:
        raise ValueError(f"a row of {shape[1:]} holds more than 2**32 values: draw with threefry")
    first, second = (keys_B2[:, word].reshape(-1, *(1,) * (len(shape) - 1)) for word in (0, 1))
    return _mix(_mix(place[None] ^ first) + second)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _threefry(key_data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(key_data, impl="threefry2x32")


@functools.cache
def _implementation(rows: int, generator: Generator) -> Hashable:
    """What JAX must know to draw from, split and fold a key of so many rows: it is an array uint32[B, 2] inside."""

    def seed(_: jax.Array) -> jax.Array:
        raise TypeError("a key of rows is made of an example id for each row: use row_keys")

    def fold_in(keys_B2: jax.Array, data: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.key_data(jax.random.fold_in(_threefry(key), data)))(keys_B2)

    def split(keys_B2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        split_BS2 = jax.vmap(lambda key: jax.random.key_data(jax.random.split(_threefry(key), shape)))(
            keys_B2
        )
        return jnp.moveaxis(split_BS2, 0, -2)

    def random_bits(keys_B2: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
        if shape[:1] != (rows,):
            raise ValueError(f"keys of {rows} rows cannot draw for an array of shape {shape}")
        if bit_width > 32:
            raise ValueError(f"keys of rows draw at most 32 bits a value, not {bit_width}")
        if generator == "hash":
            bits = hash_bits(keys_B2, shape)
        else:
            bits = jax.vmap(lambda key: jax.random.bits(_threefry(key), shape[1:], jnp.uint32))(keys_B2)
        return (bits >> jnp.uint32(32 - bit_width)).astype(f"uint{bit_width}")

    return jax.extend.random.define_prng_impl(
        key_shape=(rows, 2),
        seed=seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name=f"{generator}_of_{rows}_rows",
        tag=f"{generator}{rows}",
    )
