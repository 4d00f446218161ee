"""Products that take a CPU's fast bfloat16 path in both directions: right at every shape, under every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.platform import compiling_for
from model.product import affine, product, sum_of_outer_products

SHAPES = [(1, 1, 1), (1, 64, 9), (33, 1, 64), (33, 7, 1), (64, 64, 64), (33, 9, 7)]


def transposed(x):
    return jnp.swapaxes(x, -1, -2)


def arguments(shape, dtype, *batch):
    R, D, F = shape
    random = np.random.default_rng([R, D, F])
    shapes = ((R, D), (D, F), (F,), (R, F))
    return tuple(jnp.asarray(random.normal(size=batch + one), dtype) for one in shapes)


def computed(x_RD, kernel_DF, bias_F, d_y_RF):
    """What a model has of products, each followed by what XLA might fold into it."""
    y_RF, pull = jax.vjp(affine, x_RD, kernel_DF, bias_F)
    d_x_RD, d_kernel_DF, d_bias_F = pull(d_y_RF)
    floats = (
        product("RD,DF->RF", x_RD, kernel_DF),
        product("RF,DF->RD", d_y_RF, kernel_DF),
        sum_of_outer_products(x_RD, d_y_RF),
    )
    return *map(transposed, (y_RF, d_x_RD, d_kernel_DF, *floats)), d_bias_F


def expected(x_RD, kernel_DF, bias_F, d_y_RF):
    x, kernel, bias, d_y = (np.asarray(a, np.float64) for a in (x_RD, kernel_DF, bias_F, d_y_RF))
    y, d_x, d_kernel = x @ kernel, d_y @ transposed(kernel), transposed(x) @ d_y
    return *map(transposed, (y + bias[..., None, :], d_x, d_kernel, y, d_x, d_kernel)), d_y.sum(-2)


def assert_close(found, wanted, dtype):
    rounded = (True,) * 3 + (False,) * 3 + (True,)
    for one, other, in_dtype in zip(found, wanted, rounded, strict=True):
        assert one.dtype == (dtype if in_dtype else jnp.float32)
        # Sums run in float32, so that bfloat16 rounds nothing but the result; atol where a sum cancels.
        rtol = 2**-8 if one.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=["plain", "vmap"])
def test_products_and_gradients_at_every_shape(dtype, batch, optimized):
    run = jax.jit(jax.vmap(computed) if batch else computed, compiler_options=optimized)
    for shape in SHAPES:
        given = arguments(shape, dtype, *batch)
        assert_close(run(*given), expected(*given), dtype)


@pytest.mark.parametrize("rows, inputs, outputs", [("a", None, None), (None, "a", "b"), ("a", None, "b")])
def test_products_split_over_devices(rows, inputs, outputs, optimized):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = ((rows, inputs), (inputs, outputs), (outputs,), (rows, outputs))
    given = arguments((32, 64, 16), jnp.bfloat16)
    placed = [
        jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec))) for x, spec in zip(given, specs, strict=True)
    ]
    run = jax.jit(computed, compiler_options=optimized)
    assert_close(run(*placed), expected(*given), jnp.bfloat16)


def test_an_accelerator_gets_the_plain_product():
    given = arguments((4, 8, 16), jnp.float32)
    with compiling_for("tpu"):
        there = str(jax.make_jaxpr(lambda *a: computed(*a))(*given))
        assert_close(computed(*given), expected(*given), jnp.float32)
    here = str(jax.make_jaxpr(lambda *a: computed(*a))(*given))
    assert "optimization_barrier" in here and "optimization_barrier" not in there


def test_frozen_kernels_cost_no_product():
    """XLA drops what no one reads: a kernel that is not trained has no gradient computed for it."""
    x_RD, kernel_DF, bias_F, d_y_RF = arguments((64, 64, 64), jnp.float32)

    def pulled(x_RD):
        return jax.vjp(lambda x: affine(x, kernel_DF, bias_F), x_RD)[1](d_y_RF)

    assert jax.jit(pulled).lower(x_RD).compile().as_text().count(" dot(") == 1
