"""Matrix products that a CPU is as fast at backwards as forwards, in bfloat16 too.

XLA has a fast product of bfloat16 matrices on CPUs with AVX512-BF16, but takes it only where the sum is asked for in
float32 and both matrices lie in memory as they are read; all others it converts to float32 first. The products that
autodiff writes for a gradient are of the other kind; here both directions are of the first. Measured on 2 cores of an
AMD EPYC (2026-11-21, jax 0.10.2), GFLOP/s at R=4096, D=256, F=1024: x @ kernel in bfloat16 177, here 400; its
kernel's gradient 120, here 307; float32 never above 205. Accelerators need none of this and get x @ kernel.

Shape suffixes: R rows (batch and positions as one axis), D inputs, F outputs.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.platform import platform

PRODUCT = "product"
"""Name by which a remat policy that keeps products finds those that are hidden in a custom rule."""

Residuals = tuple[jax.Array, jax.Array, jax.Array | None]


def affine(x_RD: jax.Array, kernel_DF: jax.Array, bias_F: jax.Array | None) -> jax.Array:
    """The product x @ kernel + bias in their common dtype; on CPU in reverse mode only."""
    if platform() == "cpu":
        return checkpoint_name(_affine(x_RD, kernel_DF, bias_F), PRODUCT)
    y_RF = x_RD @ kernel_DF
    return y_RF if bias_F is None else y_RF + bias_F[None, :]


def product(subscripts: str, one: jax.Array, other: jax.Array) -> jax.Array:
    """The einsum of two matrices, summed and handed back in float32: "RD,DF->RF" and "RF,DF->RD" are the fast ones."""
    if platform() != "cpu":
        return jnp.einsum(subscripts, one, other, preferred_element_type=jnp.float32)
    # Between barriers no transpose and no reduction is folded into the product, which would be a slow one then, or
    # one that XLA finds too late that it cannot do ("Unsupported element type for DotThunk").
    one, other = jax.lax.optimization_barrier((one, other))
    return jax.lax.optimization_barrier(
        jnp.einsum(subscripts, one, other, preferred_element_type=jnp.float32)
    )


def sum_of_outer_products(x_RD: jax.Array, y_RF: jax.Array) -> jax.Array:
    """The product of x transposed and y in float32: the gradient of a kernel."""
    if platform() != "cpu":
        return jnp.einsum("RD,RF->DF", x_RD, y_RF, preferred_element_type=jnp.float32)
    # The axis more makes XLA store the transpose; else it would only note that x is to be read the other way round.
    x_DR = jax.lax.optimization_barrier(x_RD.T[:, :, None])[:, :, 0]
    return product("DR,RF->DF", x_DR, y_RF)


def sum_of_rows(y_RF: jax.Array) -> jax.Array:
    """The sum over rows in float32: the gradient of a bias."""
    if platform() != "cpu":
        return jnp.sum(y_RF, axis=0, dtype=jnp.float32)
    # As a product: column sums took 160 of a GPT-mini step's 1,400 ms (2026-11-21, two cores).
    ones_NR = jnp.ones((8, y_RF.shape[0]), y_RF.dtype)
    return product("NR,RF->NF", ones_NR, y_RF)[0]


@jax.custom_vjp
def _affine(x_RD: jax.Array, kernel_DF: jax.Array, bias_F: jax.Array | None) -> jax.Array:
    y_RF = product("RD,DF->RF", x_RD, kernel_DF)
    if bias_F is not None:
        y_RF = y_RF + bias_F.astype(jnp.float32)[None, :]
    return y_RF.astype(x_RD.dtype)


def _forward(x_RD: jax.Array, kernel_DF: jax.Array, bias_F: jax.Array | None) -> tuple[jax.Array, Residuals]:
    return _affine(x_RD, kernel_DF, bias_F), (x_RD, kernel_DF, bias_F)


def _backward(residuals: Residuals, d_y_RF: jax.Array) -> Residuals:
    x_RD, kernel_DF, bias_F = residuals
    d_x_RD = product("RF,DF->RD", d_y_RF, kernel_DF).astype(x_RD.dtype)
    d_kernel_DF = sum_of_outer_products(x_RD, d_y_RF).astype(kernel_DF.dtype)
    d_bias_F = None if bias_F is None else sum_of_rows(d_y_RF).astype(bias_F.dtype)
    return d_x_RD, d_kernel_DF, d_bias_F


_affine.defvjp(_forward, _backward)
