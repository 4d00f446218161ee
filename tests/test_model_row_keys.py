"""Dropout's bits: who draws what, and whether chance could have drawn it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from model.bert import BertConfig
from model.layers import Dropout
from model.network import Network
from model.row_keys import row_keys
from tests.tiny import RaggedStream

GENERATORS = ("hash", "threefry")
KEY = jax.random.key(3)
FIVE_DEVIATIONS = 5.0


def kept(key, shape, rate=0.1):
    """What dropout keeps."""
    return np.asarray(jax.random.bits(key, shape, jnp.uint32) < jnp.uint32(round((1 - rate) * 2**32)))


def deviations(one, other):
    """How many standard deviations the correlation of two masks is away from none."""
    one, other = (x.astype(np.float64).ravel() - x.mean() for x in (one, other))
    return abs(np.mean(one * other)) / (one.std() * other.std()) * one.size**0.5


def pairs(generator, shape):
    """Masks that must know nothing of each other, by what tells them apart."""

    def draw(ids, key=KEY, *folds):
        keys = row_keys(key, ids, generator)
        for fold in folds:
            keys = jax.random.fold_in(keys, fold)
        return kept(keys, (len(ids), *shape))

    ids = jnp.arange(64)
    mask = draw(ids)
    first, second = jax.random.split(row_keys(KEY, ids, generator))
    yield "neighbours in the last axis", mask[..., 1:], mask[..., :-1]
    yield "neighbours in the first axis", mask[:, 1:], mask[:, :-1]
    yield "consecutive examples", mask, draw(ids + 1)
    yield "examples 2**16 apart", mask, draw(ids + 2**16)
    yield "consecutive steps", mask, draw(ids, jax.random.fold_in(KEY, 1))
    yield "places in the network", draw(ids, KEY, 0), draw(ids, KEY, 1)
    yield "layers of a scan", kept(first, mask.shape), kept(second, mask.shape)


def check_share(mask, rate):
    """Chi-square with one degree of freedom: its root is a number of standard deviations."""
    assert abs(mask.mean() - (1 - rate)) < FIVE_DEVIATIONS * (rate * (1 - rate) / mask.size) ** 0.5


@pytest.mark.parametrize("generator", GENERATORS)
def test_nothing_tells_masks_from_chance(generator):
    for name, one, other in pairs(generator, (64, 128)):
        assert deviations(one, other) < FIVE_DEVIATIONS, name
    for rate in (0.01, 0.1, 0.5):
        check_share(kept(row_keys(KEY, jnp.arange(32), generator), (32, 64, 128), rate), rate)


@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
def test_nor_do_they_in_a_hundred_million(generator):
    for name, one, other in pairs(generator, (1024, 1536)):
        assert deviations(one, other) < FIVE_DEVIATIONS, name
    check_share(kept(row_keys(KEY, jnp.arange(64), generator), (64, 1024, 1536)), 0.1)


def test_a_row_is_no_other_order_of_another():
    bits = np.asarray(jax.random.bits(row_keys(KEY, jnp.arange(8), "hash"), (8, 4096), jnp.uint32))
    assert len(np.unique(bits)) > 8 * 4096 - 4  # 0.1 collisions are expected, rows of one set would share all


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("spec", [("rows", None, None), (None, "rows", None), (None, None, "rows")])
def test_a_mesh_that_splits_an_axis_draws_what_the_whole_would(generator, spec):
    mesh = jax.make_mesh((8,), ("rows",))
    ids, shape = jnp.arange(8) + 5, (8, 16, 24)

    def draw(ids):
        return jax.random.bits(row_keys(KEY, ids, generator), shape, jnp.uint32)

    split = jax.jit(draw, out_shardings=NamedSharding(mesh, PartitionSpec(*spec)))(ids)
    assert not split.sharding.is_fully_replicated
    np.testing.assert_array_equal(split, draw(ids))


@pytest.mark.parametrize("width", [301, 302])
def test_dropout_keeps_its_share_and_scales_up_the_rest(width):
    key = row_keys(KEY, jnp.arange(20), "hash")
    dropped = np.asarray(Dropout(0.1).apply({}, jnp.ones((20, 50, width)), rngs={"dropout": key}))
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.9, rtol=1e-6)
    check_share(dropped > 0, 0.1)


def test_a_network_without_example_ids_is_refused():
    config = BertConfig(vocab_size=50, layers=1, width=16, heads=2, mlp_width=32, max_positions=32)
    network = Network(config.build())
    batch = {k: v for k, v in RaggedStream().batch(0).items() if k != "example_ids"}
    bound = network.bind(network.init(KEY), KEY)
    with pytest.raises(
        ValueError, match=r"dropout 0\.1 of an array .* one for all: give encode, decode and head"
    ):
        bound.encode(batch)
    network.bind(bound.params).encode(batch)  # without a key nothing is dropped


def test_a_module_of_flax_draws_by_example_too():
    module = nn.Dropout(0.5, deterministic=False)

    def drop(ids):
        x_BD = jnp.ones((len(ids), 64))
        return module.apply({}, x_BD, rngs={"dropout": row_keys(KEY, jnp.array(ids), "hash")})

    np.testing.assert_array_equal(drop([4, 9])[1], drop([9, 1, 2])[0])


def test_keys_of_rows_refuse_what_is_not_theirs():
    key = row_keys(KEY, jnp.arange(2), "hash")
    with pytest.raises(ValueError, match=r"keys of 2 rows cannot draw for an array of shape \(3, 4\)"):
        jax.random.bits(key, (3, 4))
